"""Candidates that train a method on a decoder, on the plain prompt or under a context."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from sapwood.adaptation import Adaptation
from sapwood.context.prompter import Context, Prompter
from sapwood.context.select import Stratified
from sapwood.evaluation import Reader
from sapwood.interfaces import Event, Example, Floats
from sapwood.methods import parts
from sapwood.methods.defaults import configured, learning_rate, times
from sapwood.methods.parts import Method
from sapwood.methods.report import attached_report, lines
from sapwood.methods.together import wants_text, with_text
from sapwood.readouts import bias
from sapwood.readouts.verbalizer import Verbalizer
from sapwood.search.contexts import best_context
from sapwood.search.engine import computed_by
from sapwood.search.judged import Judge, Judged
from sapwood.search.progress import Progress
from sapwood.search.trials import Proposal, searched
from sapwood.search.workbench import Made, Making, Workbench
from sapwood.training import Lean, Recipe, Supervision, scaled_optimiser, started, target
from sapwood.training.course import CHECKPOINT_SECONDS, Trained
from sapwood.training.start import as_trained

MOST_EPOCHS = 3.0  # a fourth epoch gained nothing on any set tried, and over-fitted small ones
FALLBACK_SHOTS = 4  # demonstrations to tune under when no few-shot candidate finished


def tuned(bench: Workbench, name: str, *, method: str, under_context: bool = False) -> Making:
    """Make the candidate `name`: the methods that `method` names, trained together.

    Under a context: under the best demonstrations found before.
    """
    context = bench.context()
    scope, settings = "all", bench.job.tuning
    if under_context:
        context, scope = _demonstrated(bench), settings.scope
    chosen = worded(bench, asked_for(bench, method), bench.job.model)
    plan = Proposal(method=chosen, rate=settings.learning_rate or learning_rate(chosen))

    def attempt(
        proposal: Proposal, own: str, seconds: float, judge: Callable[[Progress], bool]
    ) -> Generator[Event, None, Progress]:
        with attached(bench, proposal.method) as net:
            reader = bench.reader(context, scope=scope)
            course = Training(bench, own, (net, reader), proposal, lambda: seconds).course
            steps = course.steps()
            for event in steps:
                yield replace(event, candidate=name)
                if judge(course.run):
                    steps.close()
                    break
            return course.run

    tried: list[dict[str, Any]] = []
    if settings.trials:
        plan, tried = yield from searched(bench, name, plan, attempt)
    with attached(bench, plan.method) as net:
        reader = bench.reader(context, scope=scope)
        report = attached_report(net, plan.method)
        for line in lines(report):
            yield Event(kind="note", candidate=name, note=line)
        training = Training(
            bench, name, (net, reader), plan, lambda: bench.tuning_seconds(name),
            whole=lambda: bench.tuning_seconds(name, whole=True),
        )  # fmt: skip
        yield from training.course.steps()
        made = yield from training.made(context, plan.method)
    return replace(made, notes={"attached": report, "learning_rate": plan.rate, "trials": tried})


def asked_for(bench: Workbench, text: str) -> Method:
    """Return the methods that `text` names, as the job's settings change them."""
    settings = bench.job.tuning
    return configured(text, rank=settings.rank, dropout=settings.dropout)


def worded(bench: Workbench, method: Method, base: str) -> Method:
    """Return `method` with the task's own words where it starts from a text that is not given.

    A prefix from a real text came far before one from random numbers, and a prompt from real
    tokens before one from random rows, in PEFT's own comparison (MetaMathQA). The words are those
    of a prompt: the instruction and a few demonstrations, decided by the job alone.
    """
    if not wants_text(method):
        return method
    tokenizer = bench.bases.get(base).tokenizer
    prompter = Prompter(tokenizer, bench.context(_drawn(bench)))
    # an encoder reads what comes behind them with special tokens of its own
    special = bench.bases.get(base).kind == "decoder"
    ids = tokenizer(prompter.head, add_special_tokens=special, verbose=False)["input_ids"]
    return with_text(method, ids)


@contextmanager
def attached(bench: Workbench, method: Method) -> Iterator[Any]:
    """Yield the base's net with a method attached; it is the plain base again afterwards."""
    net = bench.bases.decoder(bench.job.model).net
    try:
        method.attach(net, seed=bench.job.seed)
        yield net
    finally:
        net.eval()
        parts.detach(net)


def _demonstrated(bench: Workbench) -> Context:
    """Return the context of the best few-shot candidate, or of one draw when none finished."""
    found = best_context(bench)
    if found is not None:
        return found
    shown = _drawn(bench)
    return bench.context(shown, selection="stratified", shots=len(shown))


def _drawn(bench: Workbench) -> list[Example]:
    """Return a few demonstrations that the seed alone decides."""
    train = bench.splits.train
    shots = min(FALLBACK_SHOTS, len(train) // 2)
    (numbers,) = Stratified().select(train, [], shots, bench.job.seed, labels=bench.labels)
    return [train[n] for n in numbers]


class Training:
    """One training run of a decoder under a reader."""

    def __init__(
        self,
        bench: Workbench,
        name: str,
        on: tuple[Any, Reader],
        plan: Proposal,
        seconds: Callable[[], float],
        whole: Callable[[], float] | None = None,
    ) -> None:
        self.bench, self.name = bench, name
        self.net, self.reader = on
        self.weights = parts.weights(self.net)
        settings = bench.job.tuning
        recipe = Recipe(
            learning_rate=plan.rate,
            batch_size=min(settings.batch_size, len(bench.splits.train)),
            epochs=settings.epochs or MOST_EPOCHS,
            seed=bench.job.seed,
        )
        supervision = self._supervision()
        started(self.net, supervision)
        trained = Trained(
            name=name,
            supervised=computed_by(bench.job, supervision),
            weights=self.weights,
            optimiser=scaled_optimiser(self.weights, recipe, times(self.net, plan.method)),
            recipe=recipe,
        )
        judge = Judge(
            training=lambda on: parts.train(self.net, on),
            said=self._said,
            seconds=seconds,
            whole=whole,
        )
        self.course = Judged(bench, trained, judge, pause=CHECKPOINT_SECONDS)

    def _supervision(self) -> Supervision:
        train, reader = self.bench.splits.train, self.reader
        lean = Lean(checkpointing=self.bench.job.tuning.checkpointing)
        prompts, prefix = reader.prompts([e.text for e in train])
        gold = self.bench.index(train)
        targets = [target(p, int(g), reader.trie) for p, g in zip(prompts, gold, strict=True)]
        if reader.scope == "suffix":
            return Supervision(reader.decoder, targets, reader.trie, prefix=prefix, lean=lean)
        return Supervision(reader.decoder, targets, reader.trie, shared=reader.opening(), lean=lean)

    def _said(self, rows: Sequence[Example]) -> Floats:
        scores = self.reader.read([e.text for e in rows], normalise="trie").scores
        return np.exp(bias.none(len(self.bench.labels)).apply(scores))

    def made(self, context: Context, method: Method) -> Making:
        """Put the best weights back, score all development rows, return the candidate."""
        course, dev = self.course, self.bench.splits.dev
        course.put_best_back()
        self.net.eval()
        self.reader.prefix()
        started, before = time.perf_counter(), self.reader.decoder.tokens_run
        said = course.said(dev)
        seconds = (time.perf_counter() - started) / len(dev)
        total = course.run.total
        yield Event(kind="progress", candidate=self.name, done=total, total=total)
        made = Adaptation(
            labels=self.bench.labels,
            readout_name="verbalizer",
            readout=Verbalizer(
                labels=self.bench.labels, bias=bias.none(len(self.bench.labels)), normalise="trie"
            ),
            base=self.bench.bases.reference(self.bench.job.model),
            context=context,
            facts=self.bench.facts,
            method=as_trained(self.net, method),
            weights=parts.stored(self.net),
            transposed=parts.transposed(self.net),
            scope=self.reader.scope,
        )
        return Made(
            adaptation=made,
            dev=said,
            trainable=sum(t.numel() for t in self.weights.values()),
            query_seconds=seconds,
            query_tokens=(self.reader.decoder.tokens_run - before) / len(dev),
            curve=course.run.curve,
            forecast_seconds=course.run.forecast,
        )
