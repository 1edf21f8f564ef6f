"""The step Try: a text, and what base, prompted and tuned make of it side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from sapwood.errors import ConfigError, DataError, SapwoodError
from sapwood.interfaces import Turn
from sapwood.studio.adding import add
from sapwood.studio.forms import Form, Said
from sapwood.studio.lines import as_lines
from sapwood.studio.looking import look
from sapwood.studio.marking import ends_marked, in_words, marked, marks_of
from sapwood.studio.pages import Studio
from sapwood.studio.questions import Question, example_of, fields_of, question_of
from sapwood.studio.results import chosen
from sapwood.studio.room import Column, columns_of, found, labels, written
from sapwood.studio.talk import Talk
from sapwood.studio.workspace import Project, Run
from sapwood.tasks.kinds import ONE_LABEL, SPANS, WRITTEN

_TURNS = 40  # of a conversation


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is tried: a run and its columns; `task` of the run, which the data may have left."""

    project: Project
    run: Run
    report: dict[str, Any]
    columns: tuple[Column, ...]

    @property
    def task(self) -> str:
        """Return the run's task."""
        return str(self.report.get("task"))

    def column(self, part: str) -> Column:
        """Return a column by its name. Raises ConfigError (E-CONFIG-322)."""
        for column in self.columns:
            if column.part == part:
                return column
        raise ConfigError(
            "E-CONFIG-322", f"This run has nothing '{ascii(part)[1:-1][:30]}' to try."
        )


def trial_of(project: Project, number: int) -> Trial | None:
    """Return what can be tried of a finished run, None where there is none."""
    one = chosen(project, number)
    if one is None:
        return None
    columns = columns_of(project, *one)
    return Trial(project=project, run=one[0], report=one[1], columns=columns)


def _needed(studio: Studio, identity: str, number: int) -> Trial:
    trial = trial_of(studio.workspace.project(identity), number)
    if trial is None:
        raise ConfigError("E-CONFIG-323", "No run has finished.", fix="start one, under Adapt")
    return trial


def routes(studio: Studio) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/p/{identity}")

    @router.get("/try")
    def show(request: Request, identity: str, run: int = 0) -> Response:
        project = studio.workspace.project(identity)
        trial = trial_of(project, run)
        return _page(studio, request, project, trial)

    @router.post("/try")
    def ask(request: Request, identity: str, form: Said, run: int = 0) -> Response:
        trial = _needed(studio, identity, run)
        asked = bool(form.get("text", 100_000))
        said = {
            column.part: _whole(studio, request, trial, column, form)
            for column in (trial.columns if asked else ())
        }
        return _page(studio, request, trial.project, trial, form=form, said=said)

    @router.post("/try/{part}")
    async def ask_one(
        request: Request, identity: str, part: str, form: Said, run: int = 0
    ) -> Response:
        trial = await run_in_threadpool(_needed, studio, identity, run)
        column = trial.column(part)
        if trial.task in WRITTEN:
            pieces = _pieces(studio, studio.talk(request), (trial, column), _turns(form))
            return StreamingResponse(pieces, media_type="text/plain; charset=utf-8")
        whole = await run_in_threadpool(_whole, studio, request, trial, column, form)
        return HTMLResponse(whole)

    _beside(router, studio)
    return router


def _beside(router: APIRouter, studio: Studio) -> None:
    """Add the routes that change something: a row that is added, a base that is opened."""

    @router.post("/add")
    def add_row(request: Request, identity: str, form: Said, run: int = 0) -> Response:
        project = studio.workspace.project(identity)
        back = f"/p/{identity}/try" + (f"?run={run}" if run else "")
        answer = "\n".join(form.every("answer")).replace("\r\n", "\n")
        answer = form.get("new", 1000) or answer
        try:
            seen = look(project)
            asked = question_of(form, fields_of(seen["task"], seen))
            count = add(project, asked, answer)
        except DataError as error:
            return studio.forward(back, error=error)
        t = studio.talk(request)
        return studio.forward(back, t("added", count=t.q.number(count)))

    @router.get("/try/state")
    def state(request: Request, identity: str, run: int = 0) -> Response:
        trial = _needed(studio, identity, run)
        values = {**_engine(studio, trial), "project": trial.project}
        return HTMLResponse(studio.fragment(request, "engine.jinja", **values))

    @router.post("/open")
    def open_base(identity: str, form: Said, run: int = 0) -> Response:
        trial = _needed(studio, identity, run)
        studio.room.open(base_of(trial))
        back = "ship" if form.get("back") == "ship" else "try"
        return RedirectResponse(f"/p/{identity}/{back}?run={trial.run.number}", status_code=303)


def _page(
    studio: Studio, request: Request, project: Project, trial: Trial | None,
    form: Form | None = None, said: dict[str, str] | None = None,
) -> Response:  # fmt: skip
    seen = look(project)
    asks = fields_of(seen["task"], seen)
    values: dict[str, Any] = {"trial": trial, "said": said or {}, "seen": seen, "asks": asks}
    values |= {"asked": {name: form.text(name) if form else "" for name in asks}}
    values |= {"spans": SPANS, "one_label": ONE_LABEL, "writing": False, "spoken": False}
    if trial is not None:
        fields = fields_of(trial.task, seen)
        given = {name: form.text(name) for name in fields} if form else example_of(fields, seen)
        values |= {"fields": fields, "given": given}
        values |= {"writing": trial.task in WRITTEN, "spoken": trial.task == "dialogue",
                   "known": list((seen["findings"] or {}).get("labels") or {})[:200],
                   "metric": trial.report.get("metric", "accuracy"),
                   **_engine(studio, trial)}  # fmt: skip
    return studio.page(request, "try.jinja", project, **values)


def _engine(studio: Studio, trial: Trial) -> dict[str, Any]:
    base = base_of(trial)
    error = studio.room.error(base)
    return {"engine": studio.room.state(base), "engine_error": error and error.to_json(),
            "run": trial.run}  # fmt: skip


def base_of(trial: Trial) -> str:
    """Return the base of what is recommended, else the run's own."""
    best = next((column for column in trial.columns if column.best), None)
    return best.base if best is not None else str(trial.run.asked["model"])


def _whole(studio: Studio, request: Request, trial: Trial, column: Column, form: Form) -> str:
    """Return the answer of one column as HTML, an error included."""
    try:
        asked = question_of(form, fields_of(trial.task, look(trial.project)))
        return studio.fragment(request, "answer.jinja", error=None, task=trial.task,
                               **_answered(studio, trial, column, asked))  # fmt: skip
    except SapwoodError as said:
        return studio.fragment(request, "answer.jinja", error=said.to_json())


def _answered(studio: Studio, trial: Trial, column: Column, asked: Question) -> dict[str, Any]:
    room, text = studio.room, asked.text
    if trial.task in ONE_LABEL:
        pair = ends_marked(asked.shown, asked.ends) if asked.ends else ""
        return {"kind": "labels", "labels": labels(room, column, text)[:12], "pair": pair}
    if trial.task in WRITTEN:
        turns = (Turn(role="user", content=text),)
        pieces = list(written(room, column, turns, spoken=trial.task == "dialogue"))
        errors = [p for p in pieces if isinstance(p, SapwoodError)]
        if errors:
            raise errors[0]
        return {"kind": "written", "words": "".join(map(str, pieces))}
    answer = found(room, column, text)
    if trial.task == "multi-label":
        names = [frame.label for frame in answer.frames]
        return {"kind": "several", "names": names}
    shown = marked(text, marks_of(trial.task, answer.frames))
    return {"kind": "spans", "marked": shown, "frames": in_words(text, answer),
            "lines": as_lines(trial.task, text, answer.frames)}  # fmt: skip


def _turns(form: Form) -> tuple[Turn, ...]:
    """Return the conversation that a form holds: `turn` fields, the user's first, by turns."""
    said = [form.text("text")] if form.get("text", 100_000) else form.every("turn")[-_TURNS:]
    roles = ("user", "assistant")
    offset = (len(said) + 1) % 2  # the last is the user's
    return tuple(Turn(role=roles[(n + offset) % 2], content=text) for n, text in enumerate(said))


def _pieces(
    studio: Studio, t: Talk, asked: tuple[Trial, Column], turns: tuple[Turn, ...]
) -> Iterator[str]:
    """Yield an answer as it is written; an error is its last line, behind a form feed."""
    trial, column = asked
    try:
        if not turns or not turns[-1].content.strip():
            raise DataError("E-DATA-303", "There is no text.", fix="write the text first")
        for piece in written(studio.room, column, turns, spoken=trial.task == "dialogue"):
            if isinstance(piece, SapwoodError):
                raise piece
            yield piece
    except SapwoodError as error:
        yield f"\f{t.said(error.what, error.code)}"
