"""The step Adapt: a run is started, followed while it goes, stopped and gone on with."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response, StreamingResponse

from sapwood.errors import ConfigError
from sapwood.search.job import parse_budget
from sapwood.studio.forms import Form, Said
from sapwood.studio.looking import blocked, look, named
from sapwood.studio.pages import LIVE, Studio
from sapwood.studio.picture import chart, curve, scale_of
from sapwood.studio.running import BUDGETS
from sapwood.studio.talk import Talk
from sapwood.studio.workspace import Project, Run

_LOOK = 0.7  # seconds between looks at what a run did
_USUAL = "10m"
_NUMBER = re.compile(r"[0-9]{1,9}")


def routes(studio: Studio) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/p/{identity}")

    @router.get("/adapt")
    def show(request: Request, identity: str, run: int = 0) -> Response:
        project, t = studio.workspace.project(identity), studio.talk(request)
        runs = project.runs()
        chosen = project.run(run) if run else (runs[0] if runs else None)
        story = studio.runs.story(chosen) if chosen is not None else None
        shown = None if story is None or chosen is None else viewed(story, project, chosen, t)
        states = [(r, studio.runs.story(r)["state"]) for r in runs]
        return studio.page(
            request, "adapt.jinja", project, run=chosen, view=shown, states=states,
            blocked=blocked(look(project)), budgets=BUDGETS, usual=_usual(runs),
            bases=_bases(), asked=dict(runs[0].asked) if runs else {}, live=LIVE,
        )  # fmt: skip

    @router.post("/adapt")
    def start(request: Request, identity: str, form: Said) -> Response:
        project = studio.workspace.project(identity)
        run = studio.runs.begin(project, _asked(form, studio.talk(request).lang))
        return RedirectResponse(f"/p/{identity}/adapt?run={run.number}", status_code=303)

    @router.post("/runs/{number}/stop")
    def stop(identity: str, number: int) -> Response:
        studio.runs.stop(studio.workspace.project(identity).run(number))
        return RedirectResponse(f"/p/{identity}/adapt?run={number}", status_code=303)

    @router.post("/runs/{number}/resume")
    def resume(identity: str, number: int) -> Response:
        project = studio.workspace.project(identity)
        studio.runs.resume(project, project.run(number))
        return RedirectResponse(f"/p/{identity}/adapt?run={number}", status_code=303)

    @router.get("/runs/{number}/events")
    async def events(request: Request, identity: str, number: int) -> Response:
        project = await run_in_threadpool(studio.workspace.project, identity)
        run = await run_in_threadpool(project.run, number)
        headers = {"x-accel-buffering": "no"}
        return StreamingResponse(
            _followed(studio, request, project, run), media_type="text/event-stream",
            headers=headers,
        )  # fmt: skip

    return router


async def _followed(
    studio: Studio, request: Request, project: Project, run: Run
) -> AsyncIterator[str]:
    """Yield what changes of a run as server-sent events, until it is over."""
    last, quiet = "", 0.0
    while not await request.is_disconnected():
        said = await run_in_threadpool(_event, studio, request, project, run)
        line = json.dumps(said, ensure_ascii=False)
        if line != last:
            last, quiet = line, 0.0
            yield f"data: {line}\n\n"
        elif quiet > 15:  # so that nothing between takes the connection for dead
            quiet = 0.0
            yield ": still here\n\n"
        if said["state"] not in LIVE:
            return
        quiet += _LOOK
        await asyncio.sleep(_LOOK)


def _event(studio: Studio, request: Request, project: Project, run: Run) -> dict[str, Any]:
    t = studio.talk(request)
    view = viewed(studio.runs.story(run), project, run, t)
    values = {"project": project, "run": run, "view": view, "live": LIVE}
    return {
        "state": view["state"],
        "say": view["say"],
        "html": studio.fragment(request, "live.jinja", **values),
        "controls": studio.fragment(request, "controls.jinja", **values),
        "rail": studio.rail(request, project, "adapt"),
    }


def viewed(story: Mapping[str, Any], project: Project, run: Run, t: Talk) -> dict[str, Any]:
    """Return a run as the page shows it: its state and candidates in words, curves as shapes."""
    budget = parse_budget(str(run.asked["budget"]))
    live = story["state"] in LIVE
    waiting = max(0.0, time.time() - story["candidates"][-1]["at"]) if story["candidates"] else 0.0
    spent = min(story["spent"] + (waiting if live else 0.0), max(budget, story["spent"]))
    rows = [_row(seen, t) for seen in story["candidates"]]
    done = [row for row in rows if row["dev"]]
    metric = done[0]["dev"]["metric"] if done else ""
    best = max(done, key=lambda row: row["dev"]["value"], default=None)
    last = done[-1] if done else None
    say = t(f"state_{story['state']}") if not live or last is None else t(
        "say_candidate", name=t.candidate(last["name"]), score=t.score(metric, last["dev"]["value"])
    )  # fmt: skip
    return {
        **story, "rows": rows, "metric": metric, "best": best["name"] if best else None,
        "scale": scale_of([row["dev"] for row in done]), "budget": budget, "spent": spent,
        "percent": min(100, round(100 * spent / budget)), "say": say,
        "going": _going(story, t), "chart": chart(done),
        "error": named(project, story["error"]) if story["error"] else None,
    }  # fmt: skip


def _row(seen: Mapping[str, Any], t: Talk) -> dict[str, Any]:
    dev = seen["dev"] if (seen["dev"] or {}).get("value") is not None else None
    return {**seen, "dev": dev, "loss": curve(seen["loss"]),
            "took": t.q.seconds(seen["seconds"])}  # fmt: skip


def _going(story: Mapping[str, Any], t: Talk) -> dict[str, Any] | None:
    """Return what is being made now, in words with the time it is likely to take."""
    seen = next((c for c in story["candidates"] if c["name"] == story["now"]), None)
    if seen is None or story["state"] not in LIVE:
        return None
    name = t.candidate(seen["name"])
    found = {
        "name": name,
        "done": seen["done"],
        "total": seen["total"],
        "text": t("going_name", name=name),
    }
    if seen["total"] > 1:
        said = {"name": name, "done": t.q.number(seen["done"]), "total": t.q.number(seen["total"])}
        began, first = seen["since"]
        elapsed, steps = seen["at"] - began, seen["done"] - first
        found["text"] = t("going_on", **said)
        if steps > 0 and elapsed > 2:
            left = elapsed / steps * (seen["total"] - seen["done"])
            found["text"] = t("going_left", **said, left=t.about(left))
    return found


def _usual(runs: tuple[Run, ...]) -> int:
    asked = runs[0].asked.get("budget") if runs else _USUAL
    return BUDGETS.index(asked) if asked in BUDGETS else BUDGETS.index(_USUAL)


def _bases() -> list[dict[str, Any]]:
    """Return the bases that need no hub, those that are here first."""
    from sapwood.models.store import BASES, installed

    here = installed()
    found = [{"name": b.name, "kind": b.kind, "bytes": b.disk_bytes, "here": b.name in here,
              "what": b.what} for b in BASES.values()]  # fmt: skip
    return sorted(found, key=lambda b: not b["here"])


def _asked(form: Form, lang: str) -> dict[str, Any]:
    """Return what a form asks for. Raises ConfigError (E-CONFIG-320) where it cannot be."""
    place = form.get("budget")
    budget = BUDGETS[int(place)] if place.isdecimal() and int(place) < len(BUDGETS) else place
    parse_budget(budget)
    model = form.get("model")
    model = form.get("other") if model == "other" else model
    if not model:
        raise ConfigError("E-CONFIG-320", "No base is named.", fix="choose one, or write its name")
    found: dict[str, Any] = {"budget": budget, "model": model, "lang": lang}
    for name in ("limit", "seed"):
        value = form.get(name)
        if value and not _NUMBER.fullmatch(value):
            raise ConfigError("E-CONFIG-320", f"'{value}' is no number.", fix="write a number")
        found[name] = value
    return {**found, "encoder": form.get("encoder"), "instruction": form.get("instruction", 4000)}
