"""A run's evidence as a page, a model card, a terminal table and one sentence.

All four are made from the same dictionary, the run's `report.json`; the pieces are in `pages`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sapwood.errors import DataError
from sapwood.files import write_text
from sapwood.pages.card import model_card
from sapwood.pages.page import page
from sapwood.pages.terminal import terminal_table
from sapwood.pages.verdict import verdict

__all__ = ["SCHEMA", "load_report", "model_card", "terminal_table", "verdict", "write_html"]

SCHEMA = "sapwood.report/1"

# The part of report.json that other programs rely on.
_REQUIRED = {"task": str, "splits": Mapping, "candidates": list}


def write_html(report: Mapping[str, Any], path: Path, lang: str | None = None) -> None:
    """Write the report as one self-contained HTML file, replacing `path` in one step.

    `lang` is ``en`` or ``zh``; None takes the report's own language. The same report gives the
    same bytes. Raises ResourceError if the file cannot be written.
    """
    write_text(path, page(report, lang))


def load_report(folder: Path) -> dict[str, Any]:
    """Return the report of a run folder, checked.

    Raises DataError: E-REPORT-001 if there is none, E-REPORT-002 if it is not JSON, E-REPORT-003
    if its schema is another, E-REPORT-004 if fields that every report has are missing.
    """
    path = folder / "report.json"
    try:
        report = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            "E-REPORT-001",
            f"{path} does not exist, so '{folder}' is not a finished run.",
            fix=f"sapwood adapt DATA --out {folder}",
        ) from None
    except OSError as error:
        raise DataError("E-REPORT-001", f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise DataError("E-REPORT-002", f"{path} is not UTF-8 text.", fix=_AGAIN) from None
    except json.JSONDecodeError as error:
        raise DataError(
            "E-REPORT-002",
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}.",
            fix=_AGAIN,
        ) from None
    _check(report, path)
    return dict(report)


_AGAIN = "run 'sapwood adapt' again, or restore the file from a copy"


def _check(report: object, path: Path) -> None:
    found = report.get("schema") if isinstance(report, Mapping) else None
    if not isinstance(report, Mapping) or found != SCHEMA:
        raise DataError(
            "E-REPORT-003",
            f"{path} has schema {found!r}, this version reads {SCHEMA!r}.",
            fix="use the version of sapwood that wrote it, or run 'sapwood adapt' again",
        )
    wrong = [
        f"'{key}' is {'missing' if key not in report else 'not a ' + _NOUNS[kind]}"
        for key, kind in _REQUIRED.items()
        if not isinstance(report.get(key), kind)
    ]
    for number, candidate in enumerate(report.get("candidates") or []):
        if not isinstance(candidate, Mapping) or not isinstance(candidate.get("name"), str):
            wrong.append(f"candidates[{number}] has no name")
    if wrong:
        raise DataError("E-REPORT-004", f"{path} is not complete.", details=wrong, fix=_AGAIN)


_NOUNS: dict[type, str] = {str: "string", Mapping: "mapping", list: "list"}
