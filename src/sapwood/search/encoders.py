"""Candidates that train on an encoder: a linear head, alone or together with a method."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sapwood.adaptation import Adaptation
from sapwood.errors import ConfigError, ModelError
from sapwood.interfaces import Event, Example, Floats
from sapwood.methods import parts
from sapwood.methods.defaults import learning_rate
from sapwood.methods.defaults import times as scales
from sapwood.methods.parts import Method
from sapwood.readouts.head import Head
from sapwood.search.job import CONTEXT, FAMILIES, Job, trained_families
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
BESIDE = 0.3  # of the time left, for an encoder beside a decoder that is to be tuned too
# On 256 rows of SST-2 the accuracy had levelled off after two or three passes and the loss on other
# rows sooner; the best weights are kept, so more passes cost time alone.
MOST_EPOCHS = 6.0
LEAST_SECONDS = 3.0  # for the steps that are timed, and one evaluation
HEAD_RATE = 1e-3  # whatever the method's; five times as much changed nothing on SST-2


def check_wanted(job: Job) -> None:
    """Raise what an encoder as --model cannot do.

    ModelError (E-MODEL-052): candidates that prompt; ConfigError (E-CONFIG-031): settings of
    prompts, which would have no effect.
    """
    able = {*BASELINES, *FEATURES, HEAD}
    lacking = [
        family
        for family in job.only
        if family not in able and (family in FAMILIES or family.endswith(CONTEXT))
    ]
    if lacking:
        raise ModelError(
            "E-MODEL-052",
            f"'{job.model}' is an encoder, which cannot be prompted: no {', '.join(lacking)}.",
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


def tuned_encoder(
    bench: Workbench, name: str, *, method: str, encoder: str, share: float = 1.0
) -> Making:
    """Make the candidate `name`: `method` (for `configured`, or "head") on `encoder`, with a head.

    `share` of the time left is what training may take.
    """
    if share * bench.tuning_seconds(name) < LEAST_SECONDS:
        raise Stopped(
            f"training would have too little time ({max(bench.clock.left, 0):.0f} s left)"
        )
    start = _probe(bench, encoder)
    net = bench.bases.encoder(encoder).net
    chosen = None
    if method != HEAD:
        chosen = worded(bench, asked_for(bench, method), encoder)
    try:
        if chosen is not None:
            chosen.attach(net, seed=bench.job.seed)
        training = EncoderTraining(bench, name, encoder, start)
        course = training.course(chosen, share)
        yield from course.steps()
        return (yield from training.made(course, chosen))
    finally:
        net.eval()
        parts.detach(net)


def _probe(bench: Workbench, encoder: str) -> Head:
    """Return the head that training starts from: the probe of the untouched base."""
    train = bench.splits.train
    # between two marked spans it matters what stands in them, not only what the text is about
    pooling = "markers" if bench.task.name == "pairs" else "mean"
    known, _ = bench.embed(encoder, "train", train, pooling)
    gold = bench.gold(train)
    return Head.fit(known, gold, labels=bench.labels, seed=bench.job.seed, pooling=pooling)


class EncoderTraining:
    """One training run of an encoder under a head; a method may be attached already.

    The base's own dropout stays off: without it the loss does not depend on how rows are packed, a
    step is quicker, and on SST-2 it gained nothing (LoRA, one seed).
    """

    def __init__(self, bench: Workbench, name: str, encoder: str, start: Head) -> None:
        self.bench, self.name, self.base = bench, name, encoder
        self.encoder = bench.bases.encoder(encoder)
        self.head = TrainedHead(start, device=self.encoder.device)
        self.weights = head_weights(self.encoder.net, self.head)

    def course(self, method: Method | None, share: float) -> Judged:
        """Return the run, resumed where it was left."""
        bench, settings = self.bench, self.bench.job.tuning
        train = bench.splits.train
        rate = HEAD_RATE if method is None else learning_rate(method, encoder=True)
        recipe = Recipe(
            learning_rate=settings.learning_rate or rate,
            batch_size=min(settings.batch_size, len(train)),
            epochs=settings.epochs or MOST_EPOCHS,
            seed=bench.job.seed,
        )
        rows = self._tokens([e.text for e in train])
        times = dict.fromkeys(self.head.weights(), HEAD_RATE / rate)
        if method is not None:
            times |= scales(self.encoder.net, method, encoder=True)
        supervision = HeadSupervision(self.encoder, rows, bench.index(train), self.head)
        started(self.encoder.net, supervision)
        trained = Trained(
            name=self.name,
            supervised=supervision,
            weights=self.weights,
            optimiser=scaled_optimiser(self.weights, recipe, times),
            recipe=recipe,
        )
        judge = Judge(
            training=self._training,
            said=self._said,
            seconds=lambda: share * bench.tuning_seconds(self.name),
            every=len(train) // recipe.batch_size,
        )
        return Judged(bench, trained, judge, pause=CHECKPOINT_SECONDS)

    def _training(self, on: bool) -> None:
        self.head.train(on)
        for _, part in parts.parts(self.encoder.net):
            part.training = on  # not those inside: the base's

    def _said(self, rows: Sequence[Example]) -> Floats:
        head, limit = self.head.readout(), self.bench.job.max_length
        texts = [e.text for e in rows]
        found = self.bench.bases.embed(self.base, texts, pooling=head.pooling, limit=limit)
        return head.probabilities(found)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self.bench.bases.tokens(self.base, texts, limit=self.bench.job.max_length)

    def made(self, course: Judged, method: Method | None) -> Making:
        """Put the best weights back, score all development rows, return the candidate."""
        course.put_best_back()
        bench, net = self.bench, self.encoder.net
        texts = [e.text for e in bench.splits.dev]
        started = time.perf_counter()
        said = course.said(bench.splits.dev)
        seconds = (time.perf_counter() - started) / len(texts)
        total = course.run.total
        yield Event(kind="progress", candidate=self.name, done=total, total=total)
        made = Adaptation(
            labels=bench.labels,
            readout_name="head",
            readout=self.head.readout(),
            base=bench.bases.reference(self.base),
            method=None if method is None else as_trained(net, method),
            weights=parts.stored(net),
            transposed=parts.transposed(net),
            max_text_tokens=bench.job.max_length,
        )
        return Made(
            adaptation=made,
            dev=said,
            trainable=sum(tensor.numel() for tensor in self.weights.values()),
            query_seconds=seconds,
            query_tokens=sum(map(len, self._tokens(texts))) / len(texts),
            curve=course.run.curve,
            forecast_seconds=course.run.forecast,
        )
