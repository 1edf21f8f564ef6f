"""The studio as an ASGI application, alone or beside the API that a server has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sapwood.config import VERSION
from sapwood.errors import ConfigError, DataError, ModelError, ResourceError, SapwoodError
from sapwood.serving.disk import FULL, for_askers
from sapwood.studio import adapting, data, entrance, measuring, results, ship, trying
from sapwood.studio.guarding import Door, Guard, TooLarge
from sapwood.studio.pages import Studio
from sapwood.studio.room import Open, Room, open_engine
from sapwood.studio.running import Runs
from sapwood.studio.workspace import Workspace

# What a server answers itself where the studio stands beside it.
OF_THE_API = ("/v1/", "/admin/", "/healthz", "/readyz", "/metrics", "/openapi.json")
_LOST = ("E-CONFIG-310", "E-CONFIG-311")


def studio_app(
    folder: Path, *, door: Door | None = None, opener: Open = open_engine,
    owns: bool = True, runs: Runs | None = None, lang: str = "en",
) -> FastAPI:  # fmt: skip
    """Return the application over the projects of `folder`.

    `door`: who may come in; `opener` gives the engine of a base, which the studio ends if it `owns`
    it: a server gives `lent(engine)` and does not part with it. `lang`: for whoever asks for no
    language that is spoken here.
    """
    room = Room(opener, owns=owns)
    studio = Studio(Workspace(folder), door or Door(), room, runs or Runs(), lang)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(room.close)

    app = FastAPI(title="Sapwood Studio", version=VERSION, openapi_url=None, docs_url=None,
                  redoc_url=None, redirect_slashes=False, lifespan=life)  # fmt: skip
    for part in (entrance, data, measuring, adapting, results, trying, ship):
        app.include_router(part.routes(studio))
    app.state.studio = studio
    _tell_errors(app, studio)
    app.add_middleware(Guard, door=studio.door)
    return app


def _tell_errors(app: FastAPI, studio: Studio) -> None:
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, SapwoodError)
        return _told(studio, request, error, 404 if error.code in _LOST else _status(error))

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = error.status_code
        if status not in (404, 405):
            return PlainTextResponse(str(error.detail), status_code=status)
        lost = ConfigError("E-CONFIG-316", studio.talk(request)("error_lost") + ".")
        return _told(studio, request, lost, status)

    async def too_large(request: Request, error: Exception) -> Response:
        limits = studio.door.limits
        most = limits.upload if request.method == "PUT" else limits.form
        what = studio.talk(request)("bytes_too_many", size=studio.talk(request).q.size(most))
        return _told(studio, request, DataError("E-DATA-305", what), 413)

    app.add_exception_handler(SapwoodError, refused)
    app.add_exception_handler(HTTPException, unknown)
    app.add_exception_handler(TooLarge, too_large)


def _status(error: SapwoodError) -> int:
    if isinstance(error, ConfigError | DataError | ModelError):
        return 400
    if error.code == FULL:
        return 507
    return 503 if isinstance(error, ResourceError) else 500


def _told(studio: Studio, request: Request, error: SapwoodError, status: int) -> Response:
    """Return an error as a page, or as JSON to a script."""
    said: dict[str, Any] = for_askers(error).to_json()
    if request.headers.get("x-requested-with") == "script":
        return JSONResponse(said, status_code=status)
    return studio.page(request, "error.jinja", status=status, error=said)


class Beside:
    """Two applications at one address: the API's own paths go to it, all others to the studio.

    `api` returns the application that answers now, None where there is none yet.
    """

    def __init__(self, studio: ASGIApp, api: Callable[[Scope], ASGIApp | None]) -> None:
        self.studio, self.api = studio, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        if scope["type"] != "http" or not scope["path"].startswith(OF_THE_API):
            await self.studio(scope, receive, send)
            return
        await (self.api(scope) or _CLOSED)(scope, receive, send)


_CLOSED = JSONResponse(
    {"error": {"message": "Nothing is served here yet: open an adaptation under Ship.",
               "type": "not_found_error", "param": None, "code": "E-CONFIG-317"}},
    status_code=404,
)  # fmt: skip
