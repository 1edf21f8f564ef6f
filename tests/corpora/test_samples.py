"""Samples in packages: only the named members are read, whatever the archive holds."""

import gzip
import io
import json
import lzma
import tarfile
import zipfile
import zlib

import pytest

from sapwood.corpora import samples
from sapwood.corpora.draft import Meter
from sapwood.corpora.samples import NOVELS, SAMPLES, members, pull
from sapwood.corpora.web import records
from sapwood.errors import ConfigError, DataError, ResourceError


def tarball(files: dict[str, bytes], mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def debian(files: dict[str, bytes]) -> bytes:
    """A Debian package: an ar archive of a version, a control tar and a data tar."""
    data = tarball({f"./{name}": content for name, content in files.items()}, "w:xz")
    out = b"!<arch>\n"
    for name, content in (
        (b"debian-binary", b"2.0\n"),
        (b"control.tar.xz", b"odd"),
        (b"data.tar.xz", data),
    ):
        out += name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"100644".ljust(8)
        out += str(len(content)).encode().ljust(10) + b"`\n" + content + b"\n" * (len(content) % 2)
    return out


def serialised(lines: list[str]) -> bytes:
    """A character vector as R writes it, compressed and after its length."""
    data = b"X\n" + b"\0\0\0\3" + b"\0\4\2\1" + b"\0\3\5\0" + b"\0\0\0\5UTF-8" + b"\0\0\0\x10"
    data += len(lines).to_bytes(4, "big")
    for line in lines:
        raw = line.encode()
        data += b"\0\4\0\x09" + len(raw).to_bytes(4, "big") + raw
    data += b"\0\4\0\x09" + (-1).to_bytes(4, "big", signed=True)
    data = data[: 31 - 4] + (len(lines) + 1).to_bytes(4, "big") + data[31:]
    return len(data).to_bytes(4, "big") + zlib.compress(data)


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Let `pull` find an archive of this content."""

    def use(name: str, content: bytes):
        path = (
            tmp_path
            / f"archive{'.whl' if SAMPLES[name].project[0] else SAMPLES[name].archive[-4:]}"
        )
        path.write_bytes(content)
        monkeypatch.setattr(samples, "_fetched", lambda known, to: path)
        return path

    return use


def test_the_novels_come_out_of_r(tmp_path, serve):
    base = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    novels = b"".join(
        serialised([title.upper(), "", f"It is {name}."]) for name, title in NOVELS.items()
    )
    serve("austen", debian({base: novels, "usr/bin/evil": b"x"}))
    folder = pull("austen", tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["SOURCE.md", *(f"{n}.txt" for n in NOVELS)]
    )
    assert (folder / "emma.txt").read_text() == "EMMA\n\nIt is emma.\n\n"
    source = (folder / "SOURCE.md").read_text()
    assert "- Licence: public domain" in source and SAMPLES["austen"].sha256 in source
    assert pull("austen", tmp_path) == folder


def test_the_dump_comes_out_of_the_wheel(tmp_path, serve):
    out = io.BytesIO()
    name = (
        "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    )
    with zipfile.ZipFile(out, "w") as wheel:
        wheel.writestr(name, b"dump")
        wheel.writestr("gensim/__init__.py", "raise SystemExit")
    serve("enwiki-excerpt", out.getvalue())
    folder = pull("enwiki-excerpt", tmp_path)
    assert (folder / "enwiki-excerpt.xml.bz2").read_bytes() == b"dump"


def test_the_handbook_becomes_a_crawl(tmp_path, serve):
    base = "usr/share/doc/debian-handbook/html"
    pages = {
        f"{base}/{lang}/{n}.html": f"<p>{lang} {n}</p>".encode()
        for lang in ("en-US", "zh-CN", "de-DE")
        for n in "ab"
    }
    serve("debian-handbook", debian(pages))
    crawl = pull("debian-handbook", tmp_path) / "debian-handbook.warc.gz"
    found = list(records(crawl, Meter()))
    assert [one.data for one in found] == [
        b"<p>en-US a</p>",
        b"<p>en-US b</p>",
        b"<p>zh-CN a</p>",
        b"<p>zh-CN b</p>",
    ]
    assert found[0].about["url"] == "https://debian-handbook.info/browse/en-US/a.html"
    first = crawl.read_bytes()
    assert gzip.decompress(first).startswith(b"WARC/1.0\r\n")


def test_the_poems_come_in_the_order_of_the_files(tmp_path, serve):
    def poem(line):
        return {"title": "t", "author": "a", "paragraphs": [line, " "], "id": "x"}

    base = "package/dist/quantangshi/poet.tang."
    files = {f"{base}{n}.json": json.dumps([poem(f"第{n}首。")]).encode() for n in (1000, 0, 20000)}
    serve("tang-poems", tarball(files, "w:gz"))
    lines = (pull("tang-poems", tmp_path) / "tang.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["第0首。", "第1000首。", "第20000首。"]


@pytest.mark.parametrize("name", SAMPLES)
def test_an_archive_that_is_not_as_expected_says_so(tmp_path, serve, name):
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    contents = {
        "austen": debian(
            {"usr/lib/R/site-library/janeaustenr/data/Rdata.rdb": serialised(["NO NOVEL"])}
        ),
        "enwiki-excerpt": empty.getvalue(),
        "debian-handbook": debian({}),
        "tang-poems": b"no tar",
    }
    serve(name, contents[name])
    with pytest.raises(DataError) as caught:
        pull(name, tmp_path)
    assert caught.value.code == "E-DATA-196"
    assert f"does not hold '{name}' as expected" in caught.value.what
    assert not (tmp_path / "corpora" / name).exists()
    serve(name, b"!<arch>\n" + b"x" * 70)
    with pytest.raises(DataError):
        pull(name, tmp_path)


def test_only_regular_files_that_match_are_read(tmp_path):
    path = tmp_path / "a.deb"
    path.write_bytes(debian({"b.txt": b"2", "a.txt": b"1", "c.bin": b"3"}))
    assert list(members(path, "*.txt")) == [("a.txt", b"1"), ("b.txt", b"2")]
    assert lzma.FORMAT_XZ


def test_unknown_names_and_dead_networks(tmp_path, monkeypatch):
    with pytest.raises(ConfigError) as caught:
        pull("austin", tmp_path)
    assert caught.value.code == "E-CONFIG-231" and "Did you mean 'austen'?" in caught.value.what

    def dead(url, sha256, to):
        raise TimeoutError("timed out")

    monkeypatch.setattr(samples, "download", dead)
    with pytest.raises(ResourceError) as failed:
        pull("austen", tmp_path)
    assert failed.value.code == "E-RESOURCE-062" and len(failed.value.details) == 2
    assert str(tmp_path / "packages") in failed.value.fix


def test_a_file_copied_in_by_hand_is_used(tmp_path, monkeypatch):
    base = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    content = debian({base: b"".join(serialised([title, "x"]) for title in NOVELS.values())})
    import dataclasses
    import hashlib

    known = dataclasses.replace(SAMPLES["austen"], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(samples.SAMPLES, "austen", known)
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / known.archive).write_bytes(content)
    assert (pull("austen", tmp_path) / "persuasion.txt").is_file()
