"""Every request from its arrival to its end: an id, one line in the log, what is counted of it.

Logs say who asked for what and how it went, never a word of a prompt or an answer: errors that
nobody foresaw are told by their type and place, since their message may quote what was asked.
"""

from __future__ import annotations

import json
import re
import sys
import time
import traceback
import uuid
from pathlib import PurePath
from typing import Any, TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sapwood.serving.meters import OTHER, Meters
from sapwood.serving.refusals import GONE, ClientGone, response_of, unforeseen

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_KEY = "sapwood.visit"


class Visit:
    """One request: its id, and what becomes known of it while it is answered."""

    def __init__(self, identity: str) -> None:
        self.id = identity
        self.arrived = time.perf_counter()
        self.model = ""
        self.code = ""
        self.where = ""
        self.first: float | None = None  # seconds until the first token
        self.prompt = self.cached = self.written = 0  # tokens


class Journal:
    """One JSON object a line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def write(self, event: str, **said: Any) -> None:
        """Write a line; what cannot be written is lost rather than in the way."""
        line = {"time": round(time.time(), 3), "event": event, **said}
        stream = self._stream or sys.stderr
        try:
            stream.write(json.dumps(line, ensure_ascii=True, default=str) + "\n")
            stream.flush()
        except (OSError, ValueError):
            return


def visit_of(scope: Scope) -> Visit:
    """Return the visit that a request's scope belongs to."""
    found = scope.get(_KEY)
    return found if isinstance(found, Visit) else Visit("none")


class Watched:
    """The outermost layer: ids in and out, the log, the meters, and no traceback to a client."""

    def __init__(self, app: ASGIApp, meters: Meters, journal: Journal) -> None:
        self.app, self.meters, self.journal = app, meters, journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = scope[_KEY] = Visit(identity_of(scope))
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (b"x-request-id", visit.id.encode("ascii"))
                message["headers"] = [*message.get("headers", ()), own]
            await send(message)

        self.meters.running.inc()
        try:
            await self.app(scope, receive, sending)
        except ClientGone:
            status = GONE
        except Exception as error:
            visit.code, visit.where = type(error).__name__, _place(error)
            if not status:
                await response_of(unforeseen())(scope, receive, sending)
            status = 500
        finally:
            self.meters.running.dec()
            self._end(scope, visit, status or GONE)

    def _end(self, scope: Scope, visit: Visit, status: int) -> None:
        route = getattr(scope.get("route"), "path", OTHER)
        model = self.meters.name_of(visit.model)
        self.meters.requests.labels(route, str(status), model).inc()
        if visit.prompt or visit.written:
            for kind in ("prompt", "cached", "written"):
                self.meters.tokens.labels(kind, model).inc(getattr(visit, kind))
        if visit.first is not None:
            self.meters.first.labels(model).observe(visit.first)
        told = {
            "code": visit.code, "where": visit.where, "prompt_tokens": visit.prompt,
            "cached_tokens": visit.cached, "tokens": visit.written,
            "first_token_seconds": visit.first and round(visit.first, 4),
        }  # fmt: skip
        self.journal.write(
            "request", request=visit.id, method=_method(scope), route=route, status=status,
            model=model, seconds=round(time.perf_counter() - visit.arrived, 4),
            **{name: value for name, value in told.items() if value},
        )  # fmt: skip


def identity_of(scope: Scope) -> str:
    """Return the id that a client gave its request, if it can be logged as it is, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _ID.fullmatch(given):
                return str(given)
    return uuid.uuid4().hex


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS") else "?"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return " < ".join(f"{PurePath(f.filename).name}:{f.lineno}" for f in reversed(frames))
