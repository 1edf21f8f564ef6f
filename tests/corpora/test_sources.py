"""Sources are told by what they hold, and every problem is said at once."""

import bz2
import gzip
import json
import zipfile

import pytest

from sapwood.corpora.sources import NOT_STATED, find_sources, told
from sapwood.errors import ConfigError, DataError


def test_every_kind_is_told_by_its_content(sources):
    given = find_sources(sources)
    assert [(g.name, {f.format for f in g.files}) for g in given] == [
        ("wiki", {"wiki"}), ("crawl", {"warc"}), ("texts", {"warc"}), ("tale", {"epub"}),
        ("rows", {"jsonl"}), ("books", {"text"}),
    ]  # fmt: skip
    assert [f.name for f in given[-1].files] == ["one.txt", "two.txt"]


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"PAR1....", "parquet"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html></html>", "html"),
        (b'<?xml version="1.0"?>\n<html xmlns="x"><body/></html>', "html"),
        (b'<?xml version="1.0"?>\n<mediawiki xml:lang="en">', "wiki"),
        (b'{"text": "a"}\n', "jsonl"),
        (b'{"content": "' + b"a" * 100_000 + b'"}', "jsonl"),
        (b"id,text\n1,a\n", "csv"),
        (b"title\ttext\nx\ty\n", "csv"),
        (b"x\nThe Project Gutenberg eBook of X\n*** START OF THE PROJECT GUTENBERG", "gutenberg"),
        (b"Once upon a time, a text, was plain.\n", "text"),
        ("天气很好。".encode("gb18030") * 200, "text"),
        ("wide text".encode("utf-16"), "text"),
        (b"\x5d\x2a\x4d\x18" + bytes(range(200)), "warc"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_formats(tmp_path, content, form, pack):
    path = tmp_path / "file.bin"
    path.write_bytes(pack(content))
    assert told(path) == form


@pytest.mark.parametrize("shift", range(4))
def test_a_head_may_end_inside_a_character(tmp_path, shift):
    path = tmp_path / "long.txt"
    path.write_text("x" * shift + "汉" * 40_000, encoding="utf-8")
    assert told(path) == "text"


def test_all_problems_come_in_one_message(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.7")
    (tmp_path / "list.json").write_text('[{"text": 1}]')
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    (tmp_path / "pretty.json").write_text('{\n  "text": "a"\n}\n')
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "noise.bin").write_bytes(bytes(200))
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("a.doc", "x")
    (tmp_path / "cut.xml.gz").write_bytes(gzip.compress(b"<mediawiki>" * 9999)[:12])
    (tmp_path / "crawl.warc").write_bytes(b"WARC/1.0\r\n")
    names = ["empty.txt", "paper.pdf", "list.json", "rows.jsonl", "pretty.json", "table.csv",
             "noise.bin", "some.zip", "cut.xml.gz", "crawl.wrac", "crawl.warc"]  # fmt: skip
    with pytest.raises(DataError) as caught:
        find_sources([str(tmp_path / name) for name in names])
    error = caught.value
    assert (error.code, error.what) == ("E-DATA-190", "10 of 11 sources cannot be used")
    assert error.details == (
        "empty.txt is empty",
        "paper.pdf is a PDF document: export its text",
        "list.json is a JSON list: give one object a line (JSONL)",
        (
            "rows.jsonl has no column of text: it has 'question', 'answer'; one of text, content, "
            "raw_content, document, body is wanted"
        ),
        (
            "pretty.json begins like JSON, but its first line is no JSON object: give one object a "
            "line"
        ),
        (
            "table.csv has no column of text: its first line is 'a,b'; one of text, content, "
            "raw_content, document, body is wanted"
        ),
        "noise.bin is a binary file of a kind that is not known",
        "some.zip is a zip archive and no EPUB (a.doc): unpack it first",
        "cut.xml.gz ends too early: the gzip data are cut off",
        f"{tmp_path / 'crawl.wrac'}: no such file or folder. Did you mean 'crawl.warc'?",
    )
    assert "FORMAT=PATH says how one is to be read" in error.fix


def test_a_format_can_be_named(tmp_path):
    path = tmp_path / "poems.txt"
    path.write_text("one\ntwo\n")
    (given,) = find_sources([f"lines={path}"])
    assert given.files[0].format == "lines"
    with pytest.raises(ConfigError, match="Unknown format 'linse'") as caught:
        find_sources([f"linse={path}"])
    assert caught.value.code == "E-CONFIG-230"
    assert "Did you mean 'lines'?" in caught.value.what


def test_a_folder_leaves_out_what_it_cannot_use_and_says_so(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.txt").write_text("words")
    (folder / ".hidden.txt").write_text("words")
    (folder / "b.png").write_bytes(b"\x89PNG....")
    (folder / "SOURCE.md").write_text("# x\n- Licence: CC BY 4.0\n")
    (given,) = find_sources([str(folder)])
    assert [f.name for f in given.files] == ["a.txt"]
    assert given.skipped == ("b.png is a picture: give files of text",)
    assert given.licence == "CC BY 4.0"
    (folder / "a.txt").unlink()
    with pytest.raises(DataError) as caught:
        find_sources([str(folder)])
    assert "no file in this folder can be used; b.png is a picture" in caught.value.details[0]


def test_names_are_short_and_different(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.jsonl").write_text(json.dumps({"text": "x"}))
    given = find_sources([str(tmp_path / n / "text.jsonl") for n in ("a", "b")])
    assert [g.name for g in given] == ["text", "text-2"]


def test_licences(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "x"}')
    assert find_sources([str(path)])[0].licence == NOT_STATED
    assert find_sources([str(path)], {"rows": "CC0"})[0].licence == "CC0"
    with pytest.raises(ConfigError, match="names the source 'row', which is not given"):
        find_sources([str(path)], {"row": "CC0"})


def test_a_sample_that_is_not_here_names_the_command():
    with pytest.raises(DataError) as caught:
        find_sources(["austen"])
    assert caught.value.details == (
        "austen is not here yet; fetch it with: sapwood corpus pull austen",
    )
