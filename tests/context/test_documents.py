"""Passages hold whole sentences, and are found as BM25 and reciprocal rank fusion say."""

from __future__ import annotations

import re
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context.documents import Documents, Passage, fused, passages, read_passages
from sapwood.context.similarity import tokens
from sapwood.errors import DataError

TEXTS = (
    "Sapwood carries water up the trunk.",
    "Heartwood is dead and carries the tree.",
    "Bark keeps insects out of the tree.",
    "边材输送水分。",
    "Leaves make sugar, and roots drink water.",
)


def library(texts=TEXTS) -> Documents:
    return Documents(
        [Passage(text=t, file="trees.txt", line=n, number=n) for n, t in enumerate(texts, 1)]
    )


def naive_bm25(query: str, texts: tuple[str, ...], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """Return Lucene's BM25 as its formula is written."""
    documents = [tokens(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for own in documents:
        score = 0.0
        for word in tokens(query):
            n = sum(word in other for other in documents)
            idf = log(1 + (len(documents) - n + 0.5) / (n + 0.5))
            count = own.count(word)
            score += idf * count / (count + k1 * (1 - b + b * len(own) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["what carries water?", "the tree", "水分怎么输送", "granite"])
def test_scores_are_bm25(query):
    expected = naive_bm25(query, TEXTS)
    found = library().search([query], limit=5)[0]
    order = sorted((n for n in range(5) if expected[n] > 0), key=lambda n: -expected[n])
    assert [f.text for f in found] == [TEXTS[n] for n in order]
    assert [f.score for f in found] == pytest.approx([expected[n] for n in order], abs=1e-4)
    assert all(f.source == f"trees.txt:{n + 1} passage {n + 1}" for f, n in zip(found, order))  # noqa: B905


def test_fusion_is_the_papers_formula():
    first, second = np.array([3.0, 0.0, 1.0, 2.0]), np.array([0.1, 0.9, 0.0, 0.5])
    places = [{0: 1, 3: 2, 2: 3}, {1: 1, 3: 2, 0: 3}]
    expected = [sum(1 / (60 + p[n]) for p in places if n in p) for n in range(4)]
    assert fused([first, second]) == pytest.approx(expected)


def test_an_encoder_finds_what_shares_no_word():
    def embed(texts):
        wet = ("water", "moist", "水")
        return np.array([[any(w in t for w in wet), len(t) / 1000] for t in texts], float)

    assert library().search(["moisture"]) == [()]
    found = library().search(["moisture"], embed=embed, limit=2)[0]
    assert all("water" in f.text or "水" in f.text for f in found)
    assert max(f.score for f in found) <= 2 / 61


def test_the_query_itself_is_no_fact():
    found = library().search([TEXTS[0].upper()], limit=5)[0]
    assert TEXTS[0] not in {f.text for f in found}
    double = library((TEXTS[0], TEXTS[0], TEXTS[1])).search(["water trunk"], limit=3)[0]
    assert [f.text for f in double] == [TEXTS[0]]
    assert library(()).search(["water"]) == [()]


def test_sentences():
    text = (
        "Mr. Oak met J. Ash at 3.5 m. They grew! “Did they?” Yes...\n\n"
        "他说：“走吧！”然后走了。明天呢？\n# Bark\n\nIt is brown; e.g. in oaks. And thick"
    )
    assert passages(text) == [
        (1, "Mr. Oak met J. Ash at 3.5 m. They grew! “Did they?” Yes..."),
        (3, "他说：“走吧！”然后走了。明天呢？"),
        (4, "Bark: It is brown; e.g. in oaks. And thick"),
    ]
    assert passages("A b c d e f g. 好树好树好。树", size=4) == [
        (1, "A b c d"), (1, "e f g."), (1, "好树好树"), (1, "好。树"),
    ]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(alphabet="ab .!。？\n#好树”", max_size=200),
    size=st.integers(1, 12),
)
def test_passages_lose_nothing_and_keep_their_size(text, size):
    found = passages(text, size=size)
    unit = re.compile(r"[好树]|[ab]+")
    assert "".join(unit.findall(" ".join(p for _, p in found))) == "".join(unit.findall(text))
    lines = text.split("\n")
    for line, passage in found:
        assert len(unit.findall(passage)) <= size
        first = unit.findall(passage)[0]
        assert any(first in own for own in lines[line - 1 :])
    assert [line for line, _ in found] == sorted(line for line, _ in found)


def test_folders_and_tables(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.md").write_text("# Oak\n\nOaks have acorns.\n", encoding="utf-8")
    (tmp_path / "deep" / "b.txt").write_bytes("边材输送水分，心材支撑树木。".encode("gb18030"))
    (tmp_path / "c.log").write_text("not a document")
    assert [(p.file, p.line, p.text) for p in read_passages(tmp_path)] == [
        ("a.md", 1, "Oak: Oaks have acorns."),
        ("deep/b.txt", 1, "边材输送水分，心材支撑树木。"),
    ]
    table = tmp_path / "rows.csv"
    table.write_text("id,text\n1,One oak. Two oaks.\n2,A pine.\n", encoding="utf-8")
    assert [(p.source, p.text) for p in read_passages(table)] == [
        ("rows.csv:1 passage 1", "One oak. Two oaks."),
        ("rows.csv:2 passage 1", "A pine."),
    ]


def test_what_is_no_document(tmp_path):
    with pytest.raises(DataError, match="holds no documents"):
        read_passages(tmp_path)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(DataError, match=r"a\.pdf: documents are not read from this kind"):
        read_passages(tmp_path / "a.pdf")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9 is not utf-8 \xff\xfe\xfd")
    with pytest.raises(DataError, match=r"b\.txt:1:4 is not UTF-8"):
        read_passages(tmp_path / "b.txt")


@pytest.mark.weights("minilm-l6")
def test_a_real_encoder_finds_a_paraphrase():
    from sapwood.evaluation import Bases
    from sapwood.launch import choose_runtime

    bases = Bases(choose_runtime("cpu"))
    query = "how does moisture reach the leaves of an oak"
    texts = ("The sapwood pumps water to the crown.", "Leaves were read by a how-to club.")
    dense = library(texts).search([query], embed=lambda t: bases.embed("minilm-l6", t), limit=2)[0]
    assert dense[0].score > 1 / 62
    assert {f.text for f in dense} == set(texts)
    assert [f.text for f in library(texts).search([query], limit=1)[0]] == [texts[1]]
