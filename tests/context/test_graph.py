"""The facts around the entities of a text: ranked, bounded, with their origin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sapwood.context.facts import facts_block
from sapwood.context.graph import Graph, relation_words
from sapwood.context.triples import Triple, TripleSet

KG = Path(__file__).parents[3] / "shared" / "data" / "kg"


def graph(*keys: str, names: dict[str, tuple[str, ...]] | None = None) -> Graph:
    triples = [
        Triple(head=h, relation=r, tail=t, file="kg.tsv", line=line)
        for line, (h, r, t) in enumerate((key.split() for key in keys), 1)
    ]
    return Graph(TripleSet(triples=tuple(triples), names=names or {}))


FOREST = (
    "oak isa tree", "oak has_part acorn", "tree isa plant", "pine isa tree", "squirrel eats acorn",
    "oak grows_in europe", "pine grows_in europe", "oak known_for hardness", "acorn isa fruit",
)  # fmt: skip


def test_both_ends_first_then_paths_then_shared_words():
    found = graph(*FOREST).search(["oaks, known to squirrels"], limit=9)[0]
    texts = [f.text for f in found]
    assert set(texts[:2]) == {"oak has part acorn", "squirrel eats acorn"}  # a path joins them
    assert texts[2] == "oak known for hardness"
    assert set(texts[3:]) == {"oak is a tree", "oak grows in europe"}
    assert {f.text: f.source for f in found}["squirrel eats acorn"] == "kg.tsv:5"
    scores = [f.score for f in found]
    assert scores == sorted(scores, reverse=True)
    assert 4 > scores[1] >= 2 > scores[2]
    direct = graph(*FOREST).search(["do squirrels like acorns of an oak"], limit=2)[0]
    assert {f.text for f in direct} == {"oak has part acorn", "squirrel eats acorn"}
    assert all(f.score >= 4 for f in direct)


def test_limit_and_hops():
    near = graph(*FOREST).search(["pine"], hops=1, limit=99)[0]
    assert {f.text for f in near} == {"pine is a tree", "pine grows in europe"}
    far = graph(*FOREST).search(["pine"], hops=2, limit=99)[0]
    assert {f.text for f in near} < {f.text for f in far}
    assert "tree is a plant" in {f.text for f in far}
    assert "squirrel eats acorn" not in {f.text for f in far}
    assert [len(f) for f in graph(*FOREST).search(["pine", "oak", "stone"], limit=1)] == [1, 1, 0]


def naive_neighbourhood(keys: list[tuple[str, str, str]], mentioned: set[str]) -> set[str]:
    """Return what one hop and the paths of two steps between mentions hold."""
    touched = {k for k in keys if {k[0], k[2]} & mentioned}
    return {f"{h} {relation_words(r)} {t}".replace("_", " ") for h, r, t in touched}


@pytest.mark.skipif(not (KG / "umls" / "train.jsonl").is_file(), reason="the shared data is absent")
def test_real_neighbourhoods_equal_a_naive_scan():
    own = Graph.read(KG / "umls")
    keys = [triple.key for triple in own.content.triples]
    lines = (KG / "umls" / "test.jsonl").read_text().splitlines()[:20]
    for row in map(json.loads, lines):
        text = f"How does {row['head']} relate to {row['tail']}?"
        mentioned = set(own.linked(text))
        assert {row["head"], row["tail"]} <= mentioned
        found = own.search([text], limit=10_000)[0]
        assert {f.text for f in found} == naive_neighbourhood(keys, mentioned)
        assert own.verbalise(Triple(**row, file="", line=0)) not in {f.text for f in found}, (
            "a test triple is in the train graph"
        )


def test_the_source_of_each_fact_is_the_line_that_says_it(tmp_path):
    path = tmp_path / "kg.tsv"
    path.write_text("".join("\t".join(key.split()) + "\n" for key in FOREST))
    lines = path.read_text().splitlines()
    for fact in Graph.read(path).search(["oak and pine in Europe"], limit=99)[0]:
        file, line = fact.source.rsplit(":", 1)
        head, _, tail = lines[int(line) - 1].split("\t")
        assert file == "kg.tsv"
        assert fact.text.startswith(head)
        assert fact.text.endswith(tail)


def test_rare_relations_and_rare_middles_come_first():
    keys = [f"hub r x{n}" for n in range(30)]
    own = graph("aa r hub", "bb r hub", "aa r rare", "bb r rare", *keys)
    assert {f.text for f in own.search(["aa bb"], limit=2)[0]} == {"aa r rare", "bb r rare"}
    own = graph("aa often x1", "aa often x2", "aa seldom x3", *(f"y{n} often z" for n in range(9)))
    assert own.search(["aa"], limit=1)[0][0].text == "aa seldom x3"


def test_hubs_are_bounded():
    own = graph(*(f"hub r x{n}" for n in range(20_000)), "hub r2 spoke", "far r3 spoke")
    looked = own.search(["the hub and the spoke"], hops=2, limit=3)[0]
    assert looked[0].text == "hub r2 spoke"
    assert len(own.search(["hub"], limit=10**6)[0]) <= 512


def test_removed_triples_are_gone():
    own = graph(*FOREST).without([("oak", "isa", "tree")])
    assert "oak is a tree" not in {f.text for f in own.search(["oak tree"], limit=99)[0]}
    assert len(own.content.triples) == len(FOREST) - 1


def test_names_and_literals():
    own = Graph(
        TripleSet(
            triples=(
                Triple(head="Q1", relation="P31", tail="Q2", file="w.nt", line=1),
                Triple(
                    head="Q1",
                    relation="http://e/birthYear",
                    tail="1920",
                    file="w.nt",
                    line=2,
                    literal=True,
                ),
                Triple(head="Q3", relation="x", tail="1920", file="w.nt", line=3, literal=True),
            ),
            names={"Q1": ("Ada Oak", "A. Oak"), "Q2": ("human",), "P31": ("is a",)},
        )
    )
    found = own.search(["Was A. Oak born in 1920?"])[0]
    assert {f.text for f in found} == {"Ada Oak is a human", "Ada Oak birth year 1920"}
    assert facts_block(found).startswith("Facts: Ada Oak")


@pytest.mark.parametrize(
    ("relation", "words"),
    [
        ("_derivationally_related_form", "derivationally related form"),
        ("_hypernym", "is a kind of"),
        ("http://www.w3.org/1999/02/22-rdf-syntax-ns#type", "is a"),
        ("http://www.w3.org/2000/01/rdf-schema#subClassOf", "is a kind of"),
        ("/soccer/football_team/current_roster./sports/sports_team_roster/position", "position"),
        ("hasDNAPart", "has DNA part"),
        ("co-occurs_with", "co-occurs with"),
        ("属于", "属于"),
        ("ISBN", "ISBN"),
    ],
)
def test_relation_words(relation, words):
    assert relation_words(relation) == words
