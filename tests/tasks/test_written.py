"""Frames as a line of text: what is written is read back with the same offsets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Frame, Span
from sapwood.tasks.written import canonical, parse, write

# Emoji with joiners, combining marks, Chinese, Arabic and Hebrew (right to left), quotes, breaks.
LETTERS = [
    *'ab "\\;:()#1\n\r', "é", "e\u0301", "👩\u200d👩\u200d👧", "🇫🇷", "✌🏽", "东", "京", "，", "“",
    "س", "ل", "\u200f", "\u202b", "א", "ש", "ि", "क", "\U0001d4b3", "ﬁ", "\u2028", "\u0085", "\t",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(LETTERS), min_size=1, max_size=24).map("".join)
LABELS = st.one_of(
    st.sampled_from([
        "PER", "ORG", "none", "", " x ", "a;b", 'a"b', "org:founded_by", "人生-产子/女", "#2", "\\",
        "Cause-Effect(e1,e2)", "attack", "attack / bombing", "a: b", "x:",
    ]),
    st.text(max_size=6),
)  # fmt: skip


@st.composite
def framed(draw, task):
    """Return (text, frames) with spans anywhere, overlapping or not, at odd places."""
    text = draw(TEXTS)

    def span(label=""):
        start = draw(st.integers(0, len(text) - 1))
        return Span(start=start, end=draw(st.integers(start + 1, len(text))), label=label)

    frames = []
    for _ in range(draw(st.integers(0, 5))):
        label = draw(LABELS)
        if task == "multi-label":
            frames.append(Frame(label=label))
        elif task == "entities":
            frames.append(Frame(label=label, head=span(label)))
        elif task == "relations":
            frames.append(Frame(label=label, head=span(), arguments=(span(),)))
        else:
            head = span(label) if draw(st.booleans()) else None
            arguments = tuple(span(draw(LABELS)) for _ in range(draw(st.integers(0, 3))))
            frames.append(Frame(label=label, head=head, arguments=arguments))
    return text, frames


TASKS = ("entities", "relations", "events", "multi-label")


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read_back(task, data):
    text, frames = data.draw(framed(task))
    words = write(task, text, frames)
    assert "\n" not in words and "\r" not in words
    assert parse(task, text, words, strict=True) == canonical(task, frames)
    assert parse(task, text, f"  {words}\n", strict=True) == canonical(task, frames)
    assert write(task, text, parse(task, text, words)) == words


@pytest.mark.parametrize("task", TASKS)
@given(text=TEXTS, words=st.text(alphabet=[*'ab "\\;:()#12\n', "东"], max_size=40))
@example(text="ab", words='a "b" (x: "a"; y: "b')
@example(text="ab", words='a "b" (')
@settings(max_examples=300, deadline=None)
def test_any_line_is_read_and_only_words_of_the_text_are_found(task, text, words):
    for frame in parse(task, text, words):
        for span in (frame.head, *frame.arguments):
            assert span is None or 0 <= span.start < span.end <= len(text)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_entities_without_marks_never_overlap(data):
    text = data.draw(TEXTS)
    pieces = data.draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=6))
    words = "; ".join(f'X: "{text[a : a + n]}"' for a, n in pieces if '"' not in text[a : a + n])
    found = [f.head for f in parse("entities", text, words) if f.head is not None]
    assert all(a.end <= b.start for a, b in pairwise(found))


def spans(task, text, words):
    return [(f.head.start, f.head.end) for f in parse(task, text, words)]


def test_repeated_words_are_taken_in_order_of_appearance():
    text = "EU Commission: the EU, and Europe, and the EU."
    assert spans("entities", text, 'ORG: "EU Commission"; ORG: "EU"; ORG: "EU"') == [
        (0, 13), (19, 21), (43, 45),
    ]  # fmt: skip
    assert spans("entities", text, 'ORG: "EU"; ORG: "EU Commission"') == [(0, 13), (19, 21)]
    assert spans("entities", text, 'ORG: "EU"; ORG: "EU"; ORG: "EU"; ORG: "EU"') == [
        (0, 2), (19, 21), (43, 45),
    ]  # fmt: skip
    assert spans("entities", text, 'ORG: "EU"#4; ORG: "EU"#9') == [(43, 45)]


def test_arguments_are_looked_for_near_what_they_belong_to():
    text = "rebels left. In the town rebels bombed it; rebels met."
    frames = (
        Frame(
            label="Attack",
            head=Span(start=32, end=38, label="Attack"),
            arguments=(Span(start=25, end=31, label="Attacker"),),
        ),
    )
    words = write("events", text, frames)
    assert words == 'Attack "bombed" (Attacker: "rebels")'
    assert parse("events", text, words) == frames
    pair = (Frame(label="near", head=Span(start=20, end=24), arguments=(Span(start=0, end=6),)),)
    assert write("relations", text, pair) == '"town" near "rebels"#1'


def test_answers_in_full():
    text = '东京 says "yes"\nand no'
    frames = [
        Frame(label="a;b", head=Span(start=8, end=17)),
        Frame(label="地点", head=Span(start=0, end=2)),
    ]
    assert write("entities", text, frames) == r'地点: "东京"; "a;b": "\"yes\"\nand"'
    assert write("entities", text, ()) == "none"
    assert parse("entities", text, "none", strict=True) == ()
    assert write("multi-label", text, [Frame(label="none"), Frame(label="b c")]) == '"none"; b c'
    assert parse("classification", text, "good") == ()


def test_what_is_no_answer_is_left_out_or_named():
    text = "the rebels bombed the town"
    said = 'Attack "bombed" (Attacker: "rebels"; Place: "the village"; Place: "the to'
    found = parse("events", text, said)
    assert found == (
        Frame(
            label="Attack",
            head=Span(start=11, end=17, label="Attack"),
            arguments=(Span(start=4, end=10, label="Attacker"),),
        ),
    )
    for words in (said, 'Attack "bombed" (Place: "the town"', 'Attack "bombed" and', 'Die "died"'):
        with pytest.raises(DataError, match=r"no answer of events|not in the text"):
            parse("events", text, words, strict=True)


def test_frames_that_cannot_be_written_are_named():
    with pytest.raises(DataError, match="cannot be written as an answer of relations"):
        write("relations", "ab", [Frame(label="x", head=Span(start=0, end=1))])
    with pytest.raises(DataError, match="cannot be written"):
        write("entities", "ab", [Frame(label="x", head=Span(start=1, end=3))])
    with pytest.raises(ConfigError, match=r"Answers of 'entity' are no frames. Did you mean"):
        write("entity", "ab", [])
