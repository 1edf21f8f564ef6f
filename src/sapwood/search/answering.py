"""Candidates of tasks whose answers a decoder writes: prompted, tuned, or both."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from sapwood.adaptation import Adaptation
from sapwood.context.answering import Answering, tokens_of
from sapwood.context.prompter import Context, Prompter
from sapwood.context.turns import end_ids
from sapwood.evaluation import CHUNK, asking
from sapwood.evaluation.asking import Asked
from sapwood.interfaces import Answer, Event, Example
from sapwood.methods import parts
from sapwood.methods.defaults import learning_rate, times
from sapwood.methods.parts import Method
from sapwood.methods.report import attached_report, lines
from sapwood.readouts.written import Written
from sapwood.search.contexts import MOST_POOL
from sapwood.search.engine import computed_by
from sapwood.search.judged import Judge, Judged
from sapwood.search.marks import AnswerMarks, joined_said
from sapwood.search.tuning import MOST_EPOCHS, asked_for, attached, worded
from sapwood.search.workbench import Made, Making, Stopped, Workbench, race
from sapwood.tasks.structured import task_named
from sapwood.tasks.supervised import check_coverage, coverage
from sapwood.training import Lean, Recipe, scaled_optimiser, started
from sapwood.training.answers import AnswerSupervision, answer_targets
from sapwood.training.course import CHECKPOINT_SECONDS, Trained
from sapwood.training.start import as_trained

# A row's tokens, demonstrations not counted, as a multiple of --max-length: text and answer.
ROW = 4
SHARE = 0.5  # of the time left, for what remains of the development rows under a prompt
OVERTIME = 0.25  # of what training took: what was trained is not thrown away for less
WRITTEN_PROBE = 4  # answers written out to learn what one costs where the others are only scored
WATCHED_TOKENS = 4096  # tokens of development rows run at once while training is watched


def prompted(bench: Workbench, name: str, *, shots: int = 0, selection: str = "random") -> Making:
    """Make one prompting candidate: demonstrations for all rows, or chosen for each of them."""
    context = _shown(bench, shots, selection)
    return (yield from _made(bench, name, _adaptation(bench, context)))


def _shown(bench: Workbench, shots: int, selection: str) -> Context:
    """Return a context of training rows, most of them with something to find."""
    if not shots:
        return bench.context()
    if selection in ("bm25", "nearest"):
        pool = bench.shuffled[:MOST_POOL]
        return bench.context(pool, sharing="query", selection=selection, shots=shots)
    full = [e for e in bench.shuffled if e.frames]
    rest = [e for e in bench.shuffled if not e.frames]
    some = [*full[: shots - shots // 4], *rest][:shots] if full else rest[:shots]
    short = sorted(some, key=lambda e: len(e.text) + len(e.label or ""))
    return bench.context(short, selection="random", shots=len(short))


def tuned(bench: Workbench, name: str, *, method: str, under_context: bool = False) -> Making:
    """Make the candidate `name`: the methods that `method` names, trained on the answers."""
    context, scope = bench.context(), "all"
    if under_context:
        context, scope = _best(bench), bench.job.tuning.scope
    chosen = worded(bench, asked_for(bench, method), bench.job.model)
    with attached(bench, chosen) as net:
        report = attached_report(net, chosen)
        for line in lines(report):
            yield Event(kind="note", candidate=name, note=line)
        training = AnswerTraining(bench, name, (net, context, scope), chosen)
        for note in training.notes:
            yield Event(kind="note", candidate=name, note=note)
        began = time.perf_counter()
        yield from training.course.steps()
        training.course.put_best_back()
        net.eval()
        adaptation = training.adaptation(chosen)
    trained = time.perf_counter() - began
    made = yield from _made(bench, name, adaptation, share=1.0, overtime=OVERTIME * trained)
    run = training.course.run
    return Made(
        **{**vars(made), "trainable": sum(t.numel() for t in training.weights.values()),
           "curve": run.curve, "forecast_seconds": run.forecast,
           "notes": {"attached": report, "learning_rate": training.rate}},
    )  # fmt: skip


def _best(bench: Workbench) -> Context:
    """Return the context of the best candidate whose demonstrations all rows share."""
    found = {
        name: made.context
        for name, made in bench.finished.items()
        if made.context is not None and made.context.shots and made.method is None
        and made.context.sharing == "all"
    }  # fmt: skip
    if not found:
        return _shown(bench, 2, "random")
    best = found[max(found, key=bench.value)]
    assert best is not None
    return best


class AnswerTraining:
    """One training run of a decoder on the answers of training rows, under a context."""

    def __init__(
        self, bench: Workbench, name: str, on: tuple[Any, Context, str], method: Method
    ) -> None:
        self.bench = bench
        self.net, self.context, self.scope = on
        self.decoder = bench.bases.decoder(bench.job.model)
        self.weights = parts.weights(self.net)
        settings = bench.job.tuning
        self.rate = settings.learning_rate or learning_rate(method)
        self.notes: list[str] = []
        supervision, watched = self._supervision()
        recipe = Recipe(
            learning_rate=self.rate,
            batch_size=min(settings.batch_size, len(supervision)),
            epochs=settings.epochs or MOST_EPOCHS,
            seed=bench.job.seed,
        )
        started(self.net, supervision)
        trained = Trained(
            name=name,
            weights=self.weights,
            supervised=computed_by(bench.job, supervision),
            optimiser=scaled_optimiser(self.weights, recipe, times(self.net, method)),
            recipe=recipe,
        )
        judge = Judge(
            training=lambda on: parts.train(self.net, on),
            said=watched,
            seconds=lambda: bench.tuning_seconds(name),
            marks=AnswerMarks(task=task_named("story")),  # how well the wanted words are expected
        )
        self.course = Judged(bench, trained, judge, pause=CHECKPOINT_SECONDS)

    def _supervision(self) -> tuple[AnswerSupervision, Callable[[Sequence[Example]], list[Answer]]]:
        bench, base = self.bench, self.bench.bases.get(self.bench.job.model)
        prompter = Prompter(base.tokenizer, self.context)
        limit = min(base.max_length, len(prompter.prefix) + ROW * bench.job.max_length)
        named = getattr(self.net.generation_config, "eos_token_id", None)
        form = Answering(prompter, max_length=limit, stops=end_ids(base.tokenizer, named))
        rows = [tokens_of(example, form) for example in bench.splits.train]
        found = coverage(rows, limit)
        check_coverage(found)
        self.notes = [f"{100 * found.share:.0f} % of {found.tokens:,} tokens are learnt"]
        self.notes += found.problems()
        shared, targets = answer_targets(rows)
        lean = Lean(checkpointing=bench.job.tuning.checkpointing)
        seat: dict[str, Any] = {"shared": shared}
        if self.scope == "suffix" and shared:
            with parts.disabled(self.net):
                seat = {"prefix": self.decoder.encode(shared)}
        supervision = AnswerSupervision(self.decoder, targets, lean=lean, **seat)

        def watched(examples: Sequence[Example]) -> list[Answer]:
            dev = [tokens_of(example, form) for example in examples]
            kept = [n for n, row in enumerate(dev) if row.learnt]
            own = answer_targets([dev[n] for n in kept])[1]
            asked = AnswerSupervision(self.decoder, own, **seat)
            with torch.no_grad():
                nats = sum(float(loss) for loss, _ in asked.losses(range(len(own)), WATCHED_TOKENS))
            size = sum(len((examples[n].label or "").encode()) for n in kept)
            # only sums are read, so the first row may bear them all
            return [Answer(nats=nats, bytes=max(size, 1)), *[Answer()] * (len(examples) - 1)]

        return supervision, watched

    def adaptation(self, method: Method) -> Adaptation:
        """Return what was trained, as it is now."""
        return _adaptation(
            self.bench,
            self.context,
            method=as_trained(self.net, method),
            weights=parts.stored(self.net),
            transposed=parts.transposed(self.net),
            scope=self.scope,
        )


def _adaptation(bench: Workbench, context: Context, **trained: Any) -> Adaptation:
    embedder = bench.embedder(context)
    return Adaptation(
        labels=bench.labels,
        task=bench.task.name,
        readout_name="generate",
        readout=Written(task=bench.task.name, schema=bench.schema, tokens=_answer_tokens(bench)),
        base=bench.bases.reference(bench.job.model),
        context=context,
        embedder=bench.bases.reference(embedder) if embedder else None,
        facts=bench.facts,
        **trained,
    )


def _answer_tokens(bench: Workbench) -> int:
    """Return how many tokens an answer may take: twice what 99 % of the training rows need."""
    tokenizer = bench.bases.get(bench.job.model).tokenizer
    words = [str(example.label) for example in bench.shuffled[:500]]
    sizes = sorted(len(ids) for ids in tokenizer(words, verbose=False)["input_ids"])
    return min(512, max(16, 2 * sizes[int(0.99 * (len(sizes) - 1))]))


def _made(
    bench: Workbench, name: str, adaptation: Adaptation, *, share: float = SHARE,
    overtime: float = 0.0,
) -> Generator[Event, None, Made]:  # fmt: skip
    """Ask an adaptation about the development rows, or stop where it is clearly behind.

    `share`: of the time left, for what remains of these rows; training was planned with all of it.
    `overtime`: seconds that reading them may take whatever is left.
    """
    dev, said = bench.splits.dev, list[Any]()
    with asking(adaptation, bench.bases) as asked:
        asked.said(dev[:1])  # encodes the context, which all rows share
        asked.tokens, began = 0, time.perf_counter()
        for start in range(0, len(dev), CHUNK):
            said.append(asked.said(dev[start : start + CHUNK]))
            done = min(start + CHUNK, len(dev))
            yield Event(kind="progress", candidate=name, done=done, total=len(dev))
            found = joined_said(said)
            if adaptation.method is None:
                race(bench, found)
            rest = (time.perf_counter() - began) * (len(dev) - done) / done
            if rest > max(share * bench.clock.left, overtime):
                raise Stopped(f"{len(dev) - done:,} more rows would take {rest:.0f} s", found)
        read = (time.perf_counter() - began) / len(dev)
        seconds, tokens = read, asked.tokens / len(dev)
        if bench.task.family == "generation":
            seconds, tokens = _price(asked, dev)
    return Made(
        adaptation=adaptation, dev=joined_said(said), query_seconds=seconds, query_tokens=tokens,
        read_seconds=read,
    )  # fmt: skip


def _price(asked: Asked, rows: Sequence[Example]) -> tuple[float, float]:
    """Return the seconds and tokens that writing one answer takes, the context not counted."""
    some = [Example(text=row.text, turns=row.turns[:-1]) for row in rows[:WRITTEN_PROBE]]
    before, began = asked.tokens, time.perf_counter()
    asked.said(some)
    count = len(some)
    return (time.perf_counter() - began) / count, (asked.tokens - before) / count
