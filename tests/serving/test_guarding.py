"""Who is let in, and how large, deep, slow or strange a question may be."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.serving.conftest import ADMIN_KEY, KEY

from sapwood.errors import ConfigError
from sapwood.serving.guarding import check_caller
from sapwood.serving.settings import Limits, Settings

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND")
OPEN = {"/healthz", "/readyz"}
WRITE = "/v1/completions"
ASK: dict[str, Any] = {"model": "reviews", "prompt": "a b"}


def paths_of(app: Any) -> set[str]:
    """Return every path with a route, whether the OpenAPI document tells it or not."""

    def inside(routes: Any, prefix: str = "") -> Iterator[str]:
        for route in routes:
            if hasattr(route, "path"):
                yield prefix + route.path
            else:
                yield from inside(route.original_router.routes, prefix)

    return set(inside(app.routes))


def asked(path: str) -> str:
    """Return a path with its parameters filled in."""
    return re.sub(r"\{[^}]*\}", "reviews", path)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def error_of(answer: httpx.Response) -> Any:
    return answer.json()["error"]


def talk(port: int, *pieces: bytes, pause: float = 0.0, wait: float = 10.0) -> bytes:
    """Send bytes as they are, piece by piece, and return what comes back until it ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as line:
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(pause)
            line.sendall(piece)
        found = b""
        while piece := line.recv(65536):
            found += piece
        return found


@pytest.fixture(scope="module")
def anyone() -> Iterator[httpx.Client]:
    """A client with no key, for any server."""
    with httpx.Client(timeout=10, verify=False) as made:
        yield made


def head(path: str, *headers: str) -> bytes:
    """Return a POST's first lines, the key among them."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {KEY}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1")


def test_the_document_tells_every_route(server: Any) -> None:
    told = set(server.app.openapi()["paths"]) | {"/openapi.json"}
    assert {path.replace(":path", "") for path in paths_of(server.app)} == told
    assert len(told) == 15


@pytest.mark.parametrize("method", METHODS)
def test_every_route_asks_for_the_key(anyone: httpx.Client, server: Any, method: str) -> None:
    others = {"/", "/docs", "/redoc", "/nothing", "/v1", "/healthz/", "/readyz/x", "//healthz",
              "/HEALTHZ", "/admin", "/healthz%2f..%2fmetrics", "/%68ealthz/../metrics"}  # fmt: skip
    for path in sorted((paths_of(server.app) | others) - OPEN):
        for headers in ({}, bearer("key-of-the-testz"), {"Authorization": KEY}):
            answer = anyone.request(method, server.url + asked(path), headers=headers)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.headers["www-authenticate"] == "Bearer"
            if method != "HEAD":
                assert error_of(answer)["code"] == "E-CONFIG-294"
                assert error_of(answer)["type"] == "authentication_error"


def test_health_needs_no_key(anyone: httpx.Client, server: Any) -> None:
    assert anyone.get(f"{server.url}/healthz").json() == {"status": "alive"}
    assert anyone.get(f"{server.url}/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY.upper()}", f"Bearer {KEY}x",
     f"Bearer {KEY[:-1]}", f"Bearer {KEY} x", f"Bearer x{KEY}", f"Bearer {KEY}\u00e9",
     f"Bearer {KEY.replace('y', 'ÿ')}", "Bearer None", "Bearer *", f"Bearer {KEY},{KEY}",
     "Bearer " + "x" * 8_000],
)  # fmt: skip
def test_only_the_key_itself_is_the_key(anyone: httpx.Client, server: Any, given: str) -> None:
    headers = {"Authorization": given.encode("utf-8")}
    answer = anyone.get(f"{server.url}/v1/models", headers=headers)
    assert answer.status_code == 401 and error_of(answer)["code"] == "E-CONFIG-294"
    assert error_of(answer)["message"] == (
        "E-CONFIG-294  The key is missing or wrong.\n"
        "  Fix: send the header Authorization: Bearer KEY"
    )


def test_the_scheme_may_be_written_as_one_likes(anyone: httpx.Client, server: Any) -> None:
    for scheme in ("bearer", "BEARER", "Bearer  "):
        headers = {"Authorization": f"{scheme} {KEY}"}
        assert anyone.get(f"{server.url}/v1/models", headers=headers).status_code == 200


def test_of_two_keys_the_first_counts(anyone: httpx.Client, server: Any) -> None:
    headers = [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {KEY}")]
    assert anyone.get(f"{server.url}/v1/models", headers=headers).status_code == 401


def test_admin_routes_need_the_admin_key(
    anyone: httpx.Client, server: Any, serve: Callable[..., Any]
) -> None:
    admin = [path for path in paths_of(server.app) if path.startswith("/admin/")]
    assert len(admin) == 4
    shut = serve(admin_key="")
    for path in [*admin, "/admin", "/admin/nothing"]:
        answer = anyone.post(server.url + path, json={}, headers=bearer(KEY))
        assert answer.status_code == 403 and error_of(answer)["code"] == "E-CONFIG-295"
        assert "/admin/ needs the admin key." in error_of(answer)["message"]
        answer = anyone.post(server.url + path, json={"x": 1}, headers=bearer(ADMIN_KEY))
        assert answer.status_code in (400, 404), path
        for key in (KEY, ADMIN_KEY, "none-of-them"):
            answer = anyone.post(shut.url + path, json={}, headers=bearer(key))
            assert answer.status_code == (403 if key == KEY else 401)
    assert (
        "/admin/ is shut: there is no admin key."
        in error_of(anyone.post(f"{shut.url}/admin/load", json={}, headers=bearer(KEY)))["message"]
    )
    assert anyone.get(f"{server.url}/v1/models", headers=bearer(ADMIN_KEY)).status_code == 200


def test_without_any_key_admin_stays_shut(anyone: httpx.Client, serve: Callable[..., Any]) -> None:
    one = serve(key="", admin_key="")
    assert anyone.get(f"{one.url}/v1/models").status_code == 200
    answer = anyone.post(f"{one.url}/admin/load", json={"name": "reviews"})
    assert answer.status_code == 403 and error_of(answer)["code"] == "E-CONFIG-295"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "127.0.0.1", "Origin": "http://localhost:3000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "192.168.1.7:8000"}, 403),
        ({"Host": "0.0.0.0:8000"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "file://"}, 403),
        ({"Origin": "http://127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://evil.example:80"}, 403),
    ],
)  # fmt: skip
def test_without_a_key_only_this_machine_is_answered(
    anyone: httpx.Client, serve: Callable[..., Any], headers: dict[str, str], status: int
) -> None:
    one = serve(key="", admin_key="")
    for path in ("/v1/models", "/healthz"):
        answer = anyone.get(one.url + path, headers=headers)
        assert answer.status_code == status, answer.text
    if status == 403:
        assert error_of(answer)["code"] == "E-CONFIG-296"
        assert "A server without a key answers this machine only" in error_of(answer)["message"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "server.example", ""])
def test_another_address_needs_a_key(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(host=host)
    assert caught.value.code == "E-CONFIG-290"
    assert caught.value.what == (
        f"Without a key, {host} would let everybody who reaches it use this server."
    )
    assert Settings(host=host, key=KEY).host == host


@pytest.mark.parametrize(
    "key",
    ["short", "elf-letters", "with a space in it", "schlüssel-schlüssel", "new-line-inside\n"],
)
def test_keys_are_such_that_headers_carry_them(key: str) -> None:
    for name in ("key", "admin_key"):
        with pytest.raises(ConfigError) as caught:
            Settings(**{name: key})
        assert caught.value.code == "E-CONFIG-291"
    with pytest.raises(ConfigError, match="The admin key is the key"):
        Settings(key=KEY, admin_key=KEY)
    assert KEY not in repr(Settings(key=KEY, admin_key=ADMIN_KEY))


def test_an_empty_key_opens_nothing() -> None:
    with pytest.raises(ConfigError, match="E-CONFIG-294"):
        check_caller("/v1/models", "Bearer ", Settings(key=KEY))
    with pytest.raises(ConfigError, match="E-CONFIG-295"):
        check_caller("/admin/load", "Bearer ", Settings())
    check_caller("/v1/models", "", Settings())


def test_sockets_of_the_web_are_closed(server: Any) -> None:
    asked_for = (
        f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as line:
        line.sendall(asked_for.encode())
        assert not line.recv(4096).startswith(b"HTTP/1.1 101")


def test_a_body_too_large_is_not_read(anyone: httpx.Client, serve: Callable[..., Any]) -> None:
    one = serve(limits=Limits(body=1_000))
    declared = talk(one.port, head(WRITE, "Content-Type: application/json", "Content-Length: 1001"))
    assert (
        declared.startswith(b"HTTP/1.1 413") and b"The body has more than 1,000 bytes." in declared
    )
    chunk = b"1f4\r\n" + b" " * 500 + b"\r\n"
    chunked = head(WRITE, "Content-Type: application/json", "Transfer-Encoding: chunked")
    told = talk(one.port, chunked + chunk * 3)
    assert told.startswith(b"HTTP/1.1 413") and b"E-CONFIG-297" in told
    fits = json.dumps(ASK).encode().ljust(1_000)
    answer = anyone.post(one.url + WRITE, content=fits, headers=bearer(KEY) | JSON)
    assert answer.status_code == 200
    answer = anyone.post(one.url + WRITE, content=fits + b" ", headers=bearer(KEY) | JSON)
    assert answer.status_code == 413
    get = (
        "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999999\r\n"
    )
    assert talk(one.port, f"{get}Authorization: Bearer {KEY}\r\n\r\n".encode()).startswith(
        b"HTTP/1.1 413"
    )
    assert one.engine.running == 0 and len(one.engine.wishes) == 1


JSON = {"Content-Type": "application/json"}


def test_a_slow_body_is_not_waited_for(serve: Callable[..., Any], eventually: Any) -> None:
    one = serve(limits=Limits(body_seconds=0.3))
    begin = time.perf_counter()
    told = talk(
        one.port,
        head(WRITE, "Content-Type: application/json", "Content-Length: 100"), b"{", b'"model":',
        pause=0.1,
    )  # fmt: skip
    assert told.startswith(b"HTTP/1.1 408") and b"The body did not arrive within 0 s." in told
    assert time.perf_counter() - begin < 3
    eventually(lambda: one.log.lines[-1:] and one.log.lines[-1]["code"] == "E-CONFIG-301")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a",
             "application/jsonp", "text/json", ""],
)  # fmt: skip
def test_a_body_is_said_to_be_json(raw: httpx.Client, kind: str) -> None:
    answer = raw.post(WRITE, content=json.dumps(ASK), headers={"Content-Type": kind})
    assert answer.status_code == 415 and error_of(answer)["code"] == "E-CONFIG-300"
    fine = raw.post(
        WRITE, content=json.dumps(ASK), headers={"Content-Type": "Application/JSON; charset=utf-8"}
    )
    assert fine.status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[" * 100_000, 400, "E-CONFIG-298"),
        (b'{"a":' * 25 + b"1" + b"}" * 25, 400, "E-CONFIG-298"),
        (b'{"a":' * 24 + b"1" + b"}" * 24, 400, "E-CONFIG-293"),
        (b'{"model": "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "prompt": ""}', 404, "E-CONFIG-280"),
        (b'["\\"", "\\\\", ' + b"[" * 50_000, 400, "E-CONFIG-298"),
        ('["\\"", '.encode("utf-16-le") + "[".encode("utf-16-le") * 50_000, 400, "E-CONFIG-293"),
        (b"", 400, "E-CONFIG-293"),
        (b"{", 400, "E-CONFIG-293"),
        (b"null", 400, "E-CONFIG-293"),
        (b"[]", 400, "E-CONFIG-293"),
        (b'"text"', 400, "E-CONFIG-293"),
        (b"\xff\xfe\x00", 400, "E-CONFIG-293"),
        (b'{"model": "\xc3\x28", "prompt": ""}', 400, "E-CONFIG-293"),
        (b'{"model": "reviews", "prompt": "\\ud800"}', 400, "E-CONFIG-293"),
        (b'{"model": "reviews", "prompt": "a", "temperature": NaN}', 400, "E-CONFIG-293"),
        (b'{"model": "reviews", "prompt": "a", "temperature": Infinity}', 400, "E-CONFIG-293"),
        (b'{"model": "reviews", "prompt": "a", "temperature": 1e999}', 400, "E-CONFIG-293"),
        (b'{"model": "reviews", "prompt": "a", "n": ' + b"9" * 5_000 + b"}", 400, "E-CONFIG-293"),
    ],
    ids=range(18),
)  # fmt: skip
def test_hostile_json_is_refused(raw: httpx.Client, body: bytes, status: int, code: str) -> None:
    answer = raw.post(WRITE, content=body, headers=JSON)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code), answer.text
    assert len(answer.content) < 2_000


@pytest.mark.parametrize("path", ["/v1/modelz", "/v1/chat/completion"])
def test_a_near_miss_is_told(raw: httpx.Client, path: str) -> None:
    message = error_of(raw.get(path))["message"]
    assert message.startswith(f"E-CONFIG-299  There is no {path} here. Did you mean '/v1/")


def test_a_way_to_ask_that_is_none(raw: httpx.Client) -> None:
    answer = raw.delete("/v1/models")
    assert answer.status_code == 405 and error_of(answer)["code"] == "E-CONFIG-306"
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize(
    "path",
    ["/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%00", "/%ff%fe",
     "/v1/models/" + "x" * 10_000, "/v1/models/a%0d%0aX-Bad:%201"],
    ids=range(5),
)  # fmt: skip
def test_strange_paths_are_nothing(raw: httpx.Client, path: str) -> None:
    answer = raw.get(path)
    assert answer.status_code == 404 and len(answer.content) < 600
    assert "x-bad" not in answer.headers


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("req-1.A:b_c", True), ("x" * 128, True),
        ("x" * 129, False), ("", False), ("a b", False), ('a"b', False), ("a{}", False),
        ("ünder".encode(), False),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_request_keeps_its_id_where_it_can_be_logged(
    anyone: httpx.Client, server: Any, eventually: Any, given: Any, kept: bool
) -> None:
    for path in ("/healthz", "/v1/models"):
        answer = anyone.get(server.url + path, headers={"X-Request-Id": given})
        told = answer.headers.get_list("x-request-id")
        assert len(told) == 1
        assert (told[0] == given) if kept else re.fullmatch("[0-9a-f]{32}", told[0])
        eventually(lambda told=told: server.log.lines[-1]["request"] == told[0])
