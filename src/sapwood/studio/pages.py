"""Templates filled in: what every page shows, and short notices that outlive one redirect."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from sapwood.errors import SapwoodError
from sapwood.serving.disk import for_askers
from sapwood.studio.baseline import Baselines
from sapwood.studio.guarding import Door
from sapwood.studio.looking import blocked, look
from sapwood.studio.room import Room
from sapwood.studio.running import Runs
from sapwood.studio.talk import COOKIE, Talk, choose
from sapwood.studio.workspace import Project, Workspace

if TYPE_CHECKING:
    from jinja2 import Environment

STEPS = ("data", "baseline", "adapt", "results", "try", "ship")
STATIC: Mapping[str, tuple[str, str, str]] = {  # name -> package, path in it, kind
    "report.css": ("sapwood.pages", "report.css", "text/css"),
    "studio.css": ("sapwood.studio", "static/studio.css", "text/css"),
    "studio.js": ("sapwood.studio", "static/studio.js", "text/javascript"),
    "mark.svg": ("sapwood.studio", "static/mark.svg", "image/svg+xml"),
}
_NOTICES = 200  # kept at once; each is read once
LIVE = ("starting", "running", "stopping")


@cache
def asset(name: str) -> tuple[bytes, str, str]:
    """Return a file that pages need, its kind, and a digest of it. Raises KeyError if unknown."""
    package, path, kind = STATIC[name]
    content = files(package).joinpath(path).read_bytes()
    return content, kind, sha256(content).hexdigest()[:12]


@cache
def _environment() -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=ChoiceLoader(
            [PackageLoader("sapwood.studio", "templates"), PackageLoader("sapwood.pages", ".")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["asset_url"] = lambda name: f"/static/{name}?v={asset(name)[2]}"
    return found


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A short message on the next page: `text`, or an error in its parts."""

    text: str = ""
    error: Mapping[str, Any] | None = None


class Studio:
    """What all routes share."""

    def __init__(
        self, workspace: Workspace, door: Door, room: Room, runs: Runs, usual_lang: str = "en"
    ) -> None:
        self.workspace, self.door, self.room, self.runs = workspace, door, room, runs
        self.baselines = Baselines()
        self.usual_lang = usual_lang
        self._lock = threading.Lock()
        self._notices: OrderedDict[str, Notice] = OrderedDict()

    def talk(self, request: Request) -> Talk:
        """Return the words in the language of whoever asks."""
        accepted = request.headers.get("accept-language", "")
        lang = choose(request.query_params, request.cookies, accepted, self.usual_lang)
        return Talk(lang=lang)

    def page(
        self, request: Request, template: str, project: Project | None = None, status: int = 200,
        **values: Any,
    ) -> Response:  # fmt: skip
        """Return a page; `values` are what its template needs beside what all have."""
        t = self.talk(request)
        step = template.removesuffix(".jinja")
        text = _environment().get_template(template).render(
            t=t, project=project, step=step, door=self.door,
            steps=self._steps(project, t) if project else (),
            notice=self._noticed(request), other=_switched(request, t.lang), **values,
        )  # fmt: skip
        response = HTMLResponse(text, status_code=status)
        if request.query_params.get("lang"):
            response.set_cookie(COOKIE, t.lang, max_age=365 * 86_400, samesite="lax", path="/")
        return response

    def fragment(self, request: Request, template: str, **values: Any) -> str:
        """Return a part of a page."""
        found = _environment().get_template(template)
        return found.render(t=self.talk(request), **values)

    def rail(self, request: Request, project: Project, step: str) -> str:
        """Return the steps as they stand now."""
        steps = self._steps(project, self.talk(request))
        return self.fragment(request, "rail.jinja", project=project, step=step, steps=steps)

    def forward(
        self, url: str, text: str = "", error: SapwoodError | None = None
    ) -> RedirectResponse:
        """Send a browser on to a page, with a notice on it."""
        if text or error is not None:
            token = secrets.token_urlsafe(9)
            notice = Notice(text=text, error=for_askers(error).to_json() if error else None)
            with self._lock:
                self._notices[token] = notice
                while len(self._notices) > _NOTICES:
                    self._notices.popitem(last=False)
            url += ("&" if "?" in url else "?") + urlencode({"note": token})
        return RedirectResponse(url, status_code=303)

    def _noticed(self, request: Request) -> Notice | None:
        with self._lock:
            return self._notices.pop(request.query_params.get("note", ""), None)

    def _steps(self, project: Project, t: Talk) -> Sequence[tuple[str, str, str, str]]:
        """Return (key, name, what is known of it, its mark) of each step of the rail."""
        seen, runs = look(project), project.runs()
        said = dict.fromkeys(STEPS, ("", ""))
        count = t("rows_short", count=t.q.number(seen["rows"])) if seen["rows"] else ""
        said["data"] = (t("to_mend"), "warn") if blocked(seen) else (count, "done")
        known = self.baselines.known(project)
        if known["state"] == "done" and known["rows"]:
            best = known["rows"][-1]
            said["baseline"] = (t.score(known["metric"], best["value"]), "done")
        if runs:
            story = self.runs.story(runs[0])
            state = story["state"]
            mark = "live" if state in LIVE else "done" if state == "finished" else "warn"
            said["adapt"] = (t("run_number", number=runs[0].number), mark)
        report = next((r for r in (run.report() for run in runs) if r), None)
        if report is not None:
            said["results"] = (t.candidate(report.get("recommended")), "done")
        return tuple((key, t(f"step_{key}"), *said[key]) for key in STEPS)


def _switched(request: Request, lang: str) -> str:
    """Return the address of the same page in the other language."""
    kept = [(k, v) for k, v in request.query_params.multi_items() if k not in ("lang", "note")]
    return "?" + urlencode([*kept, ("lang", "en" if lang == "zh" else "zh")])
