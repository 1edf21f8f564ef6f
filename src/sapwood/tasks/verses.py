"""Poems that a decoder may write under a form: regulated verse as a grammar.

Counts of lines and characters, rhyme and tones all hold in what follows the grammar (llguidance's
Lark, see `models.grammar`). Lines without their last character are regular expressions, with
classes of characters where a tone is asked for; which ends belong together is left to the parser,
one alternative a rhyme group. In quatrains the fourth line ends in another character than the
second: a group's characters lie in `_PARTS` parts, and the later one comes from another part, which
bars a few good rhymes with the bad ones. Among the four ends of eight lines one may come twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from sapwood.tasks.forms import form_named
from sapwood.tasks.regulated import OTHER, Regulated
from sapwood.tasks.rhymebook import LEVEL, characters

# Marks that may close an odd line, an even one; a line break may follow, but for the last line.
ODD, EVEN = "，；。？！", "。？！；"
_COMMON = ("\u4e00", "\u9fff")  # the block of common characters: what tokenizers write whole
_QUATRAIN = 4
# With 8 parts one rhyme in eight is barred beside the same character; alternatives cost time.
_PARTS = 8
_CLASSES = {None: "ANY", "level": "LEVEL", "oblique": "OBLIQUE"}
_MARKS = ("ODD", "EVEN")


@cache
def verse_grammar(name: str) -> str:
    """Return the grammar of poems of the form `name`, one of regulated verse, in Lark.

    Raises ResourceError (E-RESOURCE-040) without the packages of readings.
    """
    form = form_named(name)
    assert isinstance(form, Regulated), "other forms have no grammar"
    known = {c: own for c, own in characters().items() if _COMMON[0] <= c <= _COMMON[1]}
    level = set(LEVEL)
    groups = [[char for char in known if group in known[char]] for group in LEVEL]
    rules = [
        'start: " "? (' + " | ".join(f"from_{start}" for start in OTHER) + ") TAIL?",
        "TAIL: /\\n\\n?/",
        f"ANY: {_class(known)}",
        f"LEVEL: {_class(char for char, own in known.items() if own & level)}",
        f"OBLIQUE: {_class(char for char, own in known.items() if own - level)}",
        f"ODD: /[{ODD}]\\n?/",
        f"EVEN: /[{EVEN}]\\n?/",
        f"END: /[{EVEN}]/",
    ]
    for number, group in enumerate(groups):
        rules.append(f"R{number}: {_class(group)}")
        for part in range(_PARTS if form.lines == _QUATRAIN else 0):
            own = [char for char in group if ord(char) % _PARTS == part]
            rules.append(f"R{number}_{part}: {_class(own)}")
            rules.append(f"R{number}_NOT_{part}: {_class(set(group) - set(own))}")
    for start in OTHER:
        rules += _poems(form, start)
    return "\n".join([*rules, ""])


def _poems(form: Regulated, start: str) -> list[str]:
    """Return the rules of poems whose second character has the tone `start`."""
    pattern = form.pattern(start, rhymed=False)
    bodies = {
        rule[1]: " ".join(_CLASSES[rule.get(at)] for at in range(form.characters - 1))
        for rule in pattern
    }
    own = {tone: f"{start.upper()}_{tone.upper()}" for tone in bodies}
    rules = [f"{own[tone]}: {body}" for tone, body in bodies.items()]
    lines = [own[rule[1]] for rule in pattern]
    first, second = lines[0], lines[1]
    rests = [f"from_{start}_{number}" for number in range(len(LEVEL))]
    rules += [f"{rest}: {_rest(form, lines, number)}" for number, rest in enumerate(rests)]
    rhymed = " | ".join(f"R{number} ODD {second} {rest}" for number, rest in enumerate(rests))
    plain = f"OBLIQUE ODD {second} ({' | '.join(rests)})"
    return [*rules, f"from_{start}: {first} ({plain} | {rhymed})"]


def _rest(form: Regulated, lines: Sequence[str], group: int) -> str:
    """Return a poem of one rhyme group from the end of its second line on."""
    later = []
    for number in range(2, form.lines):
        last = f"R{group}{{not_}}" if number % 2 else "OBLIQUE"
        later.append(f"{lines[number]} {last} {_MARKS[number % 2]}")
    whole = f"R{group}{{part}} EVEN {' '.join(later)}"
    whole = whole.removesuffix("EVEN") + "END"
    if form.lines > _QUATRAIN:
        return whole.format(part="", not_="")
    parts = (whole.format(part=f"_{n}", not_=f"_NOT_{n}") for n in range(_PARTS))
    return " | ".join(parts)


def _class(chars: Iterable[str]) -> str:
    """Return a class of characters as a regular expression, runs as ranges.

    >>> _class("一丁丂七x")
    '/[x一-七]/'
    """
    runs: list[list[str]] = []
    for char in sorted(set(chars)):
        if runs and ord(char) == ord(runs[-1][1]) + 1:
            runs[-1][1] = char
        else:
            runs.append([char, char])
    inside = (a if a == b else a + b if ord(b) - ord(a) == 1 else f"{a}-{b}" for a, b in runs)
    return f"/[{''.join(inside)}]/"
