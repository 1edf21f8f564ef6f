"""Fetching a pinned file: from any index pip knows, whole, right, and running nothing."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sapwood import packages
from sapwood.errors import ResourceError
from sapwood.packages import fetch, parse_links, read_sources

CONTENT = bytes(range(256)) * 5000
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = "Some_Thing-1.2.tar.gz"
ASKED = ("some-thing", "1.2", "*.tar.gz", SHA)


class Index(BaseHTTPRequestHandler):
    """An index with faults that a test may switch on."""

    page = f'<a href="../files/{NAME}#sha256={SHA}">x</a>'
    faults: list[int] = []  # noqa: RUF012
    cut = 0
    seen: list[tuple[str, str, str]] = []  # noqa: RUF012
    content = CONTENT

    def do_GET(self):
        Index.seen.append(
            (self.path, self.headers.get("Range", ""), self.headers.get("Authorization", ""))
        )
        if Index.faults:
            self.send_error(Index.faults.pop(0))
        elif self.path.endswith("/some-thing/"):
            self.reply(200, Index.page.encode())
        elif self.path.endswith(NAME):
            start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
            body = Index.content[start:]
            sent = body[: Index.cut] if Index.cut else body
            Index.cut = 0
            self.reply(206 if start else 200, sent, length=len(body))
        else:
            self.send_error(404)

    def reply(self, status, body, length=None):
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def index(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Index.faults, Index.cut, Index.seen, Index.content = [], 0, [], CONTENT
    Index.page = f'<a href="../files/{NAME}#sha256={SHA}">x</a>'
    url = f"http://127.0.0.1:{server.server_port}/simple"
    monkeypatch.setattr(packages, "pip_settings", lambda: {"index-url": url, "timeout": "5"})
    monkeypatch.setattr(packages.time, "sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield url
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_is_fetched_once(index, tmp_path, capsys):
    path = fetch(*ASKED, tmp_path / "new" / "folder")
    assert path.name == NAME
    assert path.read_bytes() == CONTENT
    assert [place for place, *_ in Index.seen] == ["/simple/some-thing/", f"/simple/files/{NAME}"]
    assert fetch(*ASKED, path.parent) == path
    assert len(Index.seen) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"downloading {NAME} (1.3 MB)\n"


def test_a_copied_file_needs_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "pip_settings", lambda: pytest.fail("asked"))
    (tmp_path / NAME).write_bytes(CONTENT)
    assert fetch(*ASKED, tmp_path) == tmp_path / NAME


def test_faults_of_the_server_are_retried(index, tmp_path):
    Index.faults = [503, 500]
    assert fetch(*ASKED, tmp_path).read_bytes() == CONTENT


def test_a_dropped_connection_resumes(index, tmp_path):
    Index.cut = 300_000
    assert fetch(*ASKED, tmp_path).read_bytes() == CONTENT
    assert [asked for place, asked, _ in Index.seen if place.endswith(NAME)] == [
        "",
        "bytes=300000-",
    ]


def test_a_wrong_partial_file_is_thrown_away(index, tmp_path):
    (tmp_path / f".{NAME}.{SHA[:12]}.part").write_bytes(b"wrong" * 100)
    assert fetch(*ASKED, tmp_path).read_bytes() == CONTENT


def test_other_content_is_refused(index, tmp_path):
    Index.content = b"evil" + CONTENT[4:]
    Index.page = f'<a href="/files/{NAME}">x</a>'
    with pytest.raises(ResourceError) as caught:
        fetch(*ASKED, tmp_path)
    assert caught.value.code == "E-RESOURCE-023"
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_a_link_with_another_hash_is_not_even_asked(index, tmp_path):
    Index.page = f'<a href="/files/{NAME}#sha256={"0" * 64}">x</a>'
    with pytest.raises(ResourceError, match="not the file that was pinned"):
        fetch(*ASKED, tmp_path)
    assert len(Index.seen) == 1


@pytest.mark.parametrize("asked", [("other", "1.2"), ("some-thing", "1.2.3"), ("some-thing", "1")])
def test_nothing_offered_says_where_it_was_asked(index, tmp_path, asked):
    with pytest.raises(ResourceError) as caught:
        fetch(*asked, "*.tar.gz", SHA, tmp_path)
    assert caught.value.code == "E-RESOURCE-021"
    assert f"asked: {index}" in str(caught.value)
    assert "copy it into" in caught.value.fix


def test_no_network_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(
        packages, "pip_settings", lambda: {"index-url": "http://user:secret@127.0.0.1:9/simple"}
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(ResourceError) as caught:
        fetch(*ASKED, tmp_path)
    assert caught.value.code == "E-RESOURCE-022"
    assert "Connection refused" in str(caught.value)
    assert "https://pypi.org/project/some-thing/1.2/#files" in caught.value.fix
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_password_becomes_a_header(index, tmp_path, monkeypatch):
    url = index.replace("//", "//me:p%40ss@")
    monkeypatch.setattr(packages, "pip_settings", lambda: {"index-url": url})
    fetch(*ASKED, tmp_path)
    assert Index.seen[0][2] == "Basic bWU6cEBzcw=="


def test_indexes_and_links_in_the_file_system(monkeypatch, tmp_path):
    folder = tmp_path / "simple" / "some-thing"
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(CONTENT)
    (folder / "index.html").write_text(f'<a data-x="1" href="{NAME}">x</a>')
    place = (tmp_path / "simple").as_uri()
    monkeypatch.setattr(
        packages, "pip_settings", lambda: {"index-url": place, "find-links": "/nowhere"}
    )
    assert fetch(*ASKED, tmp_path / "a").read_bytes() == CONTENT
    settings = {"no-index": "true", "find-links": str(folder)}
    monkeypatch.setattr(packages, "pip_settings", lambda: settings)
    assert fetch(*ASKED, tmp_path / "b").read_bytes() == CONTENT


def test_an_unwritable_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="Cannot write"):
        fetch(*ASKED, tmp_path / "file" / "x")


def test_both_kinds_of_index_page():
    page = b'{"files": [{"filename": "a-1.whl", "url": "../a-1.whl", "hashes": {"sha256": "ff"}}]}'
    (link,) = parse_links(page, "application/vnd.pypi.simple.v1+json", "https://x/simple/a/")
    assert (link.name, link.url, link.sha256) == ("a-1.whl", "https://x/simple/a-1.whl", "ff")
    page = b"<A class=x HREF='/f/a%2B1.whl?k=1&amp;l=2#sha256=ee' >a</A>"
    link = next(
        iter(
            parse_links(
                page.replace(b"A ", b"a ").replace(b"HREF", b"href"), "text/html", "https://x/a/"
            )
        )
    )
    assert (link.name, link.url, link.sha256) == ("a+1.whl", "https://x/f/a%2B1.whl?k=1&l=2", "ee")


def test_pip_settings_are_respected(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://a/simple https://b/simple")
    sources = read_sources()
    assert sources.indexes == ("https://mirror/simple", "https://a/simple", "https://b/simple")
    assert read_sources({}).indexes == ("https://pypi.org/simple",)
    assert read_sources({"no-index": "1"}).indexes == ()
