"""The step Results: what a run recommends and against what, its report, two runs compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from sapwood.errors import ConfigError
from sapwood.pages.candidates import best_split, ranked, score
from sapwood.pages.comparing import difference, run_row
from sapwood.pages.page import compare_page, page
from sapwood.report import verdict
from sapwood.studio.guarding import REPORT_POLICY
from sapwood.studio.pages import LIVE, Studio
from sapwood.studio.picture import scale_of
from sapwood.studio.workspace import Project, Run

Finished = list[tuple[Run, dict[str, Any]]]


def finished(project: Project) -> Finished:
    """Return the runs that have a report, with it, the newest first."""
    found = ((run, run.report()) for run in project.runs())
    return [(run, report) for run, report in found if report is not None]


def chosen(project: Project, number: int) -> tuple[Run, dict[str, Any]] | None:
    """Return the finished run of a number, or for 0 the newest; None where there is none.

    Raises ConfigError (E-CONFIG-311) for a run that is not there or not finished.
    """
    found = finished(project)
    if not number:
        return found[0] if found else None
    for run, report in found:
        if run.number == number:
            return run, report
    run = project.run(number)
    raise ConfigError(
        "E-CONFIG-311", f"Run {run.number} of '{project.name}' has no report.",
        fix="choose one that has finished",
    )  # fmt: skip


def routes(studio: Studio) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/p/{identity}")

    @router.get("/results")
    def show(request: Request, identity: str, run: int = 0) -> Response:
        project = studio.workspace.project(identity)
        runs = finished(project)
        one = chosen(project, run)
        stories = [studio.runs.story(r)["state"] for r in project.runs()[:1]]
        values: dict[str, Any] = {"running": bool(stories and stories[0] in LIVE), "run": None}
        if one is not None:
            values |= _shown(studio, request, *one)
        rows = [(r, run_row(str(r.number), report)) for r, report in runs]
        return studio.page(request, "results.jinja", project, rows=rows, **values)

    @router.get("/runs/{number}/report")
    def report(request: Request, identity: str, number: int) -> Response:
        found = chosen(studio.workspace.project(identity), number)
        assert found is not None
        return _report(page(_renamed(found[1]), studio.talk(request).lang))

    @router.get("/compare")
    def compare(request: Request, identity: str) -> Response:
        project, t = studio.workspace.project(identity), studio.talk(request)
        asked = request.query_params.getlist("run")
        numbers = sorted({int(n) for n in asked if n.isdecimal() and len(n) < 9})
        if len(numbers) != 2:
            error = ConfigError("E-CONFIG-321", t("results_compare_two"))
            return studio.forward(f"/p/{identity}/results", error=error)
        pair = [found for number in numbers if (found := chosen(project, number)) is not None]
        return _report(_compared(project, pair, t.lang))

    return router


def _shown(studio: Studio, request: Request, run: Run, report: Mapping[str, Any]) -> dict[str, Any]:
    t = studio.talk(request)
    split = best_split(report)
    rows = [
        {"name": c["name"], "status": c.get("status"), "why": c.get("why") or "",
         "test": score(c, "test"), "dev": score(c, "dev"), "cost": c.get("cost") or {}}
        for c in ranked(report)
    ]  # fmt: skip
    scores = [row[split] for row in rows if row[split]]
    return {
        "run": run, "report": report, "candidates": rows, "split": split,
        "metric": str(report.get("metric") or "accuracy"), "scale": scale_of(scores),
        "verdict": verdict(report, t.lang)[0],
    }  # fmt: skip


def _compared(project: Project, pair: Finished, lang: str) -> str:
    from sapwood.pages.words import Words

    words = Words(lang=lang)
    names = [f"{project.name} · {run.number}" for run, _ in pair]
    rows = [run_row(name, _renamed(report)) for name, (_, report) in zip(names, pair, strict=True)]
    said = [_predictions(run) for run, _ in pair]
    task = str(pair[0][1].get("task"))
    found = difference((names[1], said[1]), (names[0], said[0]), words, task)
    return compare_page(rows, [found], lang)


def _predictions(run: Run) -> list[Mapping[str, Any]] | str:
    """Return the rows of a run with what was predicted, or the name of the file that has none."""
    path = run.out / "predictions.json"
    try:
        rows = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return path.name
    wanted = {"text", "label", "predicted"}
    whole = all(isinstance(row, dict) and wanted <= set(row) for row in rows)
    return list(rows) if whole else path.name


def _renamed(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report whose data are called by their file alone, not by where it lies."""
    data = dict(report.get("data") or {})
    if data.get("path"):
        data["path"] = str(data["path"]).replace("\\", "/").rpartition("/")[2]
    return {**report, "data": data}


def _report(text: str) -> Response:
    return HTMLResponse(text, headers={"content-security-policy": REPORT_POLICY})
