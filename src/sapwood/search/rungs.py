"""The candidates of tasks whose answers are found in the text or written, the cheap ones first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from sapwood.adaptation import Adaptation
from sapwood.evaluation import asking
from sapwood.interfaces import Event
from sapwood.readouts import READOUTS
from sapwood.registry import resolve
from sapwood.search import answering, tagging
from sapwood.search.candidate import Candidate, entry, trained
from sapwood.search.encoders import BESIDE, HEAD, methods_of, unmasked
from sapwood.search.job import trained_families
from sapwood.search.labelling import labelling_ladder
from sapwood.search.workbench import Made, Making, Workbench

SHOTS = (4, 16)
NEAREST_SHOTS = 8
TRAINED = ("lora", "lora+context")
# Of the time left: on CoNLL-2003 a head over frozen states had 47 % span F1 where LoRA had 77.5 %.
HEAD_SHARE = 0.2


def written_ladder(bench: Workbench) -> Iterator[Candidate]:
    """Yield what can be tried on a task whose answers are found or written."""
    job = bench.job
    found = bench.task.family == "extraction"
    floor = "dictionary" if found else "n-gram"
    if bench.task.name == "multi-label":
        yield from labelling_ladder(bench)
    else:
        yield entry(floor, _floor, readout=floor)
    on_encoder = bench.bases.get(job.model).kind == "encoder"
    encoder = job.model if on_encoder else job.encoder
    if found and encoder:
        yield from _tagged(bench, encoder, alone=on_encoder)
    if on_encoder:
        return
    if found:
        yield from unmasked(bench, tagging.tagged)
    yield entry("zero-shot", answering.prompted)
    # conversations are asked by the base's own chat template, which shows no demonstrations
    spoken = all(row.turns for row in bench.splits.train)
    near = "nearest" if job.encoder else "bm25"
    for shots in () if spoken else SHOTS:
        yield entry("few-shot", answering.prompted, f"few-shot-{shots}", shots=shots)
    if not spoken:
        yield entry(
            "few-shot", answering.prompted, f"few-shot-{NEAREST_SHOTS}-{near}",
            shots=NEAREST_SHOTS, selection=near,
        )  # fmt: skip
    usual = TRAINED[: 1 if spoken else None]
    yield from trained(trained_families(job.only) if job.only else usual, answering.tuned)


def _tagged(bench: Workbench, encoder: str, *, alone: bool) -> Iterator[Candidate]:
    names = methods_of(bench.job) if alone else ["lora"]
    if alone and not bench.job.only:
        names = [HEAD, *names]
    for number, method in enumerate(names):
        share = 1 / (len(names) - number) if alone else BESIDE
        if method == HEAD and len(names) > 1:
            share = HEAD_SHARE
        name = method if alone else f"encoder-{method}"
        yield entry(name, tagging.tagged, method=method, encoder=encoder, share=share)


def _floor(bench: Workbench, name: str, *, readout: str) -> Making:
    """Make the cheap baseline that learns from the training answers alone."""
    yield Event(kind="progress", candidate=name, done=0, total=1)
    fitted: Any = resolve("readout", READOUTS, readout).fit(bench.splits.train)
    made = Adaptation(
        labels=bench.labels, task=bench.task.name, readout_name=readout, readout=fitted
    )
    dev = bench.splits.dev
    with asking(made, bench.bases) as asked:
        started = time.perf_counter()
        said = asked.said(dev)
        seconds = (time.perf_counter() - started) / max(1, len(dev))
    return Made(adaptation=made, dev=said, query_seconds=seconds)
