"""The model card: README.md in the form of the Hugging Face hub, written from the evidence.

The front matter follows the hub's model-card metadata (Mitchell et al. 2019 for the idea of a
card). The licence is inherited from the base and the data; where one is unknown it is `other`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sapwood.pages.candidates import (
    Report,
    Row,
    best_split,
    comparison,
    find,
    is_baseline,
    kind,
    ranked,
    score,
    shown,
)
from sapwood.pages.confidence import coverage_rows
from sapwood.pages.panel import named, panel
from sapwood.pages.verdict import verdict
from sapwood.pages.words import ABSENT, Words, is_number
from sapwood.tasks.kinds import WRITTEN

_TASKS = {
    "classification": "text-classification",
    "multi-label": "text-classification",
    "pairs": "text-classification",
    "generation": "text-generation",
    "dialogue": "text-generation",
    "story": "text-generation",
    "poetry": "text-generation",
    "extraction": "token-classification",
    "entities": "token-classification",
    "relations": "token-classification",
    "events": "token-classification",
}
MOST_TYPES = 30  # rows of a table by type; the report has them all
_UNKNOWN = {"", "unknown", "none", "other"}


def model_card(report: Report) -> str:
    """Return README.md for the recommended adaptation: YAML front matter and the evidence."""
    words = Words(lang="en")
    winner = find(report, report.get("recommended"))
    sections = [
        _front_matter(report, winner),
        f"# {_title(report, winner)}\n",
        verdict(report, "en")[0] + "\n",
        _how_to_load(),
        _scores(report, words),
        _comparison(report, winner, words),
        _panel(report, words),
        _cost(winner, words),
        _data(report, words),
        _limits(report, winner, words),
        _licence(report, winner),
        _provenance(report),
    ]
    return "\n".join(section for section in sections if section)


def licences(report: Report, winner: Row | None) -> list[tuple[str, str]]:
    """Return (what, licence) of everything the adaptation was made from; '' where unknown."""
    found = []
    if winner is None or not is_baseline(winner):
        for base in _bases(report, winner):
            found.append((f"base model {base.get('name')}", _known(base.get("license"))))
        if not found:
            found.append(("base model", ""))
    data = report.get("data") or {}
    found.append((f"data {data.get('path') or ''}".strip(), _known(data.get("license"))))
    return found


def _known(licence: object) -> str:
    text = str(licence or "").strip()
    return "" if text.lower() in _UNKNOWN else text


def _bases(report: Report, winner: Row | None) -> list[Row]:
    """Return the bases that may be inside the winner: its own if it names one, else all."""
    bases: list[Row] = list((report.get("environment") or {}).get("bases") or [])
    named = (winner or {}).get("base")
    own = [base for base in bases if named and base.get("name") == named]
    return own or bases


def _front_matter(report: Report, winner: Row | None) -> str:
    found = {licence.lower() for _, licence in licences(report, winner)}
    bases = [] if winner and is_baseline(winner) else _bases(report, winner)
    lines = ["---"]
    if len(found) == 1 and "" not in found:
        lines.append(f"license: {_scalar(found.pop())}")
    else:
        lines += ["license: other", "license_name: inherited"]
    lines += _list("base_model", [str(b.get("hub_id") or b.get("name")) for b in bases])
    languages = (report.get("data_card") or {}).get("languages") or {}
    common = [code for code, share in languages.items() if is_number(share) and share >= 0.05]
    lines += _list("language", common or [str(report.get("language") or "en")])
    lines += _list("metrics", _metric_names(report))
    lines.append("library_name: sapwood")
    task = str(report.get("task") or "")
    lines.append(f"pipeline_tag: {_scalar(_TASKS.get(task, task or 'text-classification'))}")
    tags = ["sapwood", kind(winner)] if winner else ["sapwood"]
    if winner and "lora" in str((winner.get("parts") or {}).get("method") or "").lower():
        tags += ["lora", "peft"]
    lines += _list("tags", tags)
    lines += _model_index(report, winner, task)
    return "\n".join([*lines, "---", ""])


def _metric_names(report: Report) -> list[str]:
    metric = str(report.get("metric") or "accuracy")
    return ["f1" if metric.endswith("f1") else metric]


def _model_index(report: Report, winner: Row | None, task: str) -> list[str]:
    found = score(winner, "test")
    if not winner or not found:
        return []
    path = str((report.get("data") or {}).get("path") or "local data")
    lines = [
        "model-index:",
        f"- name: {_scalar(winner.get('name'))}",
        "  results:",
        "  - task:",
        f"      type: {_scalar(_TASKS.get(task, task))}",
        "    dataset:",
        f"      name: {_scalar(path)}",
        "      type: local",
        "      split: test",
        "    metrics:",
    ]
    values = {str(found.get("metric") or report.get("metric") or "accuracy"): found["value"]}
    values |= {k: found[k] for k in ("macro_f1", "ece", "bits_a_byte") if is_number(found.get(k))}
    for name, value in values.items():
        lines += [f"    - type: {_scalar(name)}", f"      value: {value:.4f}"]
    return lines


def _scalar(value: object) -> str:
    """Return a YAML scalar; JSON strings are YAML, so anything unusual is quoted as JSON."""
    text = str(value)
    plain = text.replace("-", "").replace(".", "").replace("_", "").replace("/", "")
    words = {"yes", "no", "true", "false", "null", "on", "off", "y", "n"}
    safe = plain.isascii() and plain.isalnum() and text[0].isalpha() and text.lower() not in words
    return text if safe else json.dumps(text, ensure_ascii=False)


def _list(key: str, values: Sequence[str]) -> list[str]:
    return [f"{key}:", *(f"- {_scalar(value)}" for value in values)] if values else []


def _title(report: Report, winner: Row | None) -> str:
    name = shown(winner["name"]) if winner else "No recommended adaptation"
    path = (report.get("data") or {}).get("path")
    return _inline(f"{name} for {path}" if path else name)


def _how_to_load() -> str:
    return (
        "## How to load\n\n"
        "In the folder of this file:\n\n"
        '```sh\npip install sapwood\nsapwood predict . "a text"\n```\n'
    )


def _scores(report: Report, words: Words) -> str:
    metric = words.metric(report.get("metric") or "accuracy")
    rows = [
        "## Scores\n",
        (
            f"{metric[:1].upper()}{metric[1:]}, with 95 % bootstrap "
            "intervals. Development rows chose the recommended; test rows were read once.\n"
        ),
        "| candidate | parts | dev | test | 95 % interval | status |",
        "|---|---|---:|---:|---:|---|",
    ]
    for candidate in ranked(report):
        parts = candidate.get("parts") or {}
        told = "; ".join(
            str(parts[k]) for k in ("context", "prefix", "method", "readout") if parts.get(k)
        )
        dev, test = score(candidate, "dev"), score(candidate, "test")
        spread = words.span(test.get("low"), test.get("high")) if test else ABSENT
        status = str(candidate.get("status") or "finished")
        why = f"{status}: {candidate['why']}" if candidate.get("why") else status
        name = shown(candidate.get("name"))
        bold = f"**{_inline(name)}**" if candidate.get("name") == report.get("recommended") else ""
        cells = (
            bold or _inline(name),
            _inline(told) or ABSENT,
            words.percent(dev["value"]) if dev else ABSENT,
            words.percent(test["value"]) if test else ABSENT,
            spread,
            _inline(why),
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _comparison(report: Report, winner: Row | None, words: Words) -> str:
    lines = []
    for candidate in ranked(report):
        if not winner or candidate.get("name") == winner.get("name"):
            continue
        split = best_split(report)
        found = comparison(report, winner.get("name"), candidate.get("name"), split)
        if found:
            span = words.span(found["low"], found["high"])
            name = _inline(shown(candidate.get("name")))
            lines.append(f"- against {name}: {words.signed(found['difference'])} points ({span})")
    if not lines:
        return ""
    head = "Paired differences of the recommended on the same rows, 95 % intervals:\n\n"
    return head + "\n".join(lines) + "\n"


def _panel(report: Report, words: Words) -> str:
    """Return the task's scores of the recommended, by part and type; no row of the data."""
    found = panel(report, words)
    if found is None:
        return ""
    lines = ["## Scores of the task"]
    if found["measures"]:
        lines += ["", "| score | precision | recall | F1 or share | 95 % interval | wanted |"]
        lines += ["|---|---:|---:|---:|---:|---:|"]
        lines += [_measure(row, words) for row in found["measures"]]
    for group in found["groups"]:
        title = group["title"] or "score"
        lines += ["", f"| {_inline(title)} | written | 95 % interval | wanted texts |"]
        lines += ["|---|---:|---:|---:|"]
        lines += [
            f"| {_inline(x['name'])} | {x['value']} | {x['interval'] or ABSENT} | {x['wanted']} |"
            for x in group["lines"]
        ]
    for table in found["tables"]:
        title = named(f"table_{table['key']}", table["key"], words)
        lines += ["", f"{title}:\n", "| label | precision | recall | F1 | wanted |"]
        lines += ["|---|---:|---:|---:|---:|"]
        lines += [_typed(row, words) for row in table["rows"][:MOST_TYPES]]
        left = len(table["rows"]) - MOST_TYPES
        lines += [f"\n{left} more are in the report."] if left > 0 else []
    if found["errors"] and found["errors"]["total"]:
        lines.append("\nSpans that are not exactly right:\n")
        lines += [f"- {words('kind_' + k['key'])}: {k['n']}" for k in found["errors"]["kinds"]]
    lines += [f"\n{_inline(note)}" for note in found["notes"]]
    return "\n".join(lines) + "\n"


def _measure(row: Row, words: Words) -> str:
    name = f"{row['name']}: {row['about']}" if row["about"] else row["name"]
    span = words.span(row["low"], row["high"]) if is_number(row["low"]) else ABSENT
    cells = [_inline(name), *(words.percent(row[k]) for k in ("precision", "recall", "value"))]
    return "| " + " | ".join([*cells, span, words.number(row["support"])]) + " |"


def _typed(row: Row, words: Words) -> str:
    cells = [words.percent(row.get(key)) for key in ("precision", "recall", "f1")]
    return (
        "| " + " | ".join([_inline(row.get("label")), *cells, words.number(row.get("support"))])
        + " |"
    )  # fmt: skip


def _cost(winner: Row | None, words: Words) -> str:
    cost = (winner or {}).get("cost") or {}
    if not cost:
        return ""
    rows = (
        ("to fit", words.seconds(cost.get("fit_seconds"))),
        ("weights trained", words.number(cost.get("trainable_parameters"))),
        ("size of the artifact", words.size(cost.get("artifact_bytes"))),
        ("a query", words.milliseconds(cost.get("ms_per_query"))),
        ("tokens a query", words.number(cost.get("tokens_per_query"), 1)),
        ("peak memory", words.size(cost.get("peak_bytes"))),
    )
    lines = [f"- {name}: {value}" for name, value in rows if value != ABSENT]
    return "## Cost\n\nMeasured in this run.\n\n" + "\n".join(lines) + "\n"


def _data(report: Report, words: Words) -> str:
    splits, data = report.get("splits") or {}, report.get("data") or {}
    counts = [f"{words.number(splits.get(k))} {k}" for k in ("train", "dev", "test")]
    lines = ["## Data\n", f"- rows: {', '.join(counts)}"]
    if data.get("path"):
        lines.append(f"- file: {_code(data['path'])}")
    if data.get("sha256"):
        lines.append(f"- sha256: {_code(data['sha256'])}")
    card = report.get("data_card") or {}
    for row in card.get("dropped") or splits.get("dropped") or []:
        lines.append(f"- dropped: {words.number(row.get('count'))} ({_inline(row.get('reason'))})")
    labels = list(card.get("labels") or {})
    if labels:
        more = f" and {len(labels) - 20} more" if len(labels) > 20 else ""
        lines.append(f"- labels: {', '.join(_code(label) for label in labels[:20])}{more}")
    leakage = card.get("leakage") or {}
    if leakage:
        lines.append(
            f"- test rows also in train: {words.number(leakage.get('exact'))} exactly, "
            f"{words.number(leakage.get('near'))} nearly"
        )
    return "\n".join(lines) + "\n"


def _limits(report: Report, winner: Row | None, words: Words) -> str:
    lines = ["## Limits\n"]
    test = (report.get("splits") or {}).get("test")
    if score(winner, "test"):
        lines.append(
            f"- Measured on {words.number(test)} rows of the same source; on other texts, other "
            "topics or later dates the scores can be lower."
        )
    else:
        lines.append("- There is no test score: the rows that chose it also scored it.")
    if not verdict(report, "en")[1]:
        lines.append("- Its lead over the best cheap baseline is not established (see above).")
    ece = (report.get("calibration") or {}).get("ece")
    if is_number(ece):
        lines.append(f"- Its stated confidence is off by {words.percent(ece)} on average.")
    for row in coverage_rows(report):
        if row.get("wanted") == 0.9:
            found, right = words.percent(row["coverage"]), words.percent(row["accuracy"])
            lines.append(
                f"- From a confidence of {words.number(row['threshold'], 2)} on it answers {found} "
                f"of the test rows, {right} of them rightly: `sapwood predict DIR --coverage 0.9`."
            )
    by_type = (report.get("panel") or {}).get("by_type") or report.get("per_class")
    seen = [r for r in by_type or [] if is_number(r.get("f1")) and r.get("support") != 0]
    weak = [r for r in seen if r["f1"] < 0.5]
    if weak:
        names = ", ".join(f"{_code(r.get('label'))} ({words.percent(r['f1'])})" for r in weak[:10])
        lines.append(f"- Labels with an F1 under 50 %: {names}.")
    if report.get("task") in WRITTEN:
        lines.append("- What it writes was not checked for truth or harm.")
    lines.append("- Bias, privacy and memorisation were not examined by this run.")
    return "\n".join(lines) + "\n"


def _licence(report: Report, winner: Row | None) -> str:
    found = licences(report, winner)
    lines = ["## Licence\n", "Inherited from what it was made from; nothing is assumed.\n"]
    lines += [f"- {_inline(what)}: {_inline(licence) or 'not recorded'}" for what, licence in found]
    if any(not licence for _, licence in found):
        lines.append(
            "\nAt least one licence is not recorded, so the licence of this adaptation is unknown: "
            "clear it before you share the adaptation."
        )
    elif len({licence.lower() for _, licence in found}) > 1:
        lines.append("\nThe licences differ: the terms of all of them apply.")
    return "\n".join(lines) + "\n"


def _provenance(report: Report) -> str:
    recipe, environment = report.get("reproduce") or {}, report.get("environment") or {}
    facts: dict[str, Any] = {k: v for k, v in environment.items() if k != "bases" and v is not None}
    facts |= recipe.get("versions") or {}
    if recipe.get("seed") is not None:
        facts["seed"] = recipe["seed"]
    facts |= recipe.get("hashes") or {}
    for base in environment.get("bases") or []:
        if base.get("sha256"):
            facts[f"base {base.get('name')} sha256"] = base["sha256"]
    lines = ["## How it was made\n"]
    if recipe.get("command"):
        lines.append(f"```sh\n{str(recipe['command']).replace('```', '')}\n```\n")
    lines += [f"- {_inline(name)}: {_code(value)}" for name, value in facts.items()]
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""


def _inline(text: object) -> str:
    """Return text for a Markdown line or table cell: one line, no markup of its own."""
    line = " ".join(str(text if text is not None else "").split())
    for sign in "\\`*_[]<>|":
        line = line.replace(sign, "\\" + sign)
    return line


def _code(text: object) -> str:
    return "`" + " ".join(str(text).split()).replace("`", "'") + "`"
