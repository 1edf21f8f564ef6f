"""Compressed or not, whole or cut off, friendly or hostile: reading stays bounded and honest."""

import bz2
import gzip
import lzma

import pytest
import zstandard

from sapwood.corpora import streams
from sapwood.corpora.draft import Meter
from sapwood.corpora.streams import Damaged, decoded, head_of, lines_of, opened

TEXT = b"".join(b"line %d of a text\n" % n for n in range(20_000))
PACKERS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", PACKERS)
def test_every_compression_is_told_by_its_bytes(tmp_path, kind):
    path = tmp_path / "named.txt"
    path.write_bytes(PACKERS[kind](TEXT) + PACKERS[kind](b"and a second member\n"))
    with opened(path) as file:
        assert file.read() == TEXT + b"and a second member\n"
    assert head_of(path) == TEXT[: streams.HEAD]


@pytest.mark.parametrize("kind", PACKERS)
def test_a_file_that_is_cut_off_says_so(tmp_path, kind):
    path = tmp_path / "cut"
    whole = PACKERS[kind](TEXT)
    path.write_bytes(whole[: len(whole) // 2])
    with opened(path) as file, pytest.raises(Damaged, match="cut off"):
        while file.read(4096):
            pass


@pytest.mark.parametrize("kind", ["gz", "bz2", "zst"])
def test_a_damaged_file_says_so(tmp_path, kind):
    path = tmp_path / "bad"
    whole = bytearray(PACKERS[kind](TEXT))
    for at in range(len(whole) // 2, len(whole) // 2 + 40):
        whole[at] ^= 0x5A
    path.write_bytes(bytes(whole))
    with opened(path) as file, pytest.raises(Damaged, match=r"is damaged|cut off"):
        while file.read(4096):
            pass


@pytest.mark.parametrize("kind", ["gz", "bz2", "zst"])
def test_a_bomb_is_stopped(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(streams, "HARMLESS", 1 << 20)
    path = tmp_path / "bomb"
    path.write_bytes(PACKERS[kind](bytes(64 << 20)))
    read = 0
    with opened(path) as file, pytest.raises(Damaged, match="more than 200 times"):
        while block := file.read(1 << 16):
            read += len(block)
    assert read < 40 << 20


def test_lines_are_bounded(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(b"short\r\n" + b"x" * 500 + b"\nlast")
    assert list(lines_of(path, largest=100)) == [b"short", None, b"last"]


def test_the_meter_follows_the_file(tmp_path):
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(TEXT))
    meter = Meter()
    assert meter.position() == 0
    lines = lines_of(path, meter)
    next(lines)
    assert 0 < meter.position() <= path.stat().st_size


def test_decoding_tries_what_is_named_and_what_is_found():
    german = "Größe und Maß, überall schön. " * 20
    assert decoded(german.encode()) == german
    assert decoded("\ufeffmark".encode()) == "mark"
    assert decoded(german.encode("latin-1"), "iso-8859-1") == german
    assert decoded("天气很好，我们去北京。".encode("gb18030") * 30, "gb18030").startswith("天气")
    assert decoded("wide".encode("utf-16")) == "wide"
    assert decoded(german.encode("latin-1"), "no-such-encoding") is not None


def test_a_few_broken_bytes_are_replaced():
    data = b"plain words " * 500 + b"\xff" + b" and more"
    text = decoded(data)
    assert text is not None and text.count("\ufffd") == 1
