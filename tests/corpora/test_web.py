"""Crawls and pages: what is a page, what is its text, what a broken file does."""

import contextlib
import gzip
import io

import pytest
from fastwarc.stream_io import ZstdWriter
from fastwarc.warc import ArchiveIterator
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.corpora.draft import Draft, Drop, Meter, Raw
from sapwood.corpora.samples import warc_record
from sapwood.corpora.streams import Damaged
from sapwood.corpora.web import HTML, WARC, extract, records


def read(path):
    return list(records(path, Meter()))


def saved(tmp_path, data, name="crawl.warc.gz"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_pages_come_out_as_text(tmp_path, kit):
    path = saved(tmp_path, kit.warc([kit.prose(1), kit.prose(2)]))
    found = read(path)
    assert [one.id for one in found] == ["#1", "#2"]
    (draft,) = extract(found[0])
    assert draft.text.strip() == kit.prose(1)
    assert (draft.url, draft.title, draft.rules) == ("https://example.org/0", "A page", "web")
    assert "Home" not in draft.text and "var x" not in draft.text


def test_plain_and_zst_are_read_too(tmp_path, kit):
    packed = kit.warc([kit.prose(1)])
    plain = gzip.decompress(packed)
    out = io.BytesIO()
    for record in ArchiveIterator(io.BytesIO(packed), parse_http=False):
        writer = ZstdWriter(out)
        record.write(writer)
        writer.close()
    for data, name in ((plain, "a.warc"), (out.getvalue(), "a.warc.zst")):
        assert [one.data for one in read(saved(tmp_path, data, name))] == [kit.html(kit.prose(1))]


def test_wet_records_are_text_already(tmp_path, kit):
    (raw,) = read(saved(tmp_path, kit.wet([kit.chinese(1)])))
    (draft,) = extract(raw)
    assert (draft.text, draft.url) == (kit.chinese(1), "https://example.org/w0")


def with_head(head: bytes, body: bytes) -> bytes:
    record = warc_record("https://example.org/x", b"")
    front, _, _ = record.partition(b"\r\n\r\n")
    block = head + body
    front = b"\r\n".join(
        b"Content-Length: %d" % len(block) if line.startswith(b"Content-Length") else line
        for line in front.split(b"\r\n")
    )
    return front + b"\r\n\r\n" + block + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n", "HTTP status is not 200"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n", "no HTML"),
    ],
)
def test_what_is_no_page_is_dropped_with_a_reason(tmp_path, kit, head, reason):
    (found,) = read(saved(tmp_path, with_head(head, kit.html("x")), "a.warc"))
    assert isinstance(found, Drop) and found.reason == reason
    assert "https://example.org/x" in found.detail


@pytest.mark.parametrize("declared", ["header", "meta", "none"])
def test_the_encoding_of_a_page_is_found(tmp_path, declared):
    words = "Größe und Maß sind überall schön. " * 30
    meta = '<meta charset="iso-8859-1">' if declared == "meta" else ""
    body = f"<html><head>{meta}<title>x</title></head><body><p>{words}</p></body></html>"
    charset = b"; charset=iso-8859-1" if declared == "header" else b""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html" + charset + b"\r\n\r\n"
    (raw,) = read(saved(tmp_path, with_head(head, body.encode("latin-1")), "a.warc"))
    assert "Größe und Maß sind überall schön." in next(extract(raw)).text


def test_compressed_answers_are_unpacked_in_bounds(tmp_path, kit, monkeypatch):
    body = gzip.compress(kit.html(kit.prose(3)))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n"
    path = saved(tmp_path, with_head(head, body), "a.warc")
    (raw,) = read(path)
    assert next(extract(raw)).text.strip() == kit.prose(3)
    monkeypatch.setattr("sapwood.corpora.web.LARGEST_RECORD", len(raw.data) - 1)
    (found,) = read(path)
    assert isinstance(found, Drop) and found.reason == "larger than 16 MiB"


def test_a_large_record_is_not_read(tmp_path, kit, monkeypatch):
    monkeypatch.setattr("sapwood.corpora.web.LARGEST_RECORD", 3000)
    found = read(saved(tmp_path, kit.warc([kit.prose(1), "short words here"])))
    assert [type(one) for one in found] in ([Drop, Raw], [Raw, Raw])
    found = read(saved(tmp_path, kit.warc([kit.prose(1, 60), "short words here"])))
    assert [type(one) for one in found] == [Drop, Raw]


@pytest.mark.parametrize("unpack", [bytes, gzip.decompress])
def test_a_crawl_that_is_cut_off_says_so(tmp_path, kit, unpack):
    whole = unpack(kit.warc([kit.prose(n) for n in range(4)]))
    found = []
    with pytest.raises(Damaged, match=r"cut off|ends too early"):
        found.extend(records(saved(tmp_path, whole[: len(whole) - 300]), Meter()))


def test_a_saved_page_is_one_document(tmp_path, kit):
    path = saved(tmp_path, kit.html(kit.prose(9)), "page.html")
    (raw,) = HTML.records(path, Meter())
    (draft,) = HTML.extract(raw)
    assert draft.text.strip() == kit.prose(9)
    assert WARC.rules == HTML.rules == "web"


def test_broken_html_is_read_as_far_as_it_goes():
    raw = Raw(id="x", data=b"<html><body><p>words <b>and <p>more</body>", about={"kind": "html"})
    assert "words" in next(extract(raw)).text
    deep = b"<div>" * 5000 + b"words in the deep" + b"</div>" * 5000
    assert isinstance(next(extract(Raw(id="x", data=deep, about={"kind": "html"}))).text, str)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bytes_that_changed_are_read_or_refused(kit, tmp_path_factory, data):
    """Whatever a disk or a network did to a crawl, it is text or a sentence, never a traceback."""
    whole = bytearray(gzip.decompress(kit.warc([kit.prose(n, 3) for n in range(3)])))
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=12)
    ):
        whole[at] = value
    path = tmp_path_factory.mktemp("changed") / "crawl.warc"
    path.write_bytes(bytes(whole[: data.draw(st.integers(1, len(whole)))]))
    with contextlib.suppress(Damaged):
        for found in records(path, Meter()):
            if isinstance(found, Raw):
                assert all(isinstance(one, Draft | Drop) for one in extract(found))
