"""Triples are read from every format, and whatever is no triple is told by its line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context.ntriples import label_rank, parse
from sapwood.context.triples import Triple, looks_like_triples, own_name, read_triples
from sapwood.errors import DataError

KEYS = [("alga", "isa", "plant"), ("plant", "isa", "organism")]


def keys(path) -> list[tuple[str, str, str]]:
    return [triple.key for triple in read_triples(path).triples]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kg.tsv", "alga\tisa\tplant\nplant\tisa\torganism\n"),
        ("kg.tsv", "head\trelation\ttail\nalga\tisa\tplant\nplant\tisa\torganism\n"),
        ("kg.csv", "alga,isa,plant\r\n\r\nplant,isa,organism\r\n"),
        ("kg.csv", 'Object,Subject,weight,Predicate\nplant,alga,1,isa\n"organism",plant,2,isa\n'),
        ("kg.csv", "alga;isa;plant\nplant;isa;organism\n"),
        ("kg.jsonl", "".join(json.dumps(dict(zip("hrt", k, strict=True))) + "\n" for k in KEYS)),
        ("kg.nt", '<alga> <isa> <plant> . # why\n# a comment\n<plant> <isa> "organism"@en .'),
    ],
)
def test_every_format_gives_the_same_triples(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    assert keys(path) == KEYS
    assert looks_like_triples(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "kg.tsv"
    rows = "水稻\t属于\t植物\n小麦\t属于\t粮食作物\n" * 3
    path.write_bytes(rows.encode(encoding))
    assert keys(path)[1] == ("小麦", "属于", "粮食作物")
    assert read_triples(path).triples[-1].line == 6


def test_lines_and_files_are_kept(tmp_path):
    path = tmp_path / "kg.csv"
    path.write_text('head,relation,tail\na,r,"b\nc"\n\nd,r,e\n', encoding="utf-8")
    found = read_triples(path).triples
    assert [(t.file, t.line, t.tail) for t in found] == [("kg.csv", 2, "b c"), ("kg.csv", 5, "e")]


def test_all_bad_lines_are_told_at_once(tmp_path):
    path = tmp_path / "kg.tsv"
    path.write_text("a\tr\tb\na\tr\na\t\tb\nno tabs\na\tr\tb\tc\na\tr\tb\x01\n", encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:  # so that it does not pass for a binary file
        file.write("a\tr\tthe end of a long line\n")
    with pytest.raises(DataError) as caught:
        read_triples(path)
    assert caught.value.what == "kg.tsv: 5 of 7 lines cannot be read"
    assert caught.value.details == (
        "line 2: 2 fields instead of 3",
        "line 3: the relation is empty",
        "line 4: 1 fields instead of 3",
        "line 5: 4 fields instead of 3",
        "line 6: the tail holds control characters",
    )
    assert "head<TAB>relation<TAB>tail" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("kg.jsonl", "{nope", "line 1: not JSON"),
        ("kg.jsonl", "[1]", "line 1: not an object but a list"),
        ("kg.jsonl", '{"head": "a", "tail": "b"}', "no head, relation and tail among head, tail"),
        ("kg.jsonl", '{"head": "a", "relation": "r", "tail": ["b"]}', "the tail is a list"),
        ("kg.jsonl", '{"head": "a", "relation": "r", "tail": "\\ud800"}', "surrogate pair"),
        ("kg.csv", 'a,r,"b', "line 1: its quotes cannot be read"),
        ("kg.nt", "<a> <b> <c>", "no full stop ends the triple"),
        ("kg.nt", '<a> <b> "c .', "a quote is opened and never closed"),
        ("kg.nt", "@prefix ex: <http://ex.org/> .", "this is Turtle"),
        ("kg.nt", "ex:a ex:b ex:c .", "this is Turtle"),
        ("kg.nt", '<a> <b> "\\q" .', "\\q is no escape"),
        ("kg.nt", '"a" <b> <c> .', "not <subject> <predicate> <object> ."),
    ],
)
def test_what_is_wrong_with_a_line(tmp_path, name, line, said):
    path = tmp_path / name
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_triples(path)
    assert caught.value.code == "E-DATA-095"
    assert said in str(caught.value)


def test_files_that_are_no_graph(tmp_path):
    (tmp_path / "kg.ttl").write_text("<a> <b> <c> .")
    with pytest.raises(DataError, match=r"kg\.ttl: triples are not read(.|\n)*ntriples"):
        read_triples(tmp_path / "kg.ttl")
    (tmp_path / "empty.tsv").write_text("head\trelation\ttail\n")
    with pytest.raises(DataError, match="holds no triple"):
        read_triples(tmp_path / "empty.tsv")
    with pytest.raises(DataError, match=r"No such file.*Did you mean 'empty.tsv'"):
        read_triples(tmp_path / "emty.tsv")
    (tmp_path / "zipped.csv").write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(DataError, match="a zip archive"):
        read_triples(tmp_path / "zipped.csv")
    (tmp_path / "other.csv").write_text("a,b,c\n")
    with pytest.raises(DataError, match="holds 3 files that could be the graph"):
        read_triples(tmp_path)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=120))
def test_no_line_is_a_traceback(text, tmp_path_factory):
    for name in ("kg.tsv", "kg.csv", "kg.jsonl", "kg.nt"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            assert read_triples(path).triples
        except DataError as error:
            assert error.fix or error.details


def test_names_from_labels_and_from_a_file_beside(tmp_path):
    rdf = "http://www.w3.org/2000/01/rdf-schema#label"
    (tmp_path / "kg.nt").write_text(
        f'<http://ex.org/Q1> <http://www.w3.org/2004/02/skos/core#altLabel> "big pear"@en .\n'
        f'<http://ex.org/Q1> <{rdf}> "p\\u00eache\\n verte"@fr .\n'
        f"<http://ex.org/Q1> <http://ex.org/growsIn> <http://ex.org/S%C3%A3o_Paulo> .\n",
        encoding="utf-8",
    )
    found = read_triples(tmp_path / "kg.nt")
    assert found.names == {"http://ex.org/Q1": ("pêche verte", "big pear")}
    assert len(found.triples) == 1
    (tmp_path / "entities.jsonl").write_text(
        '{"id": "pear.n.1", "lemmas": ["pear", "pear_tree"], "gloss": "a sweet  fruit"}\n'
    )
    (tmp_path / "train.tsv").write_text("pear.n.1\t_hypernym\tfruit.n.1\n")
    found = read_triples(tmp_path)
    assert found.names == {"pear.n.1": ("pear", "pear tree")}
    assert found.triples[-1] == Triple(
        head="pear.n.1", relation="means", tail="a sweet fruit",
        file="entities.jsonl", line=1, literal=True,
    )  # fmt: skip
    (tmp_path / "entities.jsonl").write_text('{"id": "a"}\n7\n{"name": "b"}\n')
    with pytest.raises(DataError, match=r"2 of 3 lines(.|\n)*line 2: not a JSON(.|\n)*no \"id\""):
        read_triples(tmp_path)


def test_the_first_row_tells_a_graph_from_texts(tmp_path):
    for name, top, graph in (
        ("a.csv", "text,label", False),
        ("b.csv", "id,text,label", False),
        ("c.csv", "x,y,z", True),
        ("d.jsonl", '{"text": "a", "label": "b"}', False),
        ("e.jsonl", '{"subject": "a", "predicate": "b", "object": "c"}', True),
        ("f.txt", "a b c", False),
    ):
        (tmp_path / name).write_text(top + "\n")
        assert looks_like_triples(tmp_path / name) is graph, name


def test_n_triples_terms():
    found = parse(
        r'_:b0<http://e/p>"a \"b\" \U0001F333"^^<http://www.w3.org/2001/XMLSchema#string>.'
    )
    assert not isinstance(found, str)
    assert (found.head, found.tail, found.literal) == ("_:b0", 'a "b" 🌳', True)
    assert parse(r'<a> <b> "\U0011FFFF" .') == "\\U0011FFFF is no character"
    assert label_rank("http://www.w3.org/2004/02/skos/core#altLabel") == 3


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("carob.n.12493208", "carob"),
        ("metric_capacity_unit.n.13616054", "metric capacity unit"),
        ("http://www.wikidata.org/entity/Q42", "Q42"),
        ("http://ex.org/a/", "a"),
        ("urn:isbn:123", "123"),
        ("_:b1", "b1"),
        ("St. John", "St. John"),
        ("___", "___"),
    ],
)
def test_names_of_identifiers(identifier, name):
    assert own_name(identifier) == name
