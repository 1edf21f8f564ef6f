"""What a corpus says of itself: corpus.json for programs, README.md for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from sapwood.corpora.corpus import MAIN, SCHEMA
from sapwood.corpora.packing import PARTS
from sapwood.corpora.shelf import write_object
from sapwood.corpora.sources import Given
from sapwood.files import write_text
from sapwood.packages import sha256_of

LIBRARIES = ("fastwarc", "resiliparse", "py3langid", "rensa", "rjieba", "tokenizers", "numpy")
SAMPLES = 5  # documents shown of each kind
STEPS = (
    ("extract", "The text of each record, without markup, navigation, headers and licences."),
    ("normalise", "NFC, line ends, white space; control characters out; mojibake left alone."),
    ("language", "By script, else by py3langid; only the languages asked for stay."),
    ("quality", ("Gopher, C4 and FineWeb for web pages, by language; for the rest only what holds "
                "no language goes.")),
    ("overlap", "Passages that share an n-gram with an evaluation text are cut, as for GPT-3."),
    ("private", "E-mail addresses, phone and identity numbers, IP addresses masked."),
    ("duplicates", "Exact and near duplicates over all sources; the first stays."),
)  # fmt: skip


def write_card(
    out: Path, given: Sequence[Given], job: Mapping[str, Any], made: Mapping[str, Any]
) -> dict[str, Any]:
    """Write README.md and, last, corpus.json, which makes the folder a corpus; return the latter.

    `made` holds what the steps of `build` returned: written, tokenizer, packed, drops, damaged.
    """
    written, packed = made["written"], made["packed"]
    shards = [
        {"name": f"{part}-{number:05d}", "part": part, **shard[part]}
        for part in PARTS
        for number, shard in enumerate(packed)
        if part in shard
    ]
    sizes = _total(shard["sizes"] for shard in written)
    card = {
        "schema": SCHEMA,
        "job": {**job, "files": [file[:4] for file in job["files"]]},
        "libraries": _versions(),
        "sources": [_source(source, made["drops"]["records"], written, sizes) for source in given],
        "damaged": made["damaged"],
        "counts": {
            "records": sum(made["drops"]["records"].values()),
            "documents": sum(shard["documents"] for shard in written),
            "dropped": made["drops"]["documents"],
            "characters": sizes["characters"],
            "bytes": sizes["bytes"],
            **{part: _part(shards, part) for part in PARTS},
        },
        "dropped": made["drops"]["by_step"],
        "changed": made["drops"]["counts"],
        "languages": _languages(written, sizes),
        "tokenizer": {
            **made["tokenizer"],
            "sha256": sha256_of(out / "tokenizer" / "tokenizer.json"),
        },
        "samples": {
            "kept": [s for shard in written for s in shard["samples"]][:SAMPLES],
            "dropped": made["drops"]["samples"][:SAMPLES],
        },
        "documents": [
            {"name": f"{s['number']:05d}", "documents": s["documents"], "sha256": s["sha256"]}
            for s in written
        ],
        "shards": shards,
    }
    write_text(out / "README.md", readme(card))
    write_object(out / MAIN, card)
    return card


def _total(counters: Iterable[Mapping[str, int]]) -> Counter[str]:
    total = Counter[str]()
    for counter in counters:
        total.update(counter)
    return total


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _source(
    source: Given,
    records: Mapping[str, int],
    written: Sequence[Mapping[str, Any]],
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    return {
        "name": source.name,
        "licence": source.licence,
        "records": records.get(source.name, 0),
        "documents": sum(shard["source"].get(source.name, 0) for shard in written),
        "bytes": sizes.get(f"source {source.name}", 0),
        "files": [
            {"name": f.name, "format": f.format, "bytes": f.bytes, "sha256": sha256_of(f.path)}
            for f in source.files
        ],
        "skipped": list(source.skipped),
    }


def _part(shards: Sequence[Mapping[str, Any]], part: str) -> dict[str, int]:
    mine = [shard for shard in shards if shard["part"] == part]
    return {
        key: sum(shard[key] for shard in mine)
        for key in ("documents", "tokens", "bytes", "sentences")
    }


def _languages(
    written: Sequence[Mapping[str, Any]], sizes: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    counts = _total(shard["language"] for shard in written)
    return {
        code: {"documents": count, "bytes": sizes.get(f"language {code}", 0)}
        for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    }


def readme(card: Mapping[str, Any]) -> str:
    """Return the corpus card in Markdown, in lines of at most 80 columns but for the tables."""
    counts, tokenizer = card["counts"], card["tokenizer"]
    train, held = counts["train"], counts["held"]
    lines = [
        "# Corpus card", "",
        (f"- Documents: {counts['documents']:,} of {counts['records']:,} records "
        f"({counts['dropped']:,} dropped)"),
        f"- Text: {counts['bytes'] / 1e6:,.1f} MB, {counts['characters']:,} characters",
        f"- Train: {train['documents']:,} documents, {train['tokens']:,} tokens",
        f"- Held out: {held['documents']:,} documents, {held['tokens']:,} tokens",
        (f"- Tokenizer: {tokenizer['kind']}, {tokenizer['vocabulary']:,} tokens, "
        f"{_bytes_a_token(counts)} bytes a token"),
        "", "## Sources", "",
        *_table(
            ("source", "format", "records", "documents", "MB", "licence"),
            [_source_row(source) for source in card["sources"]],
        ),
        *(f"- Cut off: {line}" for line in card["damaged"]),
        *(f"- Left out: {line}" for source in card["sources"] for line in source["skipped"][:10]),
        "", "## Languages", "",
        *_table(
            ("language", "documents", "MB"),
            [(code, f"{x['documents']:,}", f"{x['bytes'] / 1e6:,.2f}")
             for code, x in card["languages"].items()],
        ),
        "", "## Dropped", "", *_dropped(card),
        "", "## Steps and settings", "",
        *(f"- {name}: {what}" for name, what in STEPS if _done(name, card)),
        "", "```json", *json.dumps(card["job"]["settings"], indent=1).split("\n"), "```",
        "", "## Samples", "", *_samples(card["samples"]["kept"], "kept"),
        *_samples(card["samples"]["dropped"], "dropped"),
        "## Terms", "",
        "The licences of the sources hold for the text. Masking finds what has a form;",
        "names and postal addresses stay. Machines wrote some of the web.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _bytes_a_token(counts: Mapping[str, Any]) -> str:
    tokens = sum(counts[part]["tokens"] for part in PARTS)
    return f"{sum(counts[part]['bytes'] for part in PARTS) / max(1, tokens):.2f}"


def _source_row(source: Mapping[str, Any]) -> tuple[str, ...]:
    forms = ", ".join(sorted({file["format"] for file in source["files"]}))
    return (
        source["name"], forms, f"{source['records']:,}", f"{source['documents']:,}",
        f"{source['bytes'] / 1e6:,.2f}", source["licence"],
    )  # fmt: skip


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    marks = ["---:" if cell.replace(",", "").replace(".", "").isdigit() else "---"
             for cell in (rows[0] if rows else head)]  # fmt: skip
    return [f"| {' | '.join(cells)} |" for cells in (head, tuple(marks), *rows)]


def _dropped(card: Mapping[str, Any]) -> list[str]:
    rows = [
        (step, reason, f"{count:,}")
        for step, reasons in card["dropped"].items()
        for reason, count in reasons.items()
    ]
    lines = _table(("step", "reason", "documents"), rows) if rows else ["Nothing was dropped."]
    changed = [f"{count:,} {what}" for what, count in card["changed"].items()]
    return [*lines, "", f"Masked or cut: {', '.join(changed) or 'nothing'}. Every dropped document",
            "stands in drops.jsonl.gz with its reason."]  # fmt: skip


def _done(step: str, card: Mapping[str, Any]) -> bool:
    settings = card["job"]["settings"]
    wants = {"overlap": bool(settings["keep_out"]), "private": settings["mask"]}
    return bool(wants.get(step, True))


def _samples(rows: Sequence[Mapping[str, str]], what: str) -> list[str]:
    lines: list[str] = []
    for row in rows:
        reason = f": {row['reason']}" if "reason" in row else ""
        text = " ".join(row["text"].split())
        lines += [f"{what.capitalize()}{reason} (`{row['id']}`)", "", f"> {text}", ""]
    return lines
