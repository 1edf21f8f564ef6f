"""Conversations as a base reads them, and where in them its answers stand.

The base's own chat template is used where its tokenizer has one; a base without one sees a plain
dialogue. Where answers stand is found by rendering beginnings of the conversation, each of which
must be a beginning of the whole; the `{% generation %}` marks that most templates lack are not
asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sapwood.context.template import is_chinese
from sapwood.errors import DataError
from sapwood.interfaces import Turn

# Tokens that end a turn in the templates of common kinds.
_ENDS = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>", "<|endoftext|>")
_SPEAKERS = {"en": ("User: ", "Assistant:"), "zh": ("用户：", "助手：")}
_SHOWN = 40  # characters of each side where two renderings part


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A rendered conversation: its text, and the characters of each answer with what ends it.

    `closed`: whether the last answer ends in the text itself (a chat template does that).
    """

    text: str
    answers: tuple[tuple[int, int], ...]
    closed: bool = True


def end_ids(tokenizer: Any, named: int | Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the tokens that end an answer: the tokenizer's, those of templates, and `named`.

    `named`: what the base's generation config calls its end.
    """
    found = {tokenizer.eos_token_id}
    found |= set(named) if isinstance(named, Sequence) else {named}
    known = tokenizer.get_vocab()
    found |= {known.get(end) for end in _ENDS}
    return tuple(sorted(int(token) for token in found if token is not None))


def parting(tokenizer: Any, separator: str) -> tuple[int, ...]:
    """Return the token that parts examples, which ends an answer too; () where it is none alone."""
    ids = tokenizer(separator, add_special_tokens=False, verbose=False)["input_ids"]
    return tuple(map(int, ids)) if len(ids) == 1 else ()


def next_speakers(tokenizer: Any) -> tuple[str, ...]:
    """Return the words that end an answer in a plain dialogue, none under a chat template.

    A base without a template goes on with the next speaker's name where its answer is over.
    """
    if tokenizer.chat_template is not None:
        return ()
    return tuple(f"\n{name.rstrip()}" for names in _SPEAKERS.values() for name in names)


def render(tokenizer: Any, turns: Sequence[Turn], *, ask: bool) -> str:
    """Return the conversation as the base reads it; with `ask`, up to where an answer begins.

    Raises DataError (E-TPL-003) when the base's template refuses it.
    """
    if tokenizer.chat_template is None:
        return _dialogue(turns, _speakers(turns), ask=ask)
    given = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        return str(_templated(tokenizer, given, ask))
    except Exception:  # the template is the base's own program: some refuse system words
        try:
            return str(_templated(tokenizer, _without_system(given), ask))
        except Exception as error:
            raise DataError(
                "E-TPL-003",
                f"The base's chat template refuses a conversation of the roles "
                f"{', '.join(turn.role for turn in turns)}: {error}",
                fix="let user and assistant take turns, the user first",
            ) from error


def spoken(tokenizer: Any, turns: Sequence[Turn], which: str) -> Spoken:
    """Return a conversation with its answers: "all" of them, or the "last" turn.

    An assistant's words before any user's answer nothing and are not among them. Raises DataError:
    E-TPL-002 the template writes a turn otherwise once others follow, E-TPL-003 it refuses them.
    """
    places = [
        place
        for place, turn in enumerate(turns)
        if turn.role == "assistant" and any(t.role == "user" for t in turns[:place])
    ]
    if which == "last":
        places = [place for place in places if place == len(turns) - 1]
    whole = render(tokenizer, turns, ask=False)
    found = []
    for place in places:
        before = render(tokenizer, turns[:place], ask=True)
        after = (
            whole if place == len(turns) - 1 else render(tokenizer, turns[: place + 1], ask=False)
        )
        for part in (before, after):
            _check_beginning(part, whole, place, which)
        found.append((len(before), _end(tokenizer, turns, place, after)))
    return Spoken(text=whole, answers=tuple(found), closed=tokenizer.chat_template is not None)


def shorter(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return the turns without the first exchange; unchanged where only one is left.

    System words stay; what is left begins with a user's words and ends as before.
    """
    system = tuple(turn for turn in turns if turn.role == "system")
    rest = [turn for turn in turns if turn.role != "system"]
    users = [place for place, turn in enumerate(rest) if turn.role == "user"]
    later = [place for place in users if place > 0]
    return (*system, *rest[later[0] :]) if later else tuple(turns)


def _end(tokenizer: Any, turns: Sequence[Turn], place: int, after: str) -> int:
    """Return where the answer ends; in a plain dialogue the next speaker's name ends it."""
    if tokenizer.chat_template is not None:
        return len(after)
    if place + 1 < len(turns) and turns[place + 1].role == "user":
        return len(after) + len(_speakers(turns)[0].rstrip())
    return len(after.rstrip("\n"))


def _check_beginning(part: str, whole: str, place: int, which: str) -> None:
    if whole.startswith(part):
        return
    pairs = zip(part, whole, strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(part), len(whole)))
    late = which == "all"
    raise DataError(
        "E-TPL-002",
        f"The base's chat template writes turn {place + 1} otherwise once more turns follow, so "
        "its answer cannot be learnt as it will be asked for",
        details=[
            f"alone:  ...{part[max(0, at - _SHOWN) : at + _SHOWN]!r}",
            f"within: ...{whole[max(0, at - _SHOWN) : at + _SHOWN]!r}",
        ],
        fix="learn the last turn of each conversation only: --turns last"
        if late
        else "a base whose chat template leaves earlier turns as they were",
    )


def _templated(tokenizer: Any, messages: Sequence[dict[str, str]], ask: bool) -> Any:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)


def _dialogue(turns: Sequence[Turn], speakers: tuple[str, str], *, ask: bool) -> str:
    user, reply = speakers
    gap = "" if reply.endswith("：") else " "
    pieces = {"system": "{}\n\n", "user": user + "{}\n", "assistant": reply + gap + "{}\n"}
    words = "".join(pieces[turn.role].replace("{}", turn.content) for turn in turns)
    return words + reply if ask else words


def _speakers(turns: Sequence[Turn]) -> tuple[str, str]:
    """Return the speakers' names in the language of the first words, which all beginnings share."""
    return _SPEAKERS["zh" if is_chinese(turn.content for turn in turns[:1]) else "en"]


def _without_system(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the messages with the system words moved to the first of the user's."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest = [m for m in messages if m["role"] != "system"]
    if system and rest:
        rest[0] = {"role": "user", "content": f"{system}\n\n{rest[0]['content']}"}
    return rest
