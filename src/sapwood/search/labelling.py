"""Candidates that give any number of labels to a text without writing them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.adaptation import Adaptation
from sapwood.interfaces import Answer, Event, Example, Floats
from sapwood.models.encoder import Encoder
from sapwood.readouts.head import Head
from sapwood.readouts.labels import LabelGrams, Sigmoid, sigmoid, with_thresholds
from sapwood.readouts.thresholds import Chosen, choose_thresholds, labelled
from sapwood.search import encoders
from sapwood.search.candidate import Candidate, entry
from sapwood.search.workbench import Made, Making, Workbench
from sapwood.training import TrainedHead
from sapwood.training.labelling import LabelsSupervision


def labelling_ladder(bench: Workbench) -> Iterator[Candidate]:
    """Yield what reads the text itself, then what an encoder does, as base or beside one."""
    job = bench.job
    alone = bench.bases.get(job.model).kind == "encoder"
    yield entry("tf-idf", of_texts)
    if not alone:
        yield from encoders.unmasked(bench, tuned)
    encoder = job.model if alone else job.encoder
    if not encoder:
        return
    yield entry("probe", of_features, "probe" if alone else f"probe-{Path(encoder).name}",
                encoder=encoder)  # fmt: skip
    names = encoders.methods_of(job) if alone else ["lora"]
    for number, method in enumerate(names):
        share = 1 / (len(names) - number) if alone else encoders.BESIDE
        name = method if alone else f"encoder-{method}"
        yield entry(name, tuned, method=method, encoder=encoder, share=share)


def of_texts(bench: Workbench, name: str) -> Making:
    """Make the cheap baseline: n-grams under one regression a label."""
    train, dev = bench.splits.train, bench.splits.dev
    yield Event(kind="progress", candidate=name, done=0, total=1)
    fitted = LabelGrams.fit(
        [e.text for e in train], wanted_of(bench, train), labels=bench.labels, seed=bench.job.seed
    )
    texts = [e.text for e in dev]
    started = time.perf_counter()
    each = fitted.each(texts)
    seconds = (time.perf_counter() - started) / max(1, len(dev))
    chosen = chosen_on(bench, each, dev)
    made = Adaptation(
        labels=bench.labels, task=bench.task.name, readout_name="label-grams",
        readout=with_thresholds(fitted, chosen.thresholds),
    )  # fmt: skip
    said = labelled(bench.labels, chosen.crossed)
    return Made(adaptation=made, dev=said, query_seconds=seconds, notes=told(chosen))


def of_features(bench: Workbench, name: str, encoder: str) -> Making:
    """Make the probe: one regression a label on the features of an untouched encoder."""
    train, dev = bench.splits.train, bench.splits.dev
    yield Event(kind="progress", candidate=name, done=0, total=1)
    kind = SeveralLabels(bench)
    known, _ = bench.embed(encoder, "train", train)
    start = kind.start(known, "mean")
    asked, seconds = bench.embed(encoder, "dev", dev)
    answered = kind.finished(start, asked)
    made = Adaptation(
        labels=bench.labels, task=bench.task.name, readout_name="sigmoid",
        readout=answered.readout, base=bench.bases.reference(encoder),
        max_text_tokens=bench.job.max_length,
    )  # fmt: skip
    return Made(
        adaptation=made,
        dev=answered.said,
        trainable=start.weight.size + start.bias.size,
        query_seconds=seconds / max(1, len(dev)),
        notes=answered.notes,
    )


def tuned(bench: Workbench, name: str, *, method: str, encoder: str, share: float = 1.0) -> Making:
    """Make the candidate `name`: `method` (or "head") on `encoder`, with a yes or no a label."""
    kind = SeveralLabels(bench)
    return (
        yield from encoders.tuned_encoder(
            bench, name, method=method, encoder=encoder, share=share, kind=kind
        )
    )


class SeveralLabels:
    """What an encoder learns where a text has any number of labels; see `encoders.OneLabel`."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench

    def start(self, known: Floats, pooling: str) -> Head:
        """Return the head that training starts from."""
        wanted = wanted_of(self.bench, self.bench.splits.train)
        seed = self.bench.job.seed
        return Sigmoid.fit(known, wanted, labels=self.bench.labels, seed=seed, pooling=pooling).head

    def supervision(
        self, encoder: Encoder, rows: Sequence[Sequence[int]], head: TrainedHead[Head]
    ) -> LabelsSupervision:
        """Return the loss of the training rows, given as token ids."""
        return LabelsSupervision(
            encoder, rows, wanted_of(self.bench, self.bench.splits.train), head
        )

    def said(self, head: Head, features: Floats, rows: Sequence[Example]) -> list[Answer]:
        """Return what a head says of rows, each by thresholds that the other rows chose."""
        each = sigmoid(head.logits(features))
        return labelled(head.labels, chosen_on(self.bench, each, rows).crossed)

    def finished(self, head: Head, features: Floats) -> encoders.Answered:
        """Return the readout with its thresholds chosen on the development rows."""
        each = sigmoid(head.logits(features))
        chosen = chosen_on(self.bench, each, self.bench.splits.dev)
        return encoders.Answered(
            name="sigmoid",
            readout=Sigmoid(head=head, thresholds=chosen.thresholds),
            said=labelled(head.labels, chosen.crossed),
            notes=told(chosen),
        )


def wanted_of(bench: Workbench, rows: Sequence[Example]) -> NDArray[np.bool_]:
    """Return whether each row has each label, (rows, labels)."""
    place = {label: n for n, label in enumerate(bench.labels)}
    found = np.zeros((len(rows), len(place)), bool)
    for number, row in enumerate(rows):
        found[number, [place[frame.label] for frame in row.frames]] = True
    return found


def chosen_on(bench: Workbench, each: Floats, rows: Sequence[Example]) -> Chosen:
    """Return the thresholds that rows with these probabilities choose."""
    return choose_thresholds(each, wanted_of(bench, rows), seed=bench.job.seed)


def told(chosen: Chosen) -> dict[str, Any]:
    """Return the notes on thresholds for the report."""
    spread = [round(float(n), 4) for n in (chosen.thresholds.min(), chosen.thresholds.max())]
    return {"thresholds": {"own": chosen.own, "from": spread[0], "to": spread[1]}}
