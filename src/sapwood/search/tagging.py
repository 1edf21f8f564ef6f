"""Candidates that tag with an encoder: the head alone, or together with a method."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sapwood.adaptation import Adaptation
from sapwood.evaluation.tagger import Tagger
from sapwood.interfaces import Answer, Event, Example
from sapwood.methods import parts
from sapwood.methods.parts import Method
from sapwood.readouts.tags import Tags
from sapwood.search.encoders import HEAD, HeadTraining, require_time
from sapwood.search.judged import Judged
from sapwood.search.tuning import asked_for, worded
from sapwood.search.workbench import Made, Making, Workbench
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


class TagTraining(HeadTraining):
    """A training run under tags."""

    head_rate, most_epochs = HEAD_RATE, MOST_EPOCHS
    head: TrainedTags

    def __init__(self, bench: Workbench, name: str, encoder: str) -> None:
        base, own = bench.bases.get(encoder), bench.bases.encoder(encoder)
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
        start = Tags.start(scheme, own.net.config.hidden_size, seed=bench.job.seed)
        super().__init__(bench, name, encoder, TrainedTags(start, device=own.device))

    def _supervision(self) -> TaggingSupervision:
        return TaggingSupervision(self.encoder, self.rows, self.head)

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
