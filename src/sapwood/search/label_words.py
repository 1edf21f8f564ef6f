"""Candidates whose base is no decoder and is asked for label words: as it is, and tuned.

An encoder-decoder writes them, an encoder with a masked-language-model head fills them in. What
differs is the reader and the loss, which the caller brings.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sapwood.adaptation import Adaptation
from sapwood.context.prompter import Context
from sapwood.evaluation import Reading
from sapwood.interfaces import Event, Example, Floats
from sapwood.methods import parts
from sapwood.methods.defaults import learning_rate, times
from sapwood.methods.parts import Method
from sapwood.readouts import bias
from sapwood.readouts.inputs import content_free_inputs, domain_inputs
from sapwood.readouts.verbalizer import Verbalizer
from sapwood.search.encoders import require_time
from sapwood.search.engine import computed_by
from sapwood.search.judged import Judge, Judged
from sapwood.search.prompting import BIAS_ROWS, DOMAIN_INPUTS
from sapwood.search.tuning import asked_for, worded
from sapwood.search.workbench import Made, Making, Workbench, chunks, race
from sapwood.training import Recipe, scaled_optimiser, started
from sapwood.training.course import CHECKPOINT_SECONDS, Trained
from sapwood.training.start import as_trained

# A decoder's default of 3 suits bases that read the prompt well; these have to learn what is asked,
# and the best weights are kept.
MOST_EPOCHS = 6.0


class WordReader(Protocol):
    """What scores label words: see `TextToTextReader` and `MaskedReader`."""

    context: Context

    def read(self, texts: Sequence[str], *, normalise: str = "vocabulary") -> Reading:
        """Return the scores of texts."""
        ...


@dataclass(frozen=True, kw_only=True)
class Words:
    """How a base is asked and taught: its `reader`; `supervision` over the training rows.

    `net`: what methods are attached to; `normalise` as the reader takes it once it is tuned;
    `encoder`: whether rates are those of encoders.
    """

    net: Any
    reader: WordReader
    supervision: Any
    normalise: str
    encoder: bool


def asked(bench: Workbench, name: str, reader: WordReader) -> Making:
    """Make the candidate `name`: label words after the prompt, a bias fitted on training rows."""
    hidden = {e.row for e in reader.context.demonstrations}
    rows = [e for e in bench.shuffled if e.row not in hidden][:BIAS_ROWS]
    texts = [e.text for e in bench.splits.train]
    drawn = domain_inputs(texts, DOMAIN_INPUTS, seed=bench.job.seed)
    scores = {
        "labelled rows": reader.read([e.text for e in rows]).scores,
        "content-free inputs": reader.read([text for text in content_free_inputs() if text]).scores,
        "domain inputs": reader.read(drawn).scores,
    }
    prior = np.bincount(bench.index(bench.splits.train), minlength=len(bench.labels)) + 1.0
    allowed = bench.job.prompting.bias or tuple(bias.BIASES)
    chosen, losses = bias.choose_bias(scores, bench.index(rows), prior, allowed=allowed)
    readout = Verbalizer(labels=bench.labels, bias=chosen)
    dev, parts_read, found = bench.splits.dev, list[Reading](), list[Floats]()
    for done, part in chunks([e.text for e in dev]):
        parts_read.append(reader.read(part))
        found.append(readout.probabilities(parts_read[-1].scores))
        yield Event(kind="progress", candidate=name, done=done, total=len(dev))
        race(bench, np.concatenate(found))
    made = Adaptation(
        labels=bench.labels, readout_name="verbalizer", readout=readout,
        base=bench.bases.reference(bench.job.model), context=reader.context,
    )  # fmt: skip
    return Made(
        adaptation=made,
        dev=np.concatenate(found),
        query_seconds=sum(r.seconds for r in parts_read) / len(dev),
        query_tokens=sum(r.tokens for r in parts_read) / len(dev),
        notes={"bias": {source: round(loss, 4) for source, loss in losses.items()}},
    )


def tuned(bench: Workbench, name: str, method: str, words: Words, *, share: float = 1.0) -> Making:
    """Make the candidate `name`: the methods that `method` names, trained on the label words.

    `share` of the time left is what training may take.
    """
    require_time(bench, name, share)
    chosen = worded(bench, asked_for(bench, method), bench.job.model)
    try:
        chosen.attach(words.net, seed=bench.job.seed)
        training = WordTraining(bench, name, words, chosen, share)
        yield from training.course.steps()
        return (yield from training.made(chosen))
    finally:
        words.net.eval()
        parts.detach(words.net)


class WordTraining:
    """One training run of a base under its label words, with a method attached."""

    def __init__(
        self, bench: Workbench, name: str, words: Words, method: Method, share: float
    ) -> None:
        self.bench, self.name, self.words = bench, name, words
        self.weights = parts.weights(words.net)
        settings, train = bench.job.tuning, bench.splits.train
        rate = settings.learning_rate or learning_rate(method, encoder=words.encoder)
        recipe = Recipe(
            learning_rate=rate,
            batch_size=min(settings.batch_size, len(train)),
            epochs=settings.epochs or MOST_EPOCHS,
            seed=bench.job.seed,
        )
        started(words.net, words.supervision)
        own = times(words.net, method, encoder=words.encoder)
        trained = Trained(
            name=name,
            supervised=computed_by(bench.job, words.supervision),
            weights=self.weights,
            optimiser=scaled_optimiser(self.weights, recipe, own),
            recipe=recipe,
        )
        judge = Judge(
            training=lambda on: parts.train(words.net, on),
            said=self._said,
            seconds=lambda: share * bench.tuning_seconds(name),
        )
        self.tokens = 0
        self.course = Judged(bench, trained, judge, pause=CHECKPOINT_SECONDS)

    def _said(self, rows: Sequence[Example]) -> Floats:
        reading = self.words.reader.read([e.text for e in rows], normalise=self.words.normalise)
        self.tokens += reading.tokens
        return np.exp(bias.none(len(self.bench.labels)).apply(reading.scores))

    def made(self, method: Method) -> Making:
        """Put the best weights back, score all development rows, return the candidate."""
        course, bench, dev = self.course, self.bench, self.bench.splits.dev
        course.put_best_back()
        began, self.tokens = time.perf_counter(), 0
        said = course.said(dev)
        seconds = time.perf_counter() - began
        total = course.run.total
        yield Event(kind="progress", candidate=self.name, done=total, total=total)
        none, net = bias.none(len(bench.labels)), self.words.net
        made = Adaptation(
            labels=bench.labels,
            readout_name="verbalizer",
            readout=Verbalizer(labels=bench.labels, bias=none, normalise=self.words.normalise),
            base=bench.bases.reference(bench.job.model),
            context=self.words.reader.context,
            method=as_trained(net, method),
            weights=parts.stored(net),
            transposed=parts.transposed(net),
        )
        return Made(
            adaptation=made,
            dev=said,
            trainable=sum(t.numel() for t in self.weights.values()),
            query_seconds=seconds / len(dev),
            query_tokens=self.tokens / len(dev),
            curve=course.run.curve,
            forecast_seconds=course.run.forecast,
            notes={"learning_rate": course.trained.recipe.learning_rate},
        )
