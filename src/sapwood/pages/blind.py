"""Two systems compared by people who do not know which wrote what: the page, the key, the count.

The page holds the texts and on which side each stands, in an order drawn anew for every prompt; the
key, which says whose the sides are, is a file of its own. A vote is for a side or for neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from markupsafe import Markup

from sapwood.interfaces import Turn
from sapwood.metrics import wilson
from sapwood.pages.page import _render
from sapwood.pages.spans import tongue
from sapwood.pages.words import Words, language_of

SCHEMA_KEY, SCHEMA_VOTES = "sapwood.blind-key/1", "sapwood.blind-votes/1"
SIDES = ("left", "right")
CHOICES = (*SIDES, "same")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What two systems, `first` and `second`, wrote to one prompt; `row`: its number in the data.

    `turns`: the conversation before, where there is one; else the prompt is `text`.
    """

    row: int
    text: str
    first: str
    second: str
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """Pairs in the order shown. `lefts`: which system stands on the left, 0 the first.

    `alike`: how many prompts both answered in the same words; nobody is asked about those.
    """

    name: str
    pairs: tuple[Pair, ...]
    lefts: tuple[int, ...]
    alike: int = 0


def ballot(pairs: Sequence[Pair]) -> Ballot:
    """Return what is shown: sides drawn by what the texts are, each system on either side as often.

    The same texts give the same ballot, and nothing but the key tells its sides.
    """
    shown = tuple(pair for pair in pairs if pair.first != pair.second)
    said = "\0".join(part for pair in shown for part in (pair.text, pair.first, pair.second))
    digest = sha256(said.encode()).digest()
    lefts = np.random.default_rng(int.from_bytes(digest)).permutation(len(shown)) % 2
    name = sha256(b"name" + digest).hexdigest()[:12]
    return Ballot(
        name=name, pairs=shown, lefts=tuple(map(int, lefts)), alike=len(pairs) - len(shown)
    )


def key_of(made: Ballot, systems: tuple[str, str], data: str) -> dict[str, Any]:
    """Return the content of the key file: whose text stood on the left of each question."""
    return {
        "schema": SCHEMA_KEY,
        "ballot": made.name,
        "systems": list(systems),
        "data": data,
        "rows": [pair.row for pair in made.pairs],
        "left": [systems[left] for left in made.lefts],
        "alike": made.alike,
    }


def blind_page(made: Ballot, lang: str) -> str:
    """Return the HTML of a ballot. It names no system, and needs no network."""
    words = Words(lang=language_of(lang))
    questions = [
        {
            "text": as_lines(pair.text),
            "turns": [(turn.role, as_lines(turn.content)) for turn in pair.turns],
            "lang": tongue(pair.text),
            "sides": [
                (side, as_lines(text), tongue(text))
                for side, text in zip(SIDES, _sides(pair, left), strict=True)
            ],
        }
        for pair, left in zip(made.pairs, made.lefts, strict=True)
    ]
    return _render(
        "blind.html.jinja", words, ballot=made.name, questions=questions, schema=SCHEMA_VOTES
    )


def as_lines(text: str) -> Markup:
    r"""Return a text escaped, with its line breaks and the empty lines between stanzas.

    >>> as_lines("a < b\n\nc")
    Markup('a &lt; b<br><br>c')
    """
    return Markup("<br>").join(text.splitlines())


def _sides(pair: Pair, left: int) -> tuple[str, str]:
    return (pair.second, pair.first) if left else (pair.first, pair.second)


def counted(key: Mapping[str, Any], votes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return who won, JSON-ready.

    A question goes to the system that more of the voters chose, to neither where as many chose the
    other: several votes on one question are no independent ones, so each question counts once.
    `share`: of the decided questions those won by the first system, with Wilson's 95 % interval,
    None where none is decided. `left`: how often the left side was chosen of all votes for a side.
    """
    first, second = key["systems"]
    wins, ties, sides = {first: 0, second: 0}, 0, dict.fromkeys(SIDES, 0)
    for number, left in enumerate(key["left"], 1):
        said = [one["votes"].get(str(number)) for one in votes]
        owners = {"left": left, "right": second if left == first else first}
        for vote in said:
            if vote in SIDES:
                sides[vote] += 1
        own = sum(1 if owners[v] == first else -1 for v in said if v in SIDES)
        if own:
            wins[first if own > 0 else second] += 1
        elif any(v is not None for v in said):
            ties += 1
    decided = sum(wins.values())
    low, high = wilson(wins[first], decided) if decided else (0.0, 1.0)
    return {
        "systems": [first, second],
        "wins": wins,
        "ties": ties,
        "alike": key.get("alike", 0),
        "open": len(key["left"]) - decided - ties,
        "voters": len(votes),
        "share": {"value": wins[first] / decided, "low": low, "high": high} if decided else None,
        "left": {"chosen": sides["left"], "votes": sum(sides.values())},
    }


def sentence(found: Mapping[str, Any], words: Words) -> str:
    """Return who won in one sentence, with the interval, or that nothing can be told."""
    first, second = found["systems"]
    share, wins = found["share"], found["wins"]
    if share is None:
        return words("blind_none")
    key = "blind_won" if share["low"] > 0.5 or share["high"] < 0.5 else "blind_within"
    ahead, other = (first, second) if share["value"] >= 0.5 else (second, first)
    low, high = share["low"], share["high"]
    low, high = (low, high) if ahead == first else (1 - high, 1 - low)
    return words(
        key,
        ahead=ahead,
        other=other,
        wins=words.number(wins[ahead]),
        decided=words.number(wins[first] + wins[second]),
        share=words.percent(wins[ahead] / (wins[first] + wins[second])),
        low=words.bare(low),
        high=words.bare(high),
    )
