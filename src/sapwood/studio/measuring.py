"""The step Baseline: what the cheapest methods reach, measured when a file is brought."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from sapwood.studio.looking import blocked, look
from sapwood.studio.pages import Studio


def routes(studio: Studio) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/p/{identity}")

    @router.get("/baseline")
    def baseline(request: Request, identity: str) -> Response:
        project = studio.workspace.project(identity)
        seen = look(project)
        return studio.page(
            request, "baseline.jinja", project, known=studio.baselines.known(project),
            blocked=blocked(seen), seen=seen,
        )  # fmt: skip

    @router.get("/baseline/rows")
    def rows(request: Request, identity: str) -> Response:
        project = studio.workspace.project(identity)
        known = studio.baselines.known(project)
        return HTMLResponse(studio.fragment(request, "rows.jinja", known=known, project=project))

    @router.post("/baseline")
    def measure(identity: str) -> Response:
        project = studio.workspace.project(identity)
        if not blocked(look(project)):
            studio.baselines.begin(project)
        return RedirectResponse(f"/p/{identity}/baseline", status_code=303)

    return router
