"""The in-context table as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

SHOTS = (0, 4, 16)
SHOWN = ("none", "chosen")
BEGIN, END = "<!-- icl_table: begin -->", "<!-- icl_table: end -->"
# FewCLUE's own results on test_public: accuracy and standard deviation over its five splits, 12
# layers of RoBERTa-wwm-ext unless said otherwise. Table 3 of CLUEbenchmark/FewCLUE
# (resources/img/fewclue_eresult.jpeg; Xu et al. 2021, arXiv 2107.07498).
PUBLISHED = {
    "fewclue_eprstmt_zh": {
        "rows": 32, "zero-shot": "85.2", "zero-shot GPT": "57.5", "fine-tuning": "65.4 (7.7)",
        "PET": "86.7 (1.0)", "P-tuning": "88.3 (0.7)", "human": "90.0",
    },
    "fewclue_tnews_zh": {
        "rows": 240, "zero-shot": "25.3", "fine-tuning": "49.0 (1.6)", "PET": "54.5 (1.2)",
        "P-tuning": "54.2 (1.0)", "human": "71.0",
    },
}  # fmt: skip


def points(value: float) -> str:
    """Return a share of 1 in points: 0.876 -> "87.6"."""
    return f"{100 * value:.1f}"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(result: dict[str, Any]) -> str:
    """Return all tables, one after the other under their headings."""
    parts = []
    for base, language in sorted({(r["base"], r["language"]) for r in result["summary"]}):
        rows = [r for r in result["summary"] if (r["base"], r["language"]) == (base, language)]
        if not any(r["scorer"] == "direct" for r in rows):
            continue
        sets = sorted({data for r in rows if r["scorer"] == "direct" for data in r["sets"]})
        title = f"### {base}, {'Chinese' if language == 'zh' else 'English'}: {', '.join(sets)}"
        parts += [title, by_bias(rows), by_scorer(rows)]
    parts += ["### By set", by_set(result["rows"])]
    if any(r["data"] in PUBLISHED for r in result["rows"]):
        parts += ["### FewCLUE, official few-shot splits", few_clue(result["rows"])]
    if result["missing"]:
        parts.append(missing(result["missing"]))
    return "\n\n".join(parts) + "\n"


def placed(tables: str, old: str) -> str:
    """Return `old` with what stands between its marks replaced, or the tables where it has none."""
    if BEGIN not in old or END not in old:
        return tables
    before, rest = old.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{tables}\n{END}{rest.split(END, 1)[1]}"


def missing(names: Sequence[str]) -> str:
    """Return which cells have no file, counted by scorer, base and set."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for name in names:
        data, base, _, _, scorer, part = name.removesuffix(".npz").split("--")
        counts[part if part != "scores" else scorer, base, data] += 1
    listed = "; ".join(f"{' '.join(kind)} {count}" for kind, count in sorted(counts.items()))
    return f"Cells (draws x shots) that were not collected: {listed}."


def by_bias(rows: Sequence[dict[str, Any]]) -> str:
    """Return the direct scorer's table: mean (worst seed) and the gain over no bias."""
    at = {(r["bias"], r["shots"]): r for r in rows if r["scorer"] == "direct"}
    lines = []
    for bias in dict.fromkeys(bias for bias, _ in at):
        line = [bias]
        for shots in SHOTS:
            row = at.get((bias, shots))
            if row is None:
                line += ["", ""]
                continue
            gain = row["against_none"]
            span = f"{points(gain['difference'])} ({points(gain['low'])} to {points(gain['high'])})"
            line += [f"{points(row['accuracy'])} ({points(row['worst'])})", span]
        lines.append(line)
    lines.sort(key=lambda line: line[0] != "none")
    head = [f"{shots} shots" for shots in SHOTS]
    return grid(["bias", *(x for name in head for x in (name, "over none"))], lines)


def by_scorer(rows: Sequence[dict[str, Any]]) -> str:
    """Return what each scorer gains over the direct one under the same bias, paired.

    The probe and TF-IDF stand against the direct scorer with the chosen bias.
    """
    lines = []
    for bias in ("none", "labels+slope"):
        at = {(r["scorer"], r["shots"]): r for r in rows if r["bias"] == bias}
        for scorer in dict.fromkeys(scorer for scorer, _ in at if scorer != "direct"):
            line = [scorer, "chosen" if scorer in ("probe", "tf-idf") else bias]
            for shots in SHOTS:
                gain = at.get((scorer, shots), {}).get("against_direct")
                line.append(
                    f"{points(gain['difference'])} ({points(gain['low'])} to "
                    f"{points(gain['high'])}), sets: {gain['sets']}"
                    if gain
                    else ""
                )
            lines.append(line)
    return grid(["instead of direct", "bias", *(f"{n} shots, gain" for n in SHOTS)], lines)


def by_set(rows: Sequence[dict[str, Any]]) -> str:
    """Return every set under no bias and under the fitted one, with intervals."""
    shown = [("direct", "none"), ("direct", "chosen"), ("channel", "none"), ("channel", "chosen")]
    shown += [("probe", "none"), ("tf-idf", "none")]
    at = {(r["data"], r["base"], r["shots"], r["scorer"], r["bias"]): r for r in rows}
    lines = []
    for data, base, shots in dict.fromkeys(key[:3] for key in at if key[3:] == ("direct", "none")):
        first = at[data, base, shots, "direct", "none"]
        line = [data, base, str(shots), f"{first['seeds']} x {first['queries']}"]
        for scorer, bias in shown:
            row = at.get((data, base, shots, scorer, bias))
            priced_out = row is not None and row["queries"] < 32
            line.append(
                ""
                if row is None or priced_out
                else f"{points(row['accuracy'])} ({points(row['low'])} to {points(row['high'])})"
            )
        lines.append(line)
    columns = [f"{s}, {b}" if s in ("direct", "channel") else s for s, b in shown]
    return grid(["set", "base", "shots", "draws x rows", *columns], lines)


def few_clue(rows: Sequence[dict[str, Any]]) -> str:
    """Return ours, mean (standard deviation) over the five official splits, beside FewCLUE's."""
    lines = []
    for data, known in PUBLISHED.items():
        rest = {name: value for name, value in known.items() if name != "rows"}
        lines += [[data, f"FewCLUE: {name}", str(value)] for name, value in rest.items()]
        for row in (row for row in rows if row["data"] == data):
            fits, fitted = row["bias"] == "chosen", row["scorer"] in ("probe", "tf-idf")
            name = f"{row['base']}, {row['shots']} shots, {row['scorer']}, bias {row['bias']}"
            name = f"{row['base']}, {row['scorer']}" if fitted else name
            used = (0 if fitted else row["shots"]) + row["labelled_rows"] * (fits or fitted)
            if fitted or (row["scorer"] in ("direct", "channel") and row["bias"] in SHOWN):
                value = f"{points(row['accuracy'])} ({points(row['std'])})"
                lines.append([data, f"{name}, {used} labelled rows", value])
    return grid(["set", "method", "accuracy (std over splits)"], lines)
