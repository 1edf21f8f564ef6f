"""The verdict of a run: one sentence, and whether the recommended is truly ahead."""

from __future__ import annotations

from collections.abc import Sequence

from sapwood.pages.candidates import (
    Report,
    Row,
    baseline,
    comparison,
    comparisons,
    find,
    is_baseline,
    kind,
    score,
    shown,
    turned,
    unfinished,
)
from sapwood.pages.words import Words, is_number, language_of


def verdict(report: Report, lang: str = "en") -> tuple[str, bool]:
    """Return the sentence that answers the run's question, and `separable`.

    Only the candidates, the comparisons and the recommended name decide; the numbers of rows are
    read from the splits. `separable` is true when the paired test difference between the
    recommended and the best cheap baseline (see `candidates.BASELINES`) has a 95 % interval
    above zero; a baseline that is itself recommended is never separable.
    """
    words = Words(lang=language_of(lang))
    winner = find(report, report.get("recommended"))
    after = unfinished_note(report, words)
    if winner is None:
        return words("lead_nothing") + words("body_nothing") + words("stop") + after, False
    if not (score(winner, "test") or score(winner, "dev")):
        body = words("body_unscored", name=shown(winner["name"]))
        return words("lead_nothing") + body + words("stop") + after, False
    lead, clauses, separable = _argument(report, winner, words)
    return words(lead) + "".join(clauses) + words("stop") + after, separable


def _argument(report: Report, winner: Row, words: Words) -> tuple[str, list[str], bool]:
    split = "test" if score(winner, "test") else "dev"
    clauses = [_reached(report, winner, split, words)]
    if is_baseline(winner):
        lead, more = _unbeaten(report, winner, split, words)
        separable = False
    else:
        lead, more, separable = _against_baseline(report, winner, split, words)
    cost = winner.get("cost") or {}
    price = []
    if is_number(cost.get("fit_seconds")) and is_number(cost.get("ms_per_query")):
        price = [words("body_cost", **_cost(winner, words))]
    # What follows a comma belongs to the score; what names another candidate comes last.
    clauses += more + price if more and more[0][0] in ",，" else price + more
    if split == "dev":
        return "lead_untested", [*clauses, words("body_untested")], False
    return lead, clauses, separable


def _reached(report: Report, winner: Row, split: str, words: Words) -> str:
    found = score(winner, split) or {}
    count = (report.get("splits") or {}).get(split)
    rows = f"rows_{split}" if is_number(count) and count else f"rows_{split}_unknown"
    interval = ""
    if is_number(found.get("low")) and is_number(found.get("high")):
        interval = words(
            "body_interval", low=words.bare(found["low"]), high=words.bare(found["high"])
        )
    metric = found.get("metric") or report.get("metric") or "accuracy"
    bits = found.get("bits_a_byte")
    told = "body_saved" if is_number(bits) else "body_score"
    return words(
        told,
        name=shown(winner["name"]),
        value=words.percent(found["value"]),
        metric=words.metric(metric),
        bits=words.number(bits, 2),
        interval=interval,
        rows=words(rows, count=words.number(count)),
    )


def _against_baseline(
    report: Report, winner: Row, split: str, words: Words
) -> tuple[str, list[str], bool]:
    """Return the lead, the clause about the baseline, and whether the winner is truly ahead."""
    rival = baseline(report)
    if rival is None:
        return "lead_uncompared", [words("body_alone")], False
    base = shown(rival["name"])
    found = comparison(report, winner["name"], rival["name"], split)
    if found is None:
        return "lead_uncompared", [words("body_unpaired", base=base)], False
    numbers = {"base": base, "low": words.bare(found["low"]), "high": words.bare(found["high"])}
    if found["low"] > 0:
        difference = words.points(found["difference"])
        clause = words("body_above", difference=difference, **numbers)
        return f"lead_{kind(winner)}", [clause], split == "test"
    if found["high"] < 0:
        numbers["low"], numbers["high"] = words.bare(-found["high"]), words.bare(-found["low"])
        difference = words.points(-found["difference"])
        return "lead_worse", [words("body_below", difference=difference, **numbers)], False
    clause = words(
        "body_within",
        difference=words.points(found["difference"]),
        cheaper=shown(_cheaper(winner, rival)["name"]),
        **numbers,
    )
    return "lead_unseparated", [clause], False


def _unbeaten(report: Report, winner: Row, split: str, words: Words) -> tuple[str, list[str]]:
    """Return the lead and the clause for a recommended baseline: who came nearest to it."""
    rivals: list[Row] = []
    for row in comparisons(report):
        if row.get("split", "test") == split:
            if row.get("against") == winner["name"]:
                rivals.append(row)
            elif row.get("candidate") == winner["name"]:
                rivals.append(turned(row))
    if not rivals:
        return "lead_baseline", []
    nearest = max(rivals, key=lambda row: (row["low"] > 0, row["difference"]))
    values = {
        "rival": shown(nearest["candidate"]),
        "difference": words.points(nearest["difference"]),
        "low": words.bare(nearest["low"]),
        "high": words.bare(nearest["high"]),
    }
    if nearest["low"] <= 0:
        return "lead_baseline", [words("body_unbeaten", **values)]
    price = _cost(find(report, nearest["candidate"]) or {}, words)
    return "lead_overtaken", [words("body_overtaken", **values, **price)]


def _cheaper(left: Row, right: Row) -> Row:
    def price(candidate: Row) -> tuple[float, float]:
        cost = candidate.get("cost") or {}
        return float(cost.get("ms_per_query") or 0), float(cost.get("fit_seconds") or 0)

    return min(right, left, key=price)


def _cost(candidate: Row, words: Words) -> dict[str, str]:
    cost = candidate.get("cost") or {}
    return {
        "fit": words.seconds(cost.get("fit_seconds")),
        "query": words.milliseconds(cost.get("ms_per_query")),
    }


def unfinished_note(report: Report, words: Words) -> str:
    """Return the sentences, each after a space, that name the stopped and the failed candidates."""
    sentences = ""
    for status in ("stopped", "failed"):
        names: Sequence[str] = unfinished(report, status)
        if names:
            sentences += words(f"body_{status}", names=words.listing(list(names)))
    return sentences
