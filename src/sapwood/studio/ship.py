"""The step Ship: the adaptation as a file, its card, and how it is asked here and elsewhere."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

from sapwood.errors import SapwoodError
from sapwood.files import told
from sapwood.pages.candidates import find
from sapwood.serving.disk import whole_or_gone
from sapwood.studio.looking import look
from sapwood.studio.pages import Studio
from sapwood.studio.questions import example_text, fields_of
from sapwood.studio.shipping import adaptation_of, card_of, commands_of, pack, snippets
from sapwood.studio.trying import Trial, base_of, trial_of


def routes(studio: Studio) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/p/{identity}")

    @router.get("/ship")
    def show(request: Request, identity: str, run: int = 0) -> Response:
        project = studio.workspace.project(identity)
        trial = trial_of(project, run)
        values: dict[str, Any] = {"trial": trial}
        if trial is not None:
            values |= _shown(studio, request, trial)
        return studio.page(request, "ship.jinja", project, **values)

    @router.get("/ship/state")
    def state(request: Request, identity: str, run: int = 0) -> Response:
        trial = trial_of(studio.workspace.project(identity), run)
        if trial is None:
            return Response(status_code=404)
        values = {**_served(studio, trial), "project": trial.project}
        return HTMLResponse(studio.fragment(request, "served.jinja", **values))

    @router.get("/runs/{number}/adaptation.zip")
    def download(identity: str, number: int) -> Response:
        project = studio.workspace.project(identity)
        folder = adaptation_of(project, project.run(number))
        with told(Path(tempfile.gettempdir())):
            handle, name = tempfile.mkstemp(prefix="sapwood-", suffix=".zip")
        path = Path(name)
        with whole_or_gone(path), os.fdopen(handle, "wb") as file:
            pack(folder, f"{identity}-{number}", file)
        gone = BackgroundTask(path.unlink, missing_ok=True)
        name = f"{identity}-{number}.zip"
        return FileResponse(path, filename=name, media_type="application/zip", background=gone)

    @router.get("/runs/{number}/README.md")
    def card(identity: str, number: int) -> Response:
        project = studio.workspace.project(identity)
        text = card_of(adaptation_of(project, project.run(number)))
        return PlainTextResponse(text, media_type="text/markdown; charset=utf-8", headers={
            "content-disposition": f'attachment; filename="{identity}-README.md"'})  # fmt: skip

    return router


def _shown(studio: Studio, request: Request, trial: Trial) -> dict[str, Any]:
    project, run, report = trial.project, trial.run, trial.report
    folder = adaptation_of(project, run)
    best = find(report, report.get("recommended")) or {}
    size = sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
    address = str(request.base_url).rstrip("/")
    seen = look(project)
    text = example_text(fields_of(trial.task, seen), seen) or "…"
    return {
        "best": best, "size": size, "card": card_of(folder),
        "snippets": snippets(address, trial.task, project.id, text, key=bool(studio.door.key)),
        "commands": commands_of(project, run, report), **_served(studio, trial),
    }  # fmt: skip


def _served(studio: Studio, trial: Trial) -> dict[str, Any]:
    """Return whether what is recommended answers here; it is opened once its base is."""
    base, error = base_of(trial), None
    state = studio.room.state(base)
    best = next((column for column in trial.columns if column.best), None)
    if state == "open" and best is not None:
        try:
            studio.room.model(best)
        except SapwoodError as said:
            state, error = "failed", said
    error = error or studio.room.error(base)
    why = error and error.to_json()
    return {"state": state, "error": why, "model": trial.project.id, "run": trial.run}
