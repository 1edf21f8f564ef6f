"""The way in: the projects, a file that is brought, the login, and files that pages need."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response

from sapwood.errors import DataError
from sapwood.files import told
from sapwood.pages.candidates import find, score
from sapwood.studio.forms import Said
from sapwood.studio.looking import blocked, look
from sapwood.studio.pages import STATIC, Studio, asset
from sapwood.studio.workspace import Project

_GUESS_PAUSE = 0.5  # seconds that a wrong key costs


def routes(studio: Studio) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/")
    def home(request: Request) -> Response:
        projects = [_row(project) for project in studio.workspace.projects()]
        return studio.page(request, "home.jinja", projects=projects)

    @router.put("/projects")
    async def bring(request: Request, name: str) -> Response:
        upload = await _received(studio, request)
        try:
            project = await run_in_threadpool(studio.workspace.take, name, upload)
        finally:
            upload.unlink(missing_ok=True)
        await run_in_threadpool(_begun, studio, project)
        return JSONResponse({"url": f"/p/{project.id}/data"}, status_code=201)

    @router.get("/login")
    def login(request: Request, wrong: bool = False) -> Response:
        if not studio.door.key:
            return RedirectResponse("/", status_code=303)
        return studio.page(request, "login.jinja", wrong=wrong, status=401 if wrong else 200)

    @router.post("/login")
    async def let_in(request: Request, form: Said) -> Response:
        if not studio.door.knows(form.get("key")):
            await asyncio.sleep(_GUESS_PAUSE)
            return login(request, wrong=True)
        response = RedirectResponse("/", status_code=303)
        secure = request.url.scheme == "https"
        studio.door.cookie(response, studio.door.session(), secure=secure)
        return response

    @router.post("/logout")
    def logout(request: Request) -> Response:
        response = RedirectResponse("/login", status_code=303)
        studio.door.cookie(response, "", secure=request.url.scheme == "https")
        return response

    @router.get("/static/{name}")
    def static(request: Request, name: str) -> Response:
        if name not in STATIC:
            return Response(status_code=404)
        content, kind, digest = asset(name)
        known = request.query_params.get("v") == digest
        kept = "max-age=31536000, immutable" if known else "no-cache"
        return Response(content, media_type=kind, headers={"cache-control": kept})

    return router


def _begun(studio: Studio, project: Project) -> None:
    """Measure the baselines of what can be adapted to."""
    if not blocked(look(project)):
        studio.baselines.begin(project)


async def _received(studio: Studio, request: Request) -> Path:
    """Return the file that a body was written to."""
    upload = studio.workspace.room()
    try:
        with told(upload), upload.open("wb") as file:
            async for chunk in request.stream():
                await run_in_threadpool(file.write, chunk)
        if not upload.stat().st_size:
            raise DataError("E-DATA-306", "The file is empty.", fix="bring a file with rows")
    except BaseException:
        upload.unlink(missing_ok=True)
        raise
    return upload


def _row(project: Project) -> dict[str, Any]:
    """Return what the list of projects shows of one."""
    seen = look(project) if project.data.exists() else {"task": "", "rows": 0}
    for run in project.runs():
        report = run.report()
        if report is not None and report.get("recommended"):
            best = find(report, report["recommended"])
            reached = score(best, "test") or score(best, "dev") or {}
            found = {"best": report["recommended"], "value": reached.get("value"),
                     "metric": report.get("metric", "")}  # fmt: skip
            return {"project": project, "seen": seen, **found}
    return {"project": project, "seen": seen, "best": None, "value": None, "metric": ""}
