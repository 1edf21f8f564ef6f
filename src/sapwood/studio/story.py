"""How a run went so far, from its events: what was tried, what each reached, what is left."""

from __future__ import annotations

import json
import re
from typing import Any

from sapwood.studio.workspace import Run, read_object

_LOSS = re.compile(r"loss (\d+\.?\d*)")
_POINTS = 200  # of a curve; more are thinned by half, since a page is not wider
Seen = dict[str, Any]


class Story:
    """Reads the events of a run as they come; each line once."""

    def __init__(self, run: Run) -> None:
        self._run, self._at, self._rest = run, 0, b""
        self._forget()

    def _forget(self) -> None:
        self._candidates: dict[str, Seen] = {}
        self._notes: list[str] = []
        self._now = ""  # the candidate that is being made, or is read on the test rows
        self._began = self._last = 0.0
        self._before = 0.0  # seconds of earlier stretches
        self._end: dict[str, Any] | None = None
        self._recommended: str | None = None

    def told(self) -> dict[str, Any]:
        """Return how it stands, JSON-ready.

        `state`: "going" or "ended"; `begun`: whether a first word came; `how` it ended and the
        `error`, if by one; `candidates` in the order tried, each with its `name`, `state`, `done`
        of `total`, `note`, and once made its `dev` score (`value`, `low`, `high`, `metric`) and
        what it cost; `began`: seconds since 1970; `spent`: seconds of all stretches up to the last
        event; `recommended` once it is known.
        """
        self._read()
        end = self._end or {}
        running = 0.0 if self._end else max(0.0, self._last - self._began)
        return {
            "state": "ended" if self._end else "going",
            "begun": bool(self._began),
            "how": end.get("how", ""),
            "error": end if end.get("error") else None,
            "candidates": list(self._candidates.values()),
            "notes": self._notes[-8:],
            "now": self._now,
            "began": self._began,
            "spent": self._before + running,
            "recommended": self._recommended,
        }

    def _read(self) -> None:
        try:
            with self._run.events.open("rb") as file:
                if file.seek(0, 2) < self._at:  # another file
                    self._at, self._rest = 0, b""
                    self._forget()
                file.seek(self._at)
                fresh = file.read()
        except OSError:
            return
        self._at += len(fresh)
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        for line in lines:
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):  # torn by a full disk
                continue

    def _take(self, event: dict[str, Any]) -> None:
        kind, name = event["kind"], event.get("candidate", "")
        at = float(event.get("at", 0.0))
        if kind == "began":
            self._began, self._end = at, None
            self._notes, self._now = [], ""
        elif kind == "ended":
            self._before += max(0.0, at - self._began)
            self._end, self._now = event, ""
            self._finish()
        elif kind == "note":
            self._notes.append(str(event["note"]))
        elif kind == "start":
            self._candidates[name] = _new(name, at)
            self._now = name
        elif kind == "progress":
            self._now = name
            self._progress(self._candidates.setdefault(name, _new(name, at)), event, at)
        elif kind == "end":
            self._close(self._candidates.setdefault(name, _new(name, at)), event, at)
            self._now = ""
        self._last = at

    def _progress(self, seen: Seen, event: dict[str, Any], at: float) -> None:
        if event["total"] != seen["total"] or event["done"] < seen["done"]:
            seen["since"] = [at, event["done"]]
        seen |= {"done": event["done"], "total": event["total"], "note": event["note"], "at": at}
        found = _LOSS.search(event["note"])
        if found and seen["state"] == "making":
            seen["loss"].append([event["done"], float(found[1])])
            if len(seen["loss"]) > _POINTS:
                seen["loss"] = [*seen["loss"][:-1:2], seen["loss"][-1]]

    def _close(self, seen: Seen, event: dict[str, Any], at: float) -> None:
        result = self._result(str(seen["name"]))
        seen |= {"state": result.get("status", "finished"), "note": event["note"], "made": at,
                 "why": result.get("why", ""), "dev": result.get("dev"),
                 "parts": result.get("parts") or {}, "family": result.get("family", ""),
                 "seconds": result.get("fit_seconds"), "bytes": result.get("artifact_bytes"),
                 "ms": result.get("ms_per_query")}  # fmt: skip

    def _result(self, name: str) -> dict[str, Any]:
        return (
            read_object(
                self._run.out / "run" / "candidates" / name.replace("/", "_") / "result.json"
            )
            or {}
        )

    def _finish(self) -> None:
        for seen in self._candidates.values():
            if seen["state"] == "making":
                seen["state"] = "unfinished"
        report = self._run.report() if (self._end or {}).get("how") == "finished" else None
        self._recommended = (report or {}).get("recommended")


def _new(name: str, at: float) -> Seen:
    return {
        "name": name,
        "state": "making",
        "done": 0,
        "total": 0,
        "note": "",
        "why": "",
        "dev": None,
        "parts": {},
        "family": "",
        "seconds": None,
        "bytes": None,
        "ms": None,
        "began": at,
        "at": at,
        "made": at,
        "since": [at, 0],
        "loss": [],
    }
