"""The blind page tells nothing of who wrote what, and the count is the one of the key."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.interfaces import Turn
from sapwood.metrics import wilson
from sapwood.pages.blind import Pair, ballot, blind_page, counted, key_of, sentence
from sapwood.pages.words import Words

SYSTEMS = ("runs/tuned", "runs/prompted")


def pairs(count, alike=0):
    made = [
        Pair(row=n, text=f"prompt {n}", first=f"one {n}", second=f"two {n}") for n in range(count)
    ]
    same = [Pair(row=count + n, text="p", first="x", second="x") for n in range(alike)]
    return [*made, *same]


@pytest.mark.parametrize("count", [1, 2, 7, 20, 64])
def test_sides_are_even_and_those_of_the_key(count):
    made = ballot(pairs(count, alike=2))
    assert abs(2 * sum(made.lefts) - count) <= 1 and made.alike == 2
    key = key_of(made, SYSTEMS, "data.jsonl")
    assert key["rows"] == list(range(count)) and key["alike"] == 2
    text = blind_page(made, "en")
    for number, pair in enumerate(made.pairs, 1):
        part = text[text.index(f'id="q{number}"') :]
        left = "one" if key["left"][number - 1] == SYSTEMS[0] else "two"
        assert part.index(f"{left} {pair.row}<") < part.index(
            f"{'two' if left == 'one' else 'one'} {pair.row}<"
        )
    assert ballot(pairs(count)).lefts == made.lefts  # the same texts, the same ballot


def test_order_looks_like_none():
    lefts = ballot(pairs(64)).lefts
    changes = sum(a != b for a, b in itertools.pairwise(lefts))
    assert 20 <= changes <= 44  # of 63; an order of turns or of halves has 63 or 1
    other = [Pair(row=n, text=f"other {n}", first="a", second="b") for n in range(64)]
    assert ballot(other).lefts != lefts


def test_the_page_holds_no_key_and_asks_no_network():
    made = ballot(pairs(20))
    for lang in ("en", "zh"):
        text = blind_page(made, lang)
        assert (
            "tuned" not in text and "prompted" not in text and "first" not in text.split("<form")[1]
        )
        assert not re.search(
            r"(src|href)=|https?:|url\(|import |fetch\(|XMLHttp", text.split("</style>")[1]
        )
        assert "default-src 'none'" in text and made.name in text
    assert "哪段文字更好" in text


def test_markup_in_texts_stays_text():
    bad = '</label><script>alert("x")</script>'
    talk = (Turn(role="user", content=bad), Turn(role="assistant", content="so"))
    text = blind_page(ballot([Pair(row=1, text=bad, first=bad, second="", turns=talk)]), "en")
    assert "<script>alert" not in text and text.count("&lt;script&gt;") == 2
    assert ">nothing</span>" in text and "<dt>User</dt>" in text


def voted(made, sides, voter=""):
    return {"schema": "sapwood.blind-votes/1", "ballot": made.name, "voter": voter,
            "votes": {str(n): side for n, side in enumerate(sides, 1) if side}}  # fmt: skip


def for_system(key, choices):
    """Return sides that choose a system ("1st", "2nd"), "same" or nothing."""
    sides = []
    for left, choice in zip(key["left"], choices, strict=True):
        wanted = {"1st": SYSTEMS[0], "2nd": SYSTEMS[1]}.get(choice)
        sides.append(choice if wanted is None else "left" if left == wanted else "right")
    return sides


@settings(deadline=None)
@given(st.lists(st.sampled_from(["1st", "2nd", "same", ""]), min_size=1, max_size=30))
def test_one_person_s_votes_are_counted_by_system(choices):
    made = ballot(pairs(len(choices)))
    key = key_of(made, SYSTEMS, "d")
    found = counted(key, [voted(made, for_system(key, choices))])
    first, second = choices.count("1st"), choices.count("2nd")
    assert found["wins"] == {SYSTEMS[0]: first, SYSTEMS[1]: second}
    assert (found["ties"], found["open"]) == (choices.count("same"), choices.count(""))
    assert found["left"]["votes"] == first + second
    if first + second:
        assert found["share"]["value"] == first / (first + second)
        low, high = wilson(first, first + second)
        assert (found["share"]["low"], found["share"]["high"]) == (low, high)
    else:
        assert found["share"] is None
        assert sentence(found, Words()) == "No question is decided: nothing can be told."


def test_several_people_decide_a_question_by_majority():
    made = ballot(pairs(4))
    key = key_of(made, SYSTEMS, "d")
    people = [["1st", "1st", "2nd", ""], ["1st", "2nd", "2nd", ""], ["2nd", "same", "2nd", ""]]
    found = counted(key, [voted(made, for_system(key, own)) for own in people])
    assert found["wins"] == {SYSTEMS[0]: 1, SYSTEMS[1]: 1}
    assert (found["ties"], found["open"], found["voters"]) == (1, 1, 3)


def test_the_winner_is_named_with_its_own_interval():
    made = ballot(pairs(20))
    key = key_of(made, SYSTEMS, "d")
    for lead, other in (("1st", "2nd"), ("2nd", "1st")):
        choices = [lead] * 17 + [other] * 3
        said = sentence(counted(key, [voted(made, for_system(key, choices))]), Words())
        names = SYSTEMS if lead == "1st" else SYSTEMS[::-1]
        assert said == (
            f"{names[0]} is preferred to {names[1]}: in 17 of 20 decided questions, 85.0 % "
            "(64.0 to 94.8)."
        )
    near = sentence(
        counted(key, [voted(made, for_system(key, ["1st"] * 11 + ["2nd"] * 9))]), Words()
    )
    assert near.startswith(
        "runs/tuned and runs/prompted are not separable: runs/tuned is preferred"
    )
    assert "55.0 % (34.2 to 74.2), which chance alone may give" in near
    json.dumps(key)
