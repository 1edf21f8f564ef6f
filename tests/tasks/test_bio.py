"""Tags and spans, each from the other: as seqeval and conlleval read them, in every script."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.tasks.bio import faults, is_dense, join_tokens, mark_pair, parted, spans_of, tags_of

KINDS = ("PER", "LOC")
TAGS = st.sampled_from(["O", *(f"{sign}-{kind}" for sign in "BI" for kind in KINDS)])
BIOES = st.sampled_from(["O", *(f"{sign}-{kind}" for sign in "BIES" for kind in KINDS)])


@given(tags=st.lists(BIOES, max_size=12))
@settings(max_examples=500, deadline=None)
def test_chunks_are_those_of_seqeval(tags):
    get_entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    wanted = [(start, end + 1, kind) for kind, start, end in get_entities(tags)]
    assert list(spans_of(tags)) == wanted


def spelt(spans, length, scheme):
    """Return the tags of spans in a scheme."""
    tags = ["O"] * length
    ends = {"BIOES": ("S", "E"), "BILOU": ("U", "L"), "BMES": ("S", "E")}.get(scheme)
    before = None
    for start, end, kind in spans:
        inner = "M" if scheme == "BMES" else "I"
        for at in range(start, end):
            tags[at] = f"{inner}-{kind}"
        if scheme == "IOB1":
            if before == (start, kind):
                tags[start] = f"B-{kind}"
        else:
            tags[start] = f"B-{kind}"
        if ends and end - start == 1:
            tags[start] = f"{ends[0]}-{kind}"
        elif ends:
            tags[end - 1] = f"{ends[1]}-{kind}"
        before = (end, kind)
    return tags


@st.composite
def chunked(draw):
    spans, at = [], 0
    for _ in range(draw(st.integers(0, 5))):
        at += draw(st.integers(0, 2))
        end = at + draw(st.integers(1, 3))
        spans.append((at, end, draw(st.sampled_from(KINDS))))
        at = end
    return spans, at + draw(st.integers(0, 2))


@pytest.mark.parametrize("scheme", ["BIO", "IOB1", "BIOES", "BILOU", "BMES"])
@given(given_=chunked())
@settings(max_examples=200, deadline=None)
def test_spans_come_back_from_every_scheme(scheme, given_):
    spans, length = given_
    tags = spelt(spans, length, scheme)
    assert list(spans_of(tags)) == spans
    if scheme == "BIO":
        assert tags == list(tags_of(spans, length))
    bare, begun, unclosed = faults(tags)
    assert bare == 0 or scheme == "IOB1"
    assert unclosed == 0 or scheme in ("BIO", "IOB1")
    assert begun == 0 or scheme != "IOB1"


@given(tags=st.lists(TAGS, max_size=12))
def test_tags_of_what_was_read_are_plain_bio(tags):
    again = tags_of(spans_of(tags), len(tags))
    assert spans_of(again) == spans_of(tags)
    assert faults(again)[0] == 0


@pytest.mark.parametrize(
    ("tags", "counts"),
    [
        (["O", "B-X", "I-X"], (0, 1, 1)),
        (["O", "I-X", "I-X"], (1, 0, 1)),
        (["B-X", "I-Y"], (1, 1, 2)),
        (["B-X", "B-X"], (0, 1, 2)),
        (["B-X", "E-X", "S-Y", "O"], (0, 2, 0)),
        (["B-X", "I-X", "O"], (0, 1, 1)),
        (["E-X", "I-X"], (2, 0, 1)),
        ([], (0, 0, 0)),
    ],
)
def test_faults_are_counted(tags, counts):
    assert faults(tags) == counts


def test_tags_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="the span 1:4 is not inside 3 tokens"):
        tags_of([(1, 4, "X")], 3)
    with pytest.raises(ValueError, match="the span 1:3 overlaps another one"):
        tags_of([(0, 2, "X"), (1, 3, "Y")], 3)


def test_labels_may_hold_what_tags_are_made_of():
    assert parted("B-I-X") == ("B", "I-X")
    assert parted("B-org-name") == ("B", "org-name")
    assert parted("B-") == ("I", "B-")
    assert parted("O") == parted("") == ("O", "")
    assert spans_of(["B-人名", "I-人名", "O"]) == ((0, 2, "人名"),)


# Emoji with joiners, combining marks, Chinese, Arabic and Hebrew (right to left), odd spaces.
TOKENS = st.lists(
    st.one_of(
        st.sampled_from([
            "Ann", "co-op", "U.S.", "3.5", "e\u0301te\u0301", "👩\u200d👩\u200d👧", "🇫🇷", "✌🏽",
            "北京", "京", "，",
            "IBM", "سلام", "\u200fל\u200f", "שלום", "हिन्दी", "ไทย", "ﬁ", "\U0001d4b3",
        ]),
        st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1, max_size=4),
    ),
    min_size=1, max_size=15,
)  # fmt: skip


@given(tokens=TOKENS, dense=st.sampled_from([None, True, False]))
@settings(max_examples=300, deadline=None)
def test_tokens_stand_in_their_text_where_it_says(tokens, dense):
    text, offsets = join_tokens(tokens, dense=dense)
    assert [text[start:end] for start, end in offsets] == tokens
    gaps = [text[a[1] : b[0]] for a, b in pairwise(offsets)]
    assert set(gaps) <= {"", " "}
    assert "".join(tokens).replace(" ", "") == text.replace(" ", "")
    if dense is False:
        assert text == " ".join(tokens)


def test_scripts_without_spaces_are_told():
    assert is_dense(["我", "在", "北京"])
    assert is_dense(["我们", "3.5", "IBM", "ไทย"])
    assert not is_dense(["I", "am", "in", "北京", "today"])
    assert not is_dense([".", ","])
    assert join_tokens(["我", "在", "New", "York", "2026", "年"])[0] == "我在New York 2026年"


@given(
    text=st.text(
        st.characters(exclude_characters="<>", exclude_categories=["Cs"]), min_size=2, max_size=12
    ),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_marks_stand_around_their_spans(text, data):
    ends = []
    for _ in range(2):
        start = data.draw(st.integers(0, len(text) - 1))
        ends.append((start, data.draw(st.integers(start + 1, len(text)))))
    marked = mark_pair(text, *ends)
    plain = marked
    for mark in ("<head>", "</head>", "<tail>", "</tail>"):
        assert marked.count(mark) == 1 + text.count(mark)
        plain = plain.replace(mark, "")
    assert plain == text
    others = {"head": ("<tail>", "</tail>"), "tail": ("<head>", "</head>")}
    for name, (start, end) in zip(("head", "tail"), ends, strict=True):
        inside = marked.split(f"<{name}>")[1].split(f"</{name}>")[0]
        for mark in others[name]:
            inside = inside.replace(mark, "")
        assert inside == text[start:end]
