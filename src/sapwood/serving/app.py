"""The application: routes over one desk, behind the guard, seen by the watch."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sapwood.config import VERSION
from sapwood.errors import ConfigError, SapwoodError
from sapwood.registry import did_you_mean
from sapwood.serving import reading, shelves, writing
from sapwood.serving.asked import UNSERVED
from sapwood.serving.desk import Desk
from sapwood.serving.guarding import Guard
from sapwood.serving.refusals import documented, response_of, unforeseen
from sapwood.serving.visits import Watched, visit_of

_PROBLEMS = 10  # of one body that are told


def make_app(desk: Desk) -> FastAPI:
    """Return the application over a desk; a route that is added later is guarded, too."""
    app = FastAPI(
        title="Sapwood", version=VERSION, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    for router in (
        writing.routes(desk), reading.routes(desk), shelves.routes(desk),
        shelves.admin_routes(desk), _own_routes(desk),
    ):  # fmt: skip
        app.include_router(router)
    app.add_exception_handler(SapwoodError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unknown)
    app.add_middleware(Guard, settings=desk.settings, draining=desk.draining)
    app.add_middleware(Watched, meters=desk.meters, journal=desk.journal)
    return app


def _own_routes(desk: Desk) -> Any:
    from fastapi import APIRouter

    router = APIRouter(tags=["state"])

    @router.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """Say that the process lives."""
        return {"status": "alive"}

    @router.get("/readyz", responses=dict(documented(503)))
    async def readyz() -> Response:
        """Say whether requests are answered: 503 while it shuts down, or after its engine died."""
        if desk.ready:
            return JSONResponse({"status": "ready"})
        why = "draining" if desk.engine.alive else "dead"
        return JSONResponse({"status": why}, status_code=503)

    @router.get("/metrics", responses=dict(documented(401)), response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return the meters in Prometheus' text format."""
        page = desk.meters.page()
        return PlainTextResponse(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, SapwoodError)
    visit_of(request.scope).code = error.code
    if error.code.startswith("E-INTERNAL"):
        return response_of(unforeseen())
    param = "model" if error.code == "E-CONFIG-280" else None
    return response_of(error, param)


async def _invalid(request: Request, error: Exception) -> Response:
    """Tell everything that is wrong with a body, entry by entry."""
    assert isinstance(error, RequestValidationError)
    found = list(dict.fromkeys(map(_problem, error.errors())))
    param = found[0][0] or None if found else None
    told = ConfigError(
        "E-CONFIG-293",
        "The request cannot be used.",
        details=[f"{where}: {what}" if where else what for where, what in found[:_PROBLEMS]],
        fix="see docs/serving.md, or GET /openapi.json",
    )
    visit_of(request.scope).code = told.code
    return response_of(told, param)


def _problem(said: Any) -> tuple[str, str]:
    """Return the entry that a problem is about, and the problem in words."""
    place = [ascii(part)[1:-1] if isinstance(part, str) else str(part) for part in said["loc"][1:]]
    # Beside an entry that may be of several kinds, pydantic names the kind that it tried.
    where = ".".join(part for part in place if part.isidentifier() or part.isdigit())[:80]
    if said["type"] == "json_invalid":
        return "", "the body is not JSON"
    if said["type"] == "missing" and not place:
        return "", "there is no body"
    if place and place[0] in UNSERVED:
        return where, "this server does not do that; leave it out"
    if said["type"] == "extra_forbidden":
        return where, "there is no such entry"
    return where, " ".join(str(said["msg"]).split())[:200]


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = ascii(request.url.path)[1:-1][:80]
    if error.status_code == 405:
        told = ConfigError("E-CONFIG-306", f"{path} does not take this HTTP method.")
    elif error.status_code == 404:
        told = ConfigError("E-CONFIG-299", f"There is no {path} here.{_near(request, path)}")
    else:
        told = ConfigError("E-CONFIG-293", "The body cannot be read as JSON.")
    visit_of(request.scope).code = told.code
    response = response_of(told)
    response.headers.update(dict(error.headers or {}))
    return response


def _near(request: Request, path: str) -> str:
    return did_you_mean(path, request.app.openapi()["paths"])
