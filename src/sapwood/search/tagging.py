"""Candidates that tag with an encoder: the head alone, or together with a method."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sapwood.adaptation import Adaptation
from sapwood.evaluation.tagger import Tagger
from sapwood.interfaces import Answer, Event, Example
from sapwood.methods import parts
from sapwood.methods.defaults import learning_rate
from sapwood.methods.defaults import times as scales
from sapwood.methods.parts import Method
from sapwood.readouts.tags import Tags
from sapwood.search.encoders import HEAD, require_time
from sapwood.search.engine import computed_by
from sapwood.search.judged import Judge, Judged
from sapwood.search.tuning import asked_for, worded
from sapwood.search.workbench import Made, Making, Workbench
from sapwood.training import Recipe, head_weights, scaled_optimiser, started
from sapwood.training.course import CHECKPOINT_SECONDS, Trained
from sapwood.training.start import as_trained
from sapwood.training.tagging import (
    TaggingSupervision,
    TrainedTags,
    choose_scheme,
    tagging_rows,
)

# Tags are learnt from nothing: on CoNLL-2003's 2,500 sentences a head over frozen states still
# gained after ten passes, a method after six; the best weights are kept, so passes cost time alone.
MOST_EPOCHS = 10.0
HEAD_RATE = 3e-3  # of the head, whatever the method's below it


def tagged(bench: Workbench, name: str, *, method: str, encoder: str, share: float = 1.0) -> Making:
    """Make the candidate `name`: `method` (for `configured`, or "head") on `encoder`, with tags.

    `share` of the time left is what training may take.
    """
    require_time(bench, name, share)
    net = bench.bases.encoder(encoder).net
    chosen = None if method == HEAD else worded(bench, asked_for(bench, method), encoder)
    try:
        if chosen is not None:
            chosen.attach(net, seed=bench.job.seed)
        training = TagTraining(bench, name, encoder)
        for dropped in training.lost:
            note = f"{name}: {len(dropped.rows):,} training rows: {dropped.reason}"
            yield Event(kind="note", candidate=name, note=note)
        course = training.course(chosen, share)
        yield from course.steps()
        return (yield from training.made(course, chosen))
    finally:
        net.eval()
        parts.detach(net)


class TagTraining:
    """One training run of an encoder under tags; a method may be attached already."""

    def __init__(self, bench: Workbench, name: str, encoder: str) -> None:
        self.bench, self.name, self.base = bench, name, encoder
        self.encoder = bench.bases.encoder(encoder)
        base = bench.bases.get(encoder)
        self.tokenizer = base.tokenizer
        self.limit = min(base.max_length, bench.job.max_length)
        train, relations = bench.splits.train, bench.task.name == "relations"
        scheme = choose_scheme(
            self.tokenizer, train, bench.schema, max_length=self.limit, relations=relations
        )
        found = tagging_rows(
            self.tokenizer, train, scheme, max_length=self.limit, seed=bench.job.seed
        )
        self.rows, self.lost = found.rows, found.lost
        start = Tags.start(scheme, self.encoder.net.config.hidden_size, seed=bench.job.seed)
        self.head = TrainedTags(start, device=self.encoder.device)
        self.weights = head_weights(self.encoder.net, self.head)

    def course(self, method: Method | None, share: float) -> Judged:
        """Return the run, resumed where it was left."""
        bench, settings = self.bench, self.bench.job.tuning
        kind = bench.bases.get(self.base).kind == "encoder"
        rate = HEAD_RATE if method is None else learning_rate(method, encoder=kind)
        recipe = Recipe(
            learning_rate=settings.learning_rate or rate,
            batch_size=min(settings.batch_size, len(self.rows)),
            epochs=settings.epochs or MOST_EPOCHS,
            seed=bench.job.seed,
        )
        times = dict.fromkeys(self.head.weights(), HEAD_RATE / rate)
        if method is not None:
            times |= scales(self.encoder.net, method, encoder=kind)
        supervision = TaggingSupervision(self.encoder, self.rows, self.head)
        started(self.encoder.net, supervision)
        trained = Trained(
            name=self.name,
            weights=self.weights,
            supervised=computed_by(bench.job, supervision),
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

    def _tagger(self) -> Tagger:
        readout = self.head.readout()
        return Tagger(self.encoder, self.tokenizer, readout, max_length=self.limit)

    def _said(self, rows: Sequence[Example]) -> list[Answer]:
        return self._tagger().answers([row.text for row in rows])

    def made(self, course: Judged, method: Method | None) -> Making:
        """Put the best weights back, score all development rows, return the candidate."""
        course.put_best_back()
        bench, net = self.bench, self.encoder.net
        self._training(False)
        dev, tagger = bench.splits.dev, self._tagger()
        began = time.perf_counter()
        said = tagger.answers([row.text for row in dev])
        seconds = time.perf_counter() - began
        total = course.run.total
        yield Event(kind="progress", candidate=self.name, done=total, total=total)
        made = Adaptation(
            labels=bench.labels,
            task=bench.task.name,
            readout_name="tags",
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
            query_seconds=seconds / len(dev),
            query_tokens=tagger.tokens / len(dev),
            curve=course.run.curve,
            forecast_seconds=course.run.forecast,
            notes={} if method is None else {"learning_rate": course.trained.recipe.learning_rate},
        )
