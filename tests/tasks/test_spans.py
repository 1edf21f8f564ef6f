"""Spans through every way they go: offsets stay exact whatever the script of the text."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.interfaces import Example, Frame, Span
from sapwood.models.windows import Framing
from sapwood.tasks.bio import join_tokens, spans_of, tags_of
from sapwood.tasks.kinds import Unusable
from sapwood.tasks.spans import Page, framed, items, locate, read_page, unpacked
from sapwood.tasks.structured import read_task
from sapwood.tasks.written import parse, write

# Emoji with joiners and skin tones, flags, combining marks, CJK, Arabic and Hebrew with marks of
# direction, Devanagari, Thai, letters beyond 16 bits.
WORDS = [
    "Ann", "co-op", "U.S.", "3.5", "e\u0301te\u0301", "na\u00efve", "👩\u200d👩\u200d👧", "👍🏽",
    "🇫🇷", "❤\ufe0f", "北京", "李先生", "，", "東京タワー", "한국어", "سلام",
    "مُحَمَّد", "שָׁלוֹם", "\u200fIBM\u200f",
    "नमस्ते", "ไทย", "\U0001d4b3", "ﬁn", '"', "\\", "#1", ";", ":",
]  # fmt: skip
SPACES = [" ", "  ", "\u00a0", "\u3000", "\n", "\t"]


@st.composite
def tagged(draw):
    """Return (tokens, spans of tokens), spans apart or next to each other."""
    tokens = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=14))
    spans, at = [], 0
    while at < len(tokens):
        end = min(len(tokens), at + draw(st.integers(1, 3)))
        if draw(st.booleans()):
            spans.append((at, end, draw(st.sampled_from(["PER", "地点", "a;b"]))))
        at = end
    return tokens, spans


@st.composite
def marked(draw):
    """Return (text, frames) of words between odd spaces, frames on whole words."""
    text, places = "", []
    for word in draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)):
        places.append((len(text), len(text) + len(word)))
        text += word + draw(st.sampled_from([*SPACES, "" if word in "北京李先生" else " "]))
    frames, at = [], 0
    while at < len(places):
        end = min(len(places), at + draw(st.integers(1, 3)))
        if draw(st.booleans()):
            span = Span(start=places[at][0], end=places[end - 1][1], label="X")
            frames.append(Frame(label="X", head=span))
        at = end
    return text, tuple(frames)


def read(rows, task="entities"):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        lines = [json.dumps(row, ensure_ascii=bool(n % 2)) + "\n" for n, row in enumerate(rows)]
        path.write_text("".join(lines), encoding="utf-8")
        return read_task(path, task).examples


@given(made=tagged())
@settings(max_examples=100, deadline=None)
def test_tokens_and_tags_become_spans_and_tags_again(made):
    tokens, spans = made
    tags = tags_of(spans, len(tokens))
    (example,) = read([{"tokens": tokens, "ner_tags": list(tags)}])
    text, offsets = join_tokens(tokens)
    shift = text.find(example.text)
    found = [(f.head.start + shift, f.head.end + shift, f.label) for f in example.frames]
    assert found == [(offsets[a][0], offsets[b - 1][1], kind) for a, b, kind in spans]
    starts = {start: n for n, (start, _) in enumerate(offsets)}
    ends = {end: n + 1 for n, (_, end) in enumerate(offsets)}
    again = tags_of([(starts[a], ends[b], kind) for a, b, kind in found], len(tokens))
    assert again == tags
    assert spans_of(again) == tuple(spans)


@given(made=marked())
@settings(max_examples=100, deadline=None)
def test_spans_read_from_a_file_mean_the_same_characters(made):
    text, frames = made
    entities = [
        {"start": f.head.start, "end": f.head.end, "label": "X",
         "text": text[f.head.start : f.head.end]}
        for f in frames
    ]  # fmt: skip
    bare = [{k: e[k] for k in ("start", "end", "label")} for e in entities]
    for example in read([{"text": text, "entities": rows} for rows in (entities, bare)]):
        said = [example.text[f.head.start : f.head.end] for f in example.frames]
        assert said == [entity["text"] for entity in entities]


@pytest.mark.parametrize("kind", ["wordpieces", "bytes"])
@given(made=marked())
@settings(max_examples=100, deadline=None)
def test_spans_through_tokens_of_a_base_and_a_written_answer(
    kind, made, tiny_wordpieces, tiny_tokenizer
):
    text, frames = made
    tokenizer = tiny_wordpieces if kind == "wordpieces" else tiny_tokenizer
    (pieced,) = Framing(tokenizer, 64).pieced([text])
    spans = []
    for frame in frames:
        units = pieced.covering(frame.head.start, frame.head.end)
        if units is None:  # marks of direction alone
            continue
        start, end = pieced.characters(*units)
        bare = text[frame.head.start : frame.head.end].strip("\u200f")
        assert text[start:end].strip("\u200f") == bare
        spans.append(Frame(label="X", head=Span(start=start, end=end, label="X")))
    if any(one.head.end > other.head.start for one, other in pairwise(spans)):
        return  # two spans inside one word of the base
    words = write("entities", text, spans)
    assert list(parse("entities", text, words, strict=True)) == spans


@given(
    made=marked(), around=st.lists(st.sampled_from(["\ufeff", " ", "\r\n", "\u200b"]), max_size=3)
)
@settings(max_examples=100, deadline=None)
def test_what_surrounds_a_text_moves_its_spans_and_nothing_else(made, around):
    text, frames = made
    plain = framed(Page(text=text), frames, None)
    before = "".join(around)
    moved = [
        Frame(label=f.label, head=Span(start=f.head.start + len(before),
                                       end=f.head.end + len(before), label="X"))
        for f in frames
    ]  # fmt: skip
    again = framed(Page(text=before + text + before), moved, None)
    assert isinstance(again, Example)
    assert again == plain


@given(made=marked())
@settings(max_examples=60, deadline=None)
def test_offsets_in_utf16_units_are_recounted(made):
    text, frames = made
    page = Page(text=text)
    for frame in frames:
        words = text[frame.head.start : frame.head.end]
        if text.count(words) != 1:
            continue
        units = [
            len(text[:at].encode("utf-16-le")) // 2 for at in (frame.head.start, frame.head.end)
        ]
        span = locate(page, {"start": units[0], "end": units[1], "text": words}, "X", "it", [])
        assert (span.start, span.end) == (frame.head.start, frame.head.end)


def test_a_span_of_white_space_at_an_edge_is_refused():
    frame = Frame(label="X", head=Span(start=0, end=1, label="X"))
    with pytest.raises(Unusable, match="holds white space alone"):
        framed(Page(text=" Ann"), [frame], None)


def test_lists_in_whatever_they_are_packed():
    assert unpacked("[1, 2]") == [1, 2]
    assert unpacked("['a', 'b']") == ["a", "b"]
    assert unpacked("[not a list]") == "[not a list]"
    assert items({"a": [1, 2], "b": [3, 4]}, "x") == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    with pytest.raises(Unusable, match="column 'x' holds a string, not a list"):
        items("a", "x")
    with pytest.raises(Unusable, match="column 'x' empty"):
        items(" ", "x")


def test_spans_of_tokens_end_where_their_words_end():
    page = read_page(["Ann", "Lee", "lives"], "tokens")
    assert locate(page, [0, 2], "X", "it", []) == Span(start=0, end=7, label="X")
    mended: list[str] = []
    inclusive = {"start": 0, "end": 1, "text": "Ann Lee"}
    assert locate(page, inclusive, "X", "it", mended) == Span(start=0, end=7, label="X")
    assert mended == ["offsets whose end is the last character or token, read so"]
    with pytest.raises(Unusable, match="lies outside its tokens"):
        locate(page, [2, 4], "X", "it", [])
    with pytest.raises(Unusable, match="of no tokens"):
        locate(page, [1, 1], "X", "it", [])
