"""Who may ask, and how large a question may be: decided before any route is looked for.

Everything is refused that is not let through here, so that a route nobody thought of is shut too.
"""

from __future__ import annotations

import asyncio
import threading

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sapwood.errors import ConfigError, ResourceError, SapwoodError
from sapwood.serving.nesting import too_deep
from sapwood.serving.refusals import ClientGone, response_of
from sapwood.serving.settings import Limits, Settings, is_loopback, same_word, without_port
from sapwood.serving.visits import visit_of

OPEN = ("/healthz", "/readyz")  # no key needed
ADMIN = "/admin/"
_WHILE_DRAINING = (*OPEN, "/metrics")


class Guard:
    """Refuses whoever has no key, and bodies that are too large, too deep or too slow.

    `draining` says whether requests that come now are too late.
    """

    def __init__(self, app: ASGIApp, settings: Settings, draining: threading.Event) -> None:
        self.app, self.settings, self._draining = app, settings, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                self._check(scope)
                receive = await self._body(scope, receive)
            except SapwoodError as error:
                visit_of(scope).code = error.code
                await response_of(error)(scope, receive, send)
                return
            await self.app(scope, receive, send)
        else:  # no route speaks anything else
            await send({"type": "websocket.close", "code": 1008})

    def _check(self, scope: Scope) -> None:
        path, headers = scope["path"], _headers(scope)
        if not self.settings.key:
            _check_own(headers)
        if path in OPEN:
            return
        check_caller(path, headers.get("authorization", ""), self.settings)
        if self._draining.is_set() and path not in _WHILE_DRAINING:
            raise ResourceError(
                "E-RESOURCE-077", "This server is shutting down.", fix="ask again, or another one"
            )

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """Return a receive that gives the whole body at once, checked."""
        limits = self.settings.limits
        headers = _headers(scope)
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > limits.body:
            raise _too_large(limits)
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            return receive
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ConfigError(
                "E-CONFIG-300",
                "The body is not said to be JSON.",
                fix="send the header Content-Type: application/json",
            )
        try:
            async with asyncio.timeout(limits.body_seconds):
                body = await _collected(receive, limits)
        except TimeoutError:
            raise ConfigError(
                "E-CONFIG-301",
                f"The body did not arrive within {limits.body_seconds:.0f} s.",
                fix="send it faster",
            ) from None
        if too_deep(body, limits.levels):
            raise ConfigError(
                "E-CONFIG-298", f"The body has more than {limits.levels} levels of brackets."
            )
        return _replayed(body, receive)


def check_caller(path: str, authorization: str, settings: Settings) -> None:
    """Raise ConfigError where a caller may not use a path.

    E-CONFIG-294: no key, or a wrong one; E-CONFIG-295: an admin's path without an admin's key.
    """
    kind, _, given = authorization.partition(" ")
    given = given.strip() if kind.lower() == "bearer" else ""
    admin = bool(settings.admin_key) and same_word(given, settings.admin_key)
    if not (admin or not settings.key or same_word(given, settings.key)):
        raise ConfigError(
            "E-CONFIG-294",
            "The key is missing or wrong.",
            fix="send the header Authorization: Bearer KEY",
        )
    if (path + "/").startswith(ADMIN) and not admin:
        why = "needs the admin key" if settings.admin_key else "is shut: there is no admin key"
        raise ConfigError(
            "E-CONFIG-295", f"{ADMIN} {why}.", fix="start with --admin-key-file, and send that key"
        )


def _check_own(headers: dict[str, str]) -> None:
    """Raise ConfigError (E-CONFIG-296) for a page of the web that reaches a server without a key.

    Its name was made to mean this machine (DNS rebinding), or it sends what needs no answer.
    """
    host = headers.get("host", "")
    origin = headers.get("origin", "")
    site = origin.partition("://")[2] if origin else host
    for named in (host, site):
        if not is_loopback(without_port(named)):
            raise ConfigError(
                "E-CONFIG-296",
                f"A server without a key answers this machine only, not '{ascii(named)[1:81]}'.",
                fix="ask it as 127.0.0.1 or localhost, or give it a key",
            )


def _headers(scope: Scope) -> dict[str, str]:
    """Return the headers by name in lower case; of one that comes twice, the first."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return found


async def _collected(receive: Receive, limits: Limits) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limits.body:
            raise _too_large(limits)
        if not message.get("more_body"):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _too_large(limits: Limits) -> ConfigError:
    return ConfigError(
        "E-CONFIG-297",
        f"The body has more than {limits.body:,} bytes.",
        fix="send less at once",
    )
