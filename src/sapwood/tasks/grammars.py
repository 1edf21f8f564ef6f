"""Which answers a decoder may write: grammars in which every quoted string is words of the text.

They are in llguidance's dialect of Lark. Its substring expression is an automaton over pieces of
the text (words; single characters where writing has no spaces), so an answer that follows the
grammar parses, and each string in it aligns. An answer may begin with a space and end with a line
break: both belong to how it stands between a prompt and what a base writes after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from sapwood.interfaces import Schema
from sapwood.tasks.alignment import cuts_word
from sapwood.tasks.kinds import ONE_LABEL
from sapwood.tasks.written import NONE, RESERVED, ROLE_RESERVED, escape, name

_START = 'start: " "? answer TAIL?\nTAIL: /\\n\\n?/\n'
_MARK = "MARK: /#[1-9][0-9]{0,2}/\n"
# Quoted words neither begin nor end with white space; line breaks are written as \n and \r there.
_TRIMMED = r"/(?s:\S|\S.*\S)/ & ~/(?s:\\[nr].*|(.*[^\\])?(\\\\)*\\[nr])/"


def grammar(task: str, text: str, schema: Schema, *, marks: bool = True) -> str:
    """Return the grammar of answers to `text`, "" for a task whose answers are free.

    `marks`: whether quoted words may say which of several places they mean. A classification is
    one of `schema.types`, multi-label several; other answers are frames of these types. Without
    types there is one answer, none.
    """
    if task in ONE_LABEL:
        return f"{_START}answer: LABEL\nLABEL: {_choice(schema.types)}\n"
    if task == "multi-label":
        names = [name(label, RESERVED[task]) for label in schema.types]
        return _listed("LABEL", [f"LABEL: {_choice(names)}\n"] if names else [])
    if task not in RESERVED:
        return ""
    pieces = chunks(text)
    quotes = any(piece.strip() for piece in pieces)
    if not schema.types or not (quotes or (task == "events" and not schema.heads)):
        return _listed("", [])
    rules = []
    if quotes:
        listed = json.dumps({"substring_chunks": [escape(piece) for piece in pieces]})
        rules += [f"WORDS: %regex {listed}\n", f'QUOTED: "\\"" (WORDS & {_TRIMMED}) "\\""\n']
        rules += [f"quoted: QUOTED{' MARK?' if marks else ''}\n", _MARK if marks else ""]
    names = [name(label, RESERVED[task]) for label in schema.types]
    if task == "entities":
        rules.append(f"item: TYPE quoted\nTYPE: {_choice(names, after=': ')}\n")
    elif task == "relations":
        rules.append(f"item: quoted NAME quoted\nNAME: {_choice(names, before=' ', after=' ')}\n")
    else:
        rules.append(_events(schema, quotes))
    return _listed("item", rules)


def chunks(text: str) -> list[str]:
    """Return the pieces at whose edges quoted words may begin and end; together they are `text`.

    >>> chunks("In 东京, no-one")
    ['In', ' ', '东', '京', ',', ' ', 'no', '-', 'one']
    """
    found, start = [], 0
    for at in range(1, len(text) + 1):
        if at == len(text) or not cuts_word(text, at):
            found.append(text[start:at])
            start = at
    return found


def _listed(item: str, rules: Sequence[str]) -> str:
    """Return the grammar of a list of items, or of none."""
    several = f' | {item} ("; " {item})*' if rules else ""
    return f'{_START}answer: "{NONE}"{several}\n' + "".join(rules)


def _events(schema: Schema, quotes: bool) -> str:
    """Return the rules of events, types with the same roles in one rule.

    What follows a type or a role belongs to its terminal: one may begin another ("attack" and
    "attack / bombing"), and the lexer always takes the longest.
    """
    alike: dict[tuple[str, ...], list[str]] = {}
    for label in schema.types:
        alike.setdefault(tuple(schema.roles.get(label, ())), []).append(label)
    heads = []
    rules = []
    for number, (roles, types) in enumerate(alike.items()):
        names = [name(label, RESERVED["events"]) for label in types]
        args = f'argument{number} ("; " argument{number})* ")"'
        asks = bool(roles) and quotes
        if schema.heads:
            rule = f"TYPE{number} quoted" + (f' (" (" {args})?' if asks else "")
            rules.append(f"TYPE{number}: {_choice(names, after=' ')}\n")
        else:
            rule = f"TYPE{number}" + (f" | OPEN{number} {args}" if asks else "")
            rules.append(f"TYPE{number}: {_choice(names)}\n")
            if asks:
                rules.append(f"OPEN{number}: {_choice(names, after=' (')}\n")
        rules.append(f"event{number}: {rule}\n")
        if asks:
            said = [name(role, ROLE_RESERVED) for role in roles]
            rules.append(f"argument{number}: ROLE{number} quoted\n")
            rules.append(f"ROLE{number}: {_choice(said, after=': ')}\n")
        heads.append(f"event{number}")
    return f"item: {' | '.join(heads)}\n" + "".join(rules)


def _choice(words: Iterable[str], *, before: str = "", after: str = "") -> str:
    """Return a terminal that is one of `words`, between what stands before and after."""
    options = " | ".join(_literal(before + word + after) for word in words)
    return f"({options})" if options else _literal(NONE)


def _literal(words: str) -> str:
    return json.dumps(words, ensure_ascii=False)
