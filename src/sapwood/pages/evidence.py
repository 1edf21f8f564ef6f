"""The longer sections of the page: the data, the inputs, the classes, the errors, the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from markupsafe import Markup, escape

from sapwood.pages import figures
from sapwood.pages.candidates import Report, find, is_baseline, shown
from sapwood.pages.words import Words, is_number

Section = dict[str, Any]

# A heat table reads well up to about this many labels; beyond, the confused pairs say more.
MOST_LABELS = 20
MOST_PAIRS = 15
# Of one role's unbroken run of tokens: enough to see the template, not all demonstrations.
_FIRST_TOKENS, _LAST_TOKENS = 90, 30
_LONGEST_TEXT = 600
_ROLES = ("instruction", "demonstration", "fact", "query", "answer")


def data(report: Report, words: Words) -> Section | None:
    """Return the data card: what was kept, dropped, how it is spread, and its hygiene."""
    card = report.get("data_card")
    if not isinstance(card, Mapping) or not card:
        return None
    labels = []
    for label, counts in (card.get("labels") or {}).items():
        by_split = [counts.get(split) or 0 for split in ("train", "dev", "test")]
        labels.append({"label": label, "counts": by_split, "total": sum(by_split)})
    labels.sort(key=lambda row: -row["total"])
    return {
        "rows": card.get("rows"),
        "kept": card.get("kept"),
        "dropped": card.get("dropped") or (report.get("splits") or {}).get("dropped") or [],
        "labels": labels,
        "most": max((row["total"] for row in labels), default=0) or 1,
        "lengths": figures.length_drawing(report, words),
        "facts": _data_facts(report, card, words),
    }


def _data_facts(report: Report, card: Mapping[str, Any], words: Words) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    source = report.get("data") or {}
    if source.get("path"):
        facts.append((words("fact_file"), str(source["path"])))
    if source.get("columns"):
        told = [f"{role} = {column}" for role, column in source["columns"].items() if column]
        facts.append((words("fact_columns"), words.listing(told)))
    if is_number(card.get("near_duplicates")):
        facts.append((words("fact_near"), words.number(card["near_duplicates"])))
    for key in ("exact", "near"):
        leaked = (card.get("leakage") or {}).get(key)
        if is_number(leaked):
            facts.append((words(f"fact_leak_{key}"), words.number(leaked)))
    if card.get("languages"):
        shares = sorted(card["languages"].items(), key=lambda pair: -pair[1])
        told = [f"{code} {words.percent(share)}" for code, share in shares]
        facts.append((words("fact_languages"), words.listing(told)))
    return facts


def examples(report: Report, words: Words) -> list[Section]:
    """Return the rendered examples as runs of tokens of one role."""
    found = []
    seen: dict[tuple[str, ...], int] = {}
    for number, example in enumerate(report.get("examples") or [], 1):
        tokens = example.get("tokens") or []
        runs = []
        for role, group in groupby(tokens, key=lambda token: token.get("role")):
            known = role if role in _ROLES else ""
            name = words(f"role_{role}") if known else str(role or "")
            pieces = [str(token.get("text") or "") for token in group]
            # A long context is shown once; a later example only points to it.
            first = seen.setdefault(tuple(pieces), number) if len(pieces) > 20 else number
            same = first if first != number else None
            html = "" if same else _tokens(pieces, words)
            runs.append({"role": known, "name": name, "html": html, "same": same})
        answers = sum(token.get("role") == "answer" for token in tokens)
        found.append(
            {
                "name": shown(example.get("candidate") or ""),
                "runs": runs,
                "count": len(tokens),
                "supervised": answers,
                "label": example.get("label"),
                "predicted": example.get("predicted"),
            }
        )
    return found


def _tokens(pieces: list[str], words: Words) -> Markup:
    if len(pieces) <= _FIRST_TOKENS + _LAST_TOKENS + 20:
        return Markup("").join(_token(piece) for piece in pieces)
    left_out = len(pieces) - _FIRST_TOKENS - _LAST_TOKENS
    told = words("skipped_tokens", count=words.number(left_out))
    gap = Markup('<em class="gap">{}</em>').format(told)
    first = Markup("").join(_token(piece) for piece in pieces[:_FIRST_TOKENS])
    return first + gap + Markup("").join(_token(piece) for piece in pieces[-_LAST_TOKENS:])


def _token(piece: str) -> Markup:
    """Return one token; white space stays itself in the text and gets a visible sign by style."""
    html = str(escape(piece)).replace(" ", "<i> </i>").replace("\t", '<i class="t">\t</i>')
    html = html.replace("\r", '<i class="n"></i>').replace("\n", '<i class="n"></i>\n')
    return Markup(f"<span>{html}</span>")


def classes(report: Report) -> Section | None:
    """Return the confusion matrix or its worst pairs, and the scores by label, worst first."""
    confusion = report.get("confusion") or {}
    labels, counts = confusion.get("labels") or [], confusion.get("counts") or []
    square = (
        bool(labels) and len(counts) == len(labels) and all(len(r) == len(labels) for r in counts)
    )
    scored = sorted(
        report.get("per_class") or [],
        key=lambda row: row["f1"] if is_number(row.get("f1")) else 2.0,
    )
    if not square and not scored:
        return None
    return {
        "labels": labels,
        "matrix": _matrix(labels, counts) if square and len(labels) <= MOST_LABELS else None,
        "pairs": _pairs(labels, counts) if square and len(labels) > MOST_LABELS else None,
        "wrong": sum(n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j),
        "scored": scored,
    }


def _matrix(labels: list[Any], counts: list[list[int]]) -> list[Section]:
    rows = []
    for i, row in enumerate(counts):
        total = sum(row) or 1
        cells = [
            {"n": n, "share": round(100 * n / total), "hit": i == j} for j, n in enumerate(row)
        ]
        rows.append({"label": labels[i], "cells": cells})
    return rows


def _pairs(labels: list[Any], counts: list[list[int]]) -> list[Section]:
    pairs = [
        {"true": labels[i], "predicted": labels[j], "n": n, "share": n / (sum(row) or 1)}
        for i, row in enumerate(counts)
        for j, n in enumerate(row)
        if i != j and n
    ]
    return sorted(pairs, key=lambda pair: (-pair["n"], -pair["share"]))[:MOST_PAIRS]


def errors(report: Report) -> list[Section]:
    """Return the worst errors with their nearest training rows, long texts shortened."""
    return [
        {
            **error,
            "text": _shortened(error.get("text")),
            "nearest": [
                {**near, "text": _shortened(near.get("text"))}
                for near in error.get("nearest") or []
            ],
        }
        for error in report.get("errors") or []
    ]


def _shortened(text: object) -> str:
    whole = str(text or "")
    return whole if len(whole) <= _LONGEST_TEXT else whole[:_LONGEST_TEXT].rstrip() + " …"


def reproduce(report: Report, words: Words) -> Section:
    """Return the command and every fact needed to run it again."""
    recipe = report.get("reproduce") or {}
    environment = report.get("environment") or {}
    facts: list[tuple[str, str]] = []
    if recipe.get("seed") is not None:
        facts.append((words("fact_seed"), str(recipe["seed"])))
    if (report.get("data") or {}).get("sha256"):
        facts.append((words("fact_data_hash"), str(report["data"]["sha256"])))
    for name, value in (recipe.get("hashes") or {}).items():
        facts.append((str(name), str(value)))
    versions = {k: v for k, v in environment.items() if k != "bases" and v is not None}
    facts += [(str(k), str(v)) for k, v in {**versions, **(recipe.get("versions") or {})}.items()]
    winner = find(report, report.get("recommended"))
    for base in environment.get("bases") or []:
        licence = words("fact_licence", licence=base.get("license") or words("unknown"))
        told = [licence, str(base.get("sha256") or "")]
        name = words("fact_base", name=base.get("name"))
        facts.append((name, words.listing([t for t in told if t])))
    return {
        "command": recipe.get("command"),
        "facts": facts,
        "based": bool(winner and not is_baseline(winner)),
    }
