"""The step Data: what the file holds, how it is read, what mends it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from sapwood.errors import ConfigError, DataError, SapwoodError
from sapwood.studio.forms import Said
from sapwood.studio.looking import NAMED, blocked, look, mend
from sapwood.studio.pages import Studio
from sapwood.tasks import TASKS

_LABELS = 12  # listed by name
_COLOURS = {"text": "text", "text_pair": "text", "tokens": "text", "prompt": "text",
            "messages": "text"}  # fmt: skip


def routes(studio: Studio) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/p/{identity}")

    @router.get("")
    def enter(identity: str) -> Response:
        return RedirectResponse(f"/p/{identity}/data", status_code=303)

    @router.get("/data")
    def show(request: Request, identity: str) -> Response:
        project = studio.workspace.project(identity)
        seen = look(project)
        found = seen["findings"] or {}
        labels = list((found.get("labels") or {}).items())
        return studio.page(
            request, "data.jinja", project, seen=seen, blocked=blocked(seen), tasks=tuple(TASKS),
            labels=labels[:_LABELS], more_labels=len(labels) - _LABELS,
            mendable=_mendable(seen), named=dict(project.columns),
            colours={c: _COLOURS.get(r, "answer") for c, r in seen["roles"].items()},
        )  # fmt: skip

    @router.post("/data")
    def read_so(request: Request, identity: str, form: Said) -> Response:
        project = studio.workspace.project(identity)
        seen = look(project)
        task = form.get("task")
        if task and task not in TASKS:
            raise ConfigError("E-CONFIG-319", f"There is no task '{task}'.", fix="choose another")
        columns = {role: form.get(role) for role in NAMED if form.get(role)}
        unknown = sorted(set(columns.values()) - set(seen["columns"]))
        if unknown:
            raise DataError("E-DATA-307", f"There is no column '{unknown[0]}'.")
        project = project.save(task=task, columns=columns)
        if not blocked(look(project)):
            studio.baselines.begin(project)
        return studio.forward(f"/p/{identity}/data", studio.talk(request)("data_saved"))

    @router.post("/mend")
    def mended(request: Request, identity: str) -> Response:
        project = studio.workspace.project(identity)
        try:
            done = mend(project)
        except SapwoodError as error:
            return studio.forward(f"/p/{identity}/data", error=error)
        project = studio.workspace.project(identity)
        if not blocked(look(project)):
            studio.baselines.begin(project)
        t = studio.talk(request)
        said = f"{t('data_mended')} {'; '.join(map(t.said, done))}".strip()
        return studio.forward(f"/p/{identity}/data", said)

    @router.post("/remove")
    def remove(request: Request, identity: str) -> Response:
        project = studio.workspace.project(identity)
        for run in project.runs():
            studio.runs.stop(run)
        studio.workspace.remove(project)
        return studio.forward("/", studio.talk(request)("data_removed", name=project.name))

    return router


def _mendable(seen: dict[str, object]) -> bool:
    """Tell whether `mend` would change anything."""
    found = seen["findings"]
    if not isinstance(found, dict):
        return False
    return bool(found["relabel"] or found["repeated"] or found["kept"] < found["rows"])
