"""Answers as lines: what they say, what they cannot, and that they read back as they were."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapwood.errors import DataError
from sapwood.interfaces import Example, Frame, Span
from sapwood.studio.lines import Names, as_lines, names_of, read_lines

WORDS = ("Ada", "Bo", "李白", "👩‍🚀", "שלום", "Ada", "A. B.", "c+d", "#2", "Bo #2", "-")


def test_entities_are_meant_once_for_each_line():
    text = "Ada met Ada in Rome."
    found = read_lines("entities", text, ["PER: Ada", "LOC: Rome", "PER: Ada"], Names())
    heads = [(f.label, f.head.start, f.head.end) for f in found]
    assert heads == [("PER", 0, 3), ("LOC", 15, 19), ("PER", 8, 11)]
    (second,) = read_lines("entities", text, ["PER:Ada #2"], Names())
    assert second.head == Span(start=8, end=11, label="PER")


def test_every_line_that_cannot_be_used_is_told():
    with pytest.raises(DataError) as told:
        lines = ["Rome", "PER: Bob", "LOC: Rome", "LOC: Rome", "PER: Ada #3"]
        read_lines("entities", "Ada met Ada in Rome.", lines, Names())
    assert told.value.details == (
        "'Rome' is not TYPE: words",
        "'Bob' is not in the text",
        "'Rome' is not in the text once more",
        "'Ada' is not in the text 3 times",
    )
    assert told.value.fix == "write one a line: TYPE: words"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("born in Ada -> Rome", "'born in Ada -> Rome' is not TYPE: words -> words"),
        ("born in: Ada", "'born in: Ada' is not TYPE: words -> words"),
        ("born in: Ada (person) -> Rome", "'Rome' has no type: write 'Rome (city)'"),
        ("born in: Ada (person) -> Paris (city)", "'Paris' is not in the text"),
    ],
)
def test_relations_that_cannot_be_used(line, told):
    names = Names(types=frozenset({"born in"}), ends=frozenset({"person", "city"}))
    with pytest.raises(DataError) as error:
        read_lines("relations", "Ada left Rome.", [line], names)
    assert error.value.details == (told,)


def test_names_with_colons_and_full_width_marks():
    names = Names(types=frozenset({"per:born", "per"}), roles=frozenset({"to:whom"}))
    (joined,) = read_lines("relations", "李白生于碎叶", ["per:born：李白 → 碎叶"], names)
    assert joined == Frame(
        label="per:born", head=Span(start=0, end=2), arguments=(Span(start=4, end=6),)
    )
    (event,) = read_lines("events", "Bo gave Ann", ["per: gave \uff5c to:whom: Ann"], names)
    assert (event.label, event.arguments) == ("per", (Span(start=8, end=11, label="to:whom"),))


def test_events_without_a_trigger():
    assert read_lines("events", "Bo sold it", ["sale | who: Bo"], Names()) == (
        Frame(label="sale", arguments=(Span(start=0, end=2, label="who"),)),
    )
    assert read_lines("events", "x", ["sale"], Names(types=frozenset({"sale"}))) == (
        Frame(label="sale"),
    )
    with pytest.raises(DataError, match="These events cannot be used"):
        read_lines("events", "x", ["sale"], Names())


def test_a_tail_inside_its_head():
    (frame,) = read_lines("relations", "Bank of Rome", ["in: Bank of Rome -> Rome"], Names())
    assert frame.arguments == (Span(start=8, end=12),)


@st.composite
def said(draw):
    task = draw(st.sampled_from(["entities", "relations", "events"]))
    words = draw(st.lists(st.sampled_from(WORDS), min_size=2, max_size=9))
    gaps = draw(st.lists(st.sampled_from([" ", "\n", ", "]), min_size=9, max_size=9))
    text, spans = "", []
    for word, gap in zip(words, gaps, strict=False):
        spans.append((len(text), len(text) + len(word)))
        text += word + gap
    count = draw(st.integers(1, len(spans)))
    chosen = draw(st.permutations(spans))[:count]
    typed = draw(st.booleans())

    def span(at, label):
        return Span(start=at[0], end=at[1], label=label)

    if task == "entities":
        return task, text, [Frame(label="a:b", head=span(at, "a:b")) for at in chosen]
    if task == "relations":
        kinds = ("x", "y") if typed else ("", "")
        pairs = pairwise(chosen)
        return task, text, [
            Frame(label="r", head=span(a, kinds[0]), arguments=(span(b, kinds[1]),))
            for a, b in pairs
        ]  # fmt: skip
    arguments = tuple(sorted(span(at, f"role {n % 2}") for n, at in enumerate(chosen)))
    return task, text, [Frame(label="e", head=span(chosen[0], "e"), arguments=arguments)]


@given(said())
def test_lines_read_back_as_they_were(answer):
    task, text, frames = answer
    names = names_of([Example(text=text, frames=tuple(frames))])
    lines = as_lines(task, text, frames).splitlines()
    assert read_lines(task, text, lines, names) == tuple(frames)
