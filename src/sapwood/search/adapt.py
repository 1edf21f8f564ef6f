"""`adapt`: from a job to a report and an adaptation, as a generator of events."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from sapwood.errors import ConfigError
from sapwood.evaluation import Bases
from sapwood.files import told, write_json
from sapwood.interfaces import Event
from sapwood.launch import Runtime
from sapwood.search import text_to_text
from sapwood.search.encoders import check_wanted
from sapwood.search.engine import check_engine
from sapwood.search.evidence import build_report, choose, hand_over, predictions, read_test
from sapwood.search.job import Job, Material, fingerprint, read_material
from sapwood.search.ladder import climb
from sapwood.search.rendered import template_notes
from sapwood.search.workbench import Workbench


def adapt(
    job: Job, runtime: Runtime, *, card: Any, trust_remote_code: str = "", oos: str = ""
) -> Generator[Event, None, dict[str, Any]]:
    """Try the ladder of candidates, recommend one and write OUT; return the report.

    `card` makes the model card from a report; `oos`: the label that means none of the others, for
    the report alone. Everything finished is kept under ``OUT/run``: the
    same job resumes there. Closing the generator between events saves a checkpoint first. Raises
    what the readers, the store and the disk raise, and ConfigError (E-CONFIG-053) when OUT holds
    another run.
    """
    material = read_material(job, oos)
    yield Event(kind="note", note=_data_line(material))
    folder = _prepared(job.out)
    bases = Bases(runtime, trust_remote_code=trust_remote_code)
    base = bases.get(job.model)
    if base.kind == "encoder":
        check_wanted(job, masked=base.masked is not None)
    if base.kind == "text-to-text":
        text_to_text.check_wanted(job)
    check_engine(job, bases)
    for note in template_notes(material.task, material.splits.train, base):
        yield Event(kind="note", note=note)
    yield Event(kind="note", note=f"base {base.name}: {runtime.describe()}")
    hashes = {name: bases.get(name).sha256 for name in (job.model, job.encoder) if name}
    bench = Workbench(job, material, bases, folder)
    if bench.text_tokens < job.max_length:
        yield Event(kind="note", note=f"texts are cut after {bench.text_tokens:,} tokens, not "
                    f"{job.max_length:,}: with its prompt the base reads at most "
                    f"{base.max_length:,}")  # fmt: skip
    if bench.facts is not None:
        hashes["facts"] = bench.facts.settings.sha256
    _same_run(folder, fingerprint(job, material, hashes), job)
    why = bases.decoder(job.model).why_padded if base.kind == "decoder" else ""
    if why:
        yield Event(kind="note", note=f"prompts are padded, not packed: {why}")
    yield from climb(bench)
    recommended = choose(bench)
    tests = {} if recommended is None else (yield from read_test(bench, recommended))
    report = build_report(bench, material, tests, recommended)
    if recommended is not None:
        hand_over(bench, report, card(report))
        if recommended in tests:
            write_json(job.out / "predictions.json", predictions(bench, tests[recommended]))
    write_json(job.out / "report.json", report)
    return report


def _prepared(out: Path) -> Path:
    folder = out / "run"
    with told(out):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    return folder


def _same_run(folder: Path, digest: str, job: Job) -> None:
    path = folder / "job.json"
    if path.exists():
        try:
            known = json.loads(path.read_text())["fingerprint"]
        except (ValueError, KeyError):
            known = None
        if known != digest:
            raise ConfigError(
                "E-CONFIG-053",
                f"{folder.parent} holds a run with other data, settings or weights.",
                fix="choose another --out, or --fresh to begin again there",
            )
        return
    write_json(path, {"fingerprint": digest, "command": job.command})


def _data_line(material: Material) -> str:
    splits = material.splits
    dropped = sum(len(d.rows) for d in splits.dropped)
    labels = len(splits.labels)
    return (
        f"{len(splits.train):,} train, {len(splits.dev):,} dev, {len(splits.test):,} test rows"
        + (f", {labels} label{'s' if labels > 1 else ''}" if labels else "")
        + (f", {dropped:,} rows not used" if dropped else "")
    )
