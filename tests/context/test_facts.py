"""Facts are found, written before a query, and travel with an adaptation unchanged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sapwood.context.facts import (
    RECORDS,
    SETTINGS,
    Fact,
    fact_blocks,
    facts_block,
    facts_json,
    has_facts,
    load_facts,
    open_facts,
    with_limit,
)
from sapwood.context.prompter import Context, Prompter
from sapwood.context.template import Template
from sapwood.errors import ConfigError, DataError, ModelError
from sapwood.interfaces import Example

QUERIES = ["Is alga a plant?", "边材 输送", "nothing known", ""]


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "kg.tsv"
    path.write_text("alga\tisa\tplant\nplant\tisa\torganism\n边材\t输送\t水分\n", encoding="utf-8")
    return path


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    text = "Algae are no plant.\u2028Odd line.\n\nPlants are green.\n\n边材输送水分。\n"
    (folder / "a.md").write_text(text, encoding="utf-8")
    return folder


def test_the_kind_is_found_out(graph, notes):
    assert open_facts(graph).settings.kind == "graph"
    assert open_facts(notes).settings.kind == "documents"
    assert open_facts(str(graph)).settings.limit == 8
    assert open_facts(notes, limit=2).settings.limit == 2
    with pytest.raises(ConfigError, match=r"Unknown kind of facts 'graf'\. Did you mean 'graph'"):
        open_facts(graph, kind="graf")
    with pytest.raises(DataError, match=r"No such file or folder.*Did you mean 'kg.tsv'"):
        open_facts(graph.with_name("kg.tvs"))


def test_settings_out_of_range(graph):
    for bad in ({"hops": 0}, {"hops": 3}, {"limit": 0}):
        with pytest.raises(ConfigError, match="Facts take 1 or 2 hops and a limit of 1 or more"):
            open_facts(graph, **bad)
    with pytest.raises(ConfigError, match="found with the encoder 'minilm-l6', which is not here"):
        open_facts(graph, embedder="minilm-l6")


@pytest.mark.parametrize("kind", ["graph", "documents"])
def test_a_stored_copy_finds_the_same(kind, graph, notes, tmp_path):
    source = graph if kind == "graph" else notes
    folder = tmp_path / "adaptation"
    folder.mkdir()
    assert not has_facts(folder)
    first = open_facts(source, hops=2, limit=4)
    assert first.save(folder) == (SETTINGS, RECORDS)
    assert has_facts(folder)
    (source if kind == "graph" else source / "a.md").unlink()
    again = load_facts(folder)
    assert again.settings == first.settings
    assert again.find(QUERIES) == first.find(QUERIES)
    assert again.find(QUERIES)[0][0].source.startswith("kg.tsv:1" if kind == "graph" else "a.md:1")
    assert again.find(QUERIES)[2:] == [(), ()]
    assert len(with_limit(again, 1).find(QUERIES)[0]) == 1
    other = tmp_path / "other"
    again.save(other)
    assert (other / RECORDS).read_bytes() == (folder / RECORDS).read_bytes()


def test_the_hash_is_that_of_what_is_known(graph, tmp_path):
    same = tmp_path / "kg.jsonl"
    rows = [line.split("\t") for line in graph.read_text(encoding="utf-8").splitlines()]
    same.write_text(
        "".join(json.dumps(dict(zip(("h", "r", "t"), r, strict=True))) + "\n" for r in rows)
    )
    own = open_facts(graph).settings.sha256
    assert len(own) == 64
    assert open_facts(same).settings.sha256 != own  # the file is a part of the provenance
    assert open_facts(graph, hops=2).settings.sha256 == own


def test_a_damaged_copy_is_refused(graph, tmp_path):
    open_facts(graph).save(tmp_path)
    text = (tmp_path / RECORDS).read_text(encoding="utf-8")
    (tmp_path / RECORDS).write_text(text.replace("organism", "animal"), encoding="utf-8")
    with pytest.raises(ModelError, match=r"facts\.jsonl was changed or damaged"):
        load_facts(tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    for broken in ("{", json.dumps({**settings, "schema": "sapwood.facts/9"}), "[]", "{}"):
        (tmp_path / SETTINGS).write_text(broken)
        with pytest.raises(ModelError, match="does not hold facts that this version reads"):
            load_facts(tmp_path)


def test_the_block():
    facts = [
        Fact(text="alga is a  plant", source="a:1", score=2.0),
        Fact(text="Plants grow.", source="a:2", score=1.0),
        Fact(text="Plants grow.", source="a:3", score=0.5),
    ]
    assert facts_block(facts) == "Facts: alga is a plant; Plants grow\n"
    assert facts_block(facts, chinese=True) == "已知：alga is a plant；Plants grow\n"
    assert facts_block([]) == facts_block((), chinese=True) == ""
    assert facts_json(facts[:1]) == [{"text": "alga is a  plant", "source": "a:1", "score": 2.0}]


def test_blocks_are_those_of_the_facts_found(graph):
    known = open_facts(graph)
    assert fact_blocks(known, QUERIES)[2:] == ["", ""]
    assert fact_blocks(known, QUERIES, chinese=True)[1] == "已知：边材 输送 水分\n"


def test_an_encoder_is_asked_for_again(notes, tmp_path):
    def embed(texts):
        return np.array([[len(t), "水" in t] for t in texts], float)

    known = open_facts(notes, embedder="mine", embed=embed)
    known.save(tmp_path / "kept")
    with pytest.raises(ConfigError, match="sapwood models pull mine"):
        load_facts(tmp_path / "kept")
    again = load_facts(tmp_path / "kept", embed=embed)
    assert again.find(["x"]) == known.find(["x"]) != [()]


def shown_with_facts(known) -> tuple[Context, list[str]]:
    """Return a context whose demonstration carries its facts, and queries with theirs."""
    template = Template(
        instruction="Judge.", before="", between="\nAnswer:", words={"yes": " yes", "no": " no"}
    )
    block = fact_blocks(known, ["plant"])[0]
    example = Example(text=f"{block}Text: plant", label="yes")
    context = Context(template=template, demonstrations=(example,), shots=1)
    blocks = fact_blocks(known, QUERIES)
    return context, [f"{b}Text: {q}" for b, q in zip(blocks, QUERIES, strict=True)]


def test_facts_of_queries_leave_the_shared_prefix_alone(graph, tiny_tokenizer):
    context, texts = shown_with_facts(open_facts(graph))
    prompter = Prompter(tiny_tokenizer, context)
    alone = tuple(prompter.prefix)
    rests = prompter.rest(texts)
    assert tuple(prompter.prefix) == alone
    for text, rest in zip(texts, rests, strict=True):
        whole = prompter.whole(text, context.demonstrations)
        assert [*prompter.prefix, *rest] == whole


@pytest.mark.weights("smollm2-135m")
def test_a_real_base_copies_an_answer_from_the_facts(graph):
    from sapwood.evaluation import Bases
    from sapwood.launch import choose_runtime
    from sapwood.models.trie import build_trie

    bases = Bases(choose_runtime("cpu", "float32"))
    words = {name: f" {name}" for name in ("plant", "organism", "metal", "colour")}
    template = Template(instruction="", before="", between=" An alga is a", words=words)
    prompter = Prompter(bases.get("smollm2-135m").tokenizer, Context(template=template))
    blocks = ["", *fact_blocks(open_facts(graph, limit=1), ["Is alga a plant?"])]
    trie = build_trie(prompter.labels(list(words)))
    rests = prompter.rest([f"{block}So:" for block in blocks])
    decoder = bases.decoder("smollm2-135m")
    without, given = decoder.label_scores(rests, trie, decoder.encode(prompter.prefix))
    assert given.argmax() == 0
    assert given[0] - without[0] > 0.1
