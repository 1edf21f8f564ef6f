"""Candidates that train on an encoder: a linear head, alone or together with a method."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sapwood.adaptation import Adaptation
from sapwood.errors import ConfigError, ModelError
from sapwood.interfaces import Event, Example, Floats, Readout
from sapwood.methods import parts
from sapwood.methods.defaults import learning_rate
from sapwood.methods.defaults import times as scales
from sapwood.methods.parts import Method
from sapwood.models.decoder import why_padded
from sapwood.models.encoder import Encoder
from sapwood.readouts.head import Head
from sapwood.search.candidate import Candidate, entry
from sapwood.search.engine import computed_by
from sapwood.search.job import CONTEXT, FAMILIES, UNMASKED, Job, bare, trained_families
from sapwood.search.judged import Judge, Judged
from sapwood.search.tuning import asked_for, worded
from sapwood.search.workbench import Made, Making, Stopped, Workbench
from sapwood.training import (
    HeadSupervision,
    Recipe,
    TrainedHead,
    head_weights,
    scaled_optimiser,
    started,
)
from sapwood.training.course import CHECKPOINT_SECONDS, Trained
from sapwood.training.start import as_trained

HEAD = "head"  # no method: the head alone
BASELINES, FEATURES = ("majority", "tf-idf"), ("knn", "probe")
# Of the time left, for a decoder read as an encoder before it is made to write: on Weibo's entities
# it had 51 and 63 % span F1 on development rows after one pass and two (Gemma 3), where LoRA that
# wrote them had none after as long.
UNMASKING = 0.8
BESIDE = 0.3  # of the time left, for an encoder beside a decoder that is to be tuned too
# On 256 rows of SST-2 the accuracy had levelled off after two or three passes and the loss on other
# rows sooner; the best weights are kept, so more passes cost time alone.
MOST_EPOCHS = 6.0
LEAST_SECONDS = 3.0  # for the steps that are timed, and one evaluation
HEAD_RATE = 1e-3  # whatever the method's; five times as much changed nothing on SST-2


def check_wanted(job: Job, *, masked: bool = False) -> None:
    """Raise what an encoder as --model cannot do.

    ModelError (E-MODEL-052): candidates that prompt; ConfigError (E-CONFIG-031): settings of
    prompts, which would have no effect. `masked`: it has a masked-language-model head, and so can
    be asked for label words.
    """
    able = {*BASELINES, *FEATURES, HEAD, *(("zero-shot", "few-shot") if masked else ())}
    lacking = [
        family
        for family in job.only
        if family not in able and (family in FAMILIES or family.endswith((CONTEXT, UNMASKED)))
    ]
    if lacking:
        kind = "without a masked-language-model head known here, which cannot be prompted"
        if masked:
            kind = "with a masked-language-model head, which is asked for label words alone"
        raise ModelError(
            "E-MODEL-052",
            f"'{job.model}' is an encoder {kind}: no {', '.join(lacking)}.",
            fix=f"tune it, or pass it as --encoder {job.model} beside a decoder such as "
            "smollm2-135m",
        )
    given = {"--facts": job.facts, "--instruction": job.instruction}
    unread = [flag for flag, value in given.items() if value]
    if unread:
        raise ConfigError(
            "E-CONFIG-031",
            f"'{job.model}' is an encoder: {', '.join(unread)} would have no effect.",
            fix="leave that out, or choose a decoder",
        )


def methods_of(job: Job) -> list[str]:
    """Return what to train on an encoder: what was asked for by name, or LoRA."""
    asked = [HEAD] if HEAD in job.only else []
    return [*asked, *(trained_families(job.only) if job.only else ["lora"])]


def unmasked(bench: Workbench, make: Any) -> Iterator[Candidate]:
    """Yield candidates that `make` trains on the job's decoder read as an encoder.

    What was asked for, or LoRA where no encoder stands beside it; nothing where it cannot be.
    """
    job = bench.job
    if why_padded(bench.bases.get(job.model).net.config):
        return
    usual = () if job.encoder else (f"lora{UNMASKED}",)
    for family in job.only or usual:
        if family.endswith(UNMASKED):
            yield entry(family, make, method=bare(family), encoder=job.model, share=UNMASKING)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A finished readout: its `name` in READOUTS, what it said of development rows, and notes."""

    name: str
    readout: Readout
    said: Any
    notes: dict[str, Any] = field(default_factory=dict)


class Learnt(Protocol):
    """What an encoder learns: how its head starts, what its loss is, and what it says of rows."""

    def start(self, known: Floats, pooling: str) -> Head:
        """Return the head that training starts from, given the features of the training rows."""
        ...

    def supervision(
        self, encoder: Encoder, rows: Sequence[Sequence[int]], head: TrainedHead[Head]
    ) -> Any:
        """Return the loss of the training rows, given as token ids."""
        ...

    def said(self, head: Head, features: Floats, rows: Sequence[Example]) -> Any:
        """Return what a head says of rows (see `marks`), given their features."""
        ...

    def finished(self, head: Head, features: Floats) -> Answered:
        """Return the readout of a trained head, given the features of the development rows."""
        ...


class OneLabel:
    """One label a text: cross-entropy and class probabilities."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench

    def start(self, known: Floats, pooling: str) -> Head:
        """Return the probe of the untouched base as a head."""
        bench = self.bench
        gold = bench.gold(bench.splits.train)
        return Head.fit(known, gold, labels=bench.labels, seed=bench.job.seed, pooling=pooling)

    def supervision(
        self, encoder: Encoder, rows: Sequence[Sequence[int]], head: TrainedHead[Head]
    ) -> HeadSupervision:
        """Return the loss of the training rows, given as token ids."""
        return HeadSupervision(encoder, rows, self.bench.index(self.bench.splits.train), head)

    def said(self, head: Head, features: Floats, rows: Sequence[Example]) -> Floats:
        """Return the class probabilities of rows."""
        del rows
        return head.probabilities(features)

    def finished(self, head: Head, features: Floats) -> Answered:
        """Return the head itself."""
        return Answered(name="head", readout=head, said=head.probabilities(features))


def require_time(bench: Workbench, name: str, share: float) -> None:
    """Raise Stopped when `share` of the time that `name` may train for is too little to begin."""
    if share * bench.tuning_seconds(name) < LEAST_SECONDS:
        raise Stopped(
            f"training would have too little time ({max(bench.clock.left, 0):.0f} s left)"
        )


def tuned_encoder(
    bench: Workbench,
    name: str,
    *,
    method: str,
    encoder: str,
    share: float = 1.0,
    kind: Learnt | None = None,
) -> Making:
    """Make the candidate `name`: `method` (for `configured`, or "head") on `encoder`, with a head.

    `share` of the time left is what training may take; `kind`: what is learnt, by default one
    label a text.
    """
    kind = kind or OneLabel(bench)
    require_time(bench, name, share)
    start = _start(bench, encoder, kind)
    net = bench.bases.encoder(encoder).net
    chosen = None
    if method != HEAD:
        chosen = worded(bench, asked_for(bench, method), encoder)
    try:
        if chosen is not None:
            chosen.attach(net, seed=bench.job.seed)
        training = EncoderTraining(bench, name, encoder, start, kind)
        course = training.course(chosen, share)
        yield from course.steps()
        return (yield from training.made(course, chosen))
    finally:
        net.eval()
        parts.detach(net)


def _start(bench: Workbench, encoder: str, kind: Learnt) -> Head:
    """Return the head that training starts from: the probe of the untouched base.

    The states of a decoder that was just unmasked tell little and take long: there it is random.
    """
    # between two marked spans it matters what stands in them, not only what the text is about
    pooling = "markers" if bench.task.name == "pairs" else "mean"
    if bench.bases.get(encoder).kind == "decoder":
        width = bench.bases.encoder(encoder).width(pooling)
        return Head.random(bench.labels, width, seed=bench.job.seed, pooling=pooling)
    known, _ = bench.embed(encoder, "train", bench.splits.train, pooling)
    return kind.start(known, pooling)


class HeadTraining:
    """One training run of an encoder under a head; a method may be attached already.

    `head_rate`: of the head, whatever the method's; `most_epochs`: passes when none are asked for.
    The base's own dropout stays off: without it the loss does not depend on how rows are packed, a
    step is quicker, and on SST-2 it gained nothing (LoRA, one seed).
    """

    head_rate, most_epochs = HEAD_RATE, MOST_EPOCHS

    def __init__(self, bench: Workbench, name: str, encoder: str, head: TrainedHead[Any]) -> None:
        self.bench, self.name, self.base, self.head = bench, name, encoder, head
        self.encoder = bench.bases.encoder(encoder)
        self.weights = head_weights(self.encoder.net, head)

    def course(self, method: Method | None, share: float) -> Judged:
        """Return the run, resumed where it was left."""
        bench, settings = self.bench, self.bench.job.tuning
        supervision = self._supervision()
        own = bench.bases.get(self.base).kind == "encoder"
        rate = self.head_rate if method is None else learning_rate(method, encoder=own)
        recipe = Recipe(
            learning_rate=settings.learning_rate or rate,
            batch_size=min(settings.batch_size, len(supervision)),
            epochs=settings.epochs or self.most_epochs,
            seed=bench.job.seed,
        )
        times = dict.fromkeys(self.head.weights(), self.head_rate / rate)
        if method is not None:
            times |= scales(self.encoder.net, method, encoder=own)
        started(self.encoder.net, supervision)
        trained = Trained(
            name=self.name,
            supervised=computed_by(bench.job, supervision),
            weights=self.weights,
            optimiser=scaled_optimiser(self.weights, recipe, times),
            recipe=recipe,
        )
        judge = Judge(
            training=self._training,
            said=self._said,
            seconds=lambda: share * bench.tuning_seconds(self.name),
            passes=1.0,
        )
        return Judged(bench, trained, judge, pause=CHECKPOINT_SECONDS)

    def _training(self, on: bool) -> None:
        self.head.train(on)
        parts.train(self.encoder.net, on)

    def _supervision(self) -> Any:
        """Return the loss of the training rows, for `fit`."""
        raise NotImplementedError

    def _said(self, rows: Sequence[Example]) -> Any:
        """Return what is said of rows now; see `marks`."""
        raise NotImplementedError


class EncoderTraining(HeadTraining):
    """A training run under a head of one answer a text, of what `kind` says."""

    def __init__(
        self, bench: Workbench, name: str, encoder: str, start: Head, kind: Learnt | None = None
    ) -> None:
        head = TrainedHead(start, device=bench.bases.encoder(encoder).device)
        super().__init__(bench, name, encoder, head)
        self.kind = kind or OneLabel(bench)

    def _supervision(self) -> Any:
        rows = self._tokens([e.text for e in self.bench.splits.train])
        return self.kind.supervision(self.encoder, rows, self.head)

    def _said(self, rows: Sequence[Example]) -> Any:
        return self.kind.said(self.head.readout(), self._features(rows), rows)

    def _features(self, rows: Sequence[Example]) -> Floats:
        pooling, limit = self.head.start.pooling, self.bench.job.max_length
        texts = [e.text for e in rows]
        return self.bench.bases.embed(self.base, texts, pooling=pooling, limit=limit)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self.bench.bases.tokens(self.base, texts, limit=self.bench.job.max_length)

    def made(self, course: Judged, method: Method | None) -> Making:
        """Put the best weights back, score all development rows, return the candidate."""
        course.put_best_back()
        bench, net = self.bench, self.encoder.net
        texts = [e.text for e in bench.splits.dev]
        started = time.perf_counter()
        self._training(False)
        answered = self.kind.finished(self.head.readout(), self._features(bench.splits.dev))
        seconds = (time.perf_counter() - started) / len(texts)
        total = course.run.total
        yield Event(kind="progress", candidate=self.name, done=total, total=total)
        made = Adaptation(
            labels=bench.labels,
            task=bench.task.name,
            readout_name=answered.name,
            readout=answered.readout,
            base=bench.bases.reference(self.base),
            method=None if method is None else as_trained(net, method),
            weights=parts.stored(net),
            transposed=parts.transposed(net),
            max_text_tokens=bench.job.max_length,
        )
        return Made(
            adaptation=made,
            dev=answered.said,
            trainable=sum(tensor.numel() for tensor in self.weights.values()),
            query_seconds=seconds,
            query_tokens=sum(map(len, self._tokens(texts))) / len(texts),
            curve=course.run.curve,
            forecast_seconds=course.run.forecast,
            notes=answered.notes,
        )
