"""Who may see the page, what may change something, how much may come, and what a browser may do.

Without a key only this machine is answered, under a name that means it, so that no page of the web
reaches the studio by a name of its own (DNS rebinding). With a key, a login sets a cookie that no
script reads and no other site sends. Whatever changes something must come from the page itself.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sapwood.serving.settings import check_key, is_loopback, same_word, without_port

COOKIE = "sapwood_studio"
OPEN = ("/login", "/static/")  # no key needed
_DAY = 86_400
_SESSION = 7 * _DAY
_SAFE = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# Of reports: pages of one file without a script, whose style is inside.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # "no-referrer" would make browsers call the origin of a form "null"
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most bytes of an `upload`, and of any other body (`form`)."""

    upload: int = 512_000_000
    form: int = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Door:
    """Who may come in: everybody on this machine, or with a `key` whoever knows it.

    Raises ConfigError (E-CONFIG-291) for a key that is guessed too easily.
    """

    key: str = field(default="", repr=False)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_key("key", self.key)

    def knows(self, given: str) -> bool:
        """Tell whether that is the key, in a time that tells nothing of it."""
        return same_word(given, self.key) and bool(self.key)

    def session(self, now: float | None = None) -> str:
        """Return what the cookie of a visitor who knows the key holds."""
        until = str(int((time.time() if now is None else now) + _SESSION))
        return f"{until}.{self._signed(until)}"

    def admits(self, session: str, now: float | None = None) -> bool:
        """Tell whether a cookie is one that was given out and is not too old."""
        until, _, signed = session.partition(".")
        fresh = until.isdecimal() and len(until) < 16
        return (
            fresh and same_word(signed, self._signed(until)) and int(until) > (now or time.time())
        )

    def _signed(self, text: str) -> str:
        secret = sha256(b"sapwood studio session " + self.key.encode()).digest()
        return hmac.new(secret, text.encode(), sha256).hexdigest()

    def cookie(self, response: Response, value: str, *, secure: bool) -> None:
        """Set the cookie of a session, or take it away ("")."""
        response.set_cookie(
            COOKIE, value, max_age=_SESSION if value else 0, httponly=True, samesite="strict",
            secure=secure, path="/",
        )  # fmt: skip


class Guard:
    """Refuses, before any route is looked for, what the door does not let in."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refused(scope, headers)
        if refused is not None:
            await refused(scope, receive, _with_headers(send))
            return
        most = self.door.limits.upload if scope["method"] == "PUT" else self.door.limits.form
        await self.app(scope, _bounded(receive, most), _with_headers(send))

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if not self.door.key and not is_loopback(without_port(host)):
            return _plain(403, "Without a key this page answers this machine only, as 127.0.0.1.")
        if scope["method"] not in _SAFE and not _own(headers, host):
            return _plain(403, "This was not asked by the page itself.")
        most = self.door.limits.upload if scope["method"] == "PUT" else self.door.limits.form
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > most:
            return _plain(413, f"At most {most:,} bytes may be sent here.")
        if self.door.key and not scope["path"].startswith(OPEN):
            session = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
            if not self.door.admits(session):
                return _to_login(scope)
        return None


def _own(headers: Headers, host: str) -> bool:
    """Tell whether the studio's own page asks, or no browser at all."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None:
        return origin.partition("://")[2] == host and bool(host)
    return site in (None, "same-origin", "none")


def _to_login(scope: Scope) -> Response:
    if scope["method"] not in _SAFE:
        return _plain(401, "Log in first.")
    return RedirectResponse("/login", status_code=303)


def _plain(status: int, what: str) -> Response:
    return PlainTextResponse(what, status_code=status)


class TooLarge(Exception):
    """More came than was said and than may come."""


def _bounded(receive: Receive, most: int) -> Receive:
    """Return a receive that raises `TooLarge` where a body without a length is too long."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise TooLarge
        return message

    return bounded


def _with_headers(send: Send, more: Mapping[str, str] = _HEADERS) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in more.items():
                headers.setdefault(name, value)
        await send(message)

    return sent
