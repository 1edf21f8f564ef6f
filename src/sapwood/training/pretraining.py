"""Pretraining from a corpus: what is read, the net, the plan, the course, what is learnt.

`pretrain` is a generator of events. A run that was stopped or killed goes on when it is called
again, and ends with the same weights as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import asdict, replace
from typing import Any

import torch

from sapwood.checkpoint import remove_checkpoints
from sapwood.interfaces import Event
from sapwood.launch import Runtime
from sapwood.training.course import Course, Trained, digest
from sapwood.training.loop import Step
from sapwood.training.optimisers import pretraining_optimiser
from sapwood.training.plan import Plan, measured, planned, read_plan, revised, write_plan
from sapwood.training.pretraining_job import Job
from sapwood.training.pretraining_setup import Setup, prepared
from sapwood.training.product import continuation, finished, save_product
from sapwood.training.readings import HeldOut, Pretraining, Read, held_out, reading_for

EVALUATIONS = 10  # on held-out text while training
FEW = 0.01  # of the training examples, that each of them reads
LAST = 8  # times as many at the end
RISEN = 1.02  # times its lowest, held-out loss that has not come back to it tells of rote learning


class History:
    """The curve of a run; `held`: losses on held-out text; `spent`: seconds in all its lives."""

    def __init__(self) -> None:
        self.curve: dict[str, list[float]] = {"loss": [], "rate": [], "seconds": []}
        self.held: list[dict[str, Any]] = []
        self.tokens = 0
        self.before = 0.0
        self.began = time.monotonic()

    @property
    def spent(self) -> float:
        """Return the seconds that the run has taken, earlier lives included."""
        return self.before + time.monotonic() - self.began

    def record(self, step: Step) -> None:
        """Add one step."""
        self.curve["loss"].append(round(step.loss, 5))
        self.curve["rate"].append(step.learning_rate)
        self.curve["seconds"].append(round(step.seconds, 4))
        self.tokens += step.tokens

    def line(self, step: Step) -> str:
        """Return the state in a few words for the screen."""
        recent = self.curve["loss"][-10:]
        said = f"loss {sum(recent) / len(recent):.3f}"
        if self.held:
            said += f" · held-out {self.held[-1]['words']}"
        return f"{said} · {step.tokens / max(step.seconds, 1e-9):,.0f} tokens/s"

    def rote(self) -> str:
        """Return words on a held-out loss that fell and rose again, "" for one that did not."""
        best = min(self.held, key=lambda held: float(held["loss"]), default=None)
        if best is None or self.held[-1]["loss"] < RISEN * best["loss"]:
            return ""
        return (
            f"the text is being learnt by heart: held-out was {best['words']} at step "
            f"{best['step']:,} and is {self.held[-1]['words']} at step {self.held[-1]['step']:,}; "
            "--dropout 0.1, fewer steps or more text would help"
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready copy."""
        return {"curve": self.curve, "held": self.held, "tokens": self.tokens, "spent": self.spent}

    def restore(self, content: dict[str, Any]) -> None:
        """Take back what `to_json` gave."""
        self.curve, self.held = content["curve"], content["held"]
        self.tokens, self.before = content["tokens"], content["spent"]


def pretrain(
    job: Job, runtime: Runtime, read: Read = reading_for
) -> Generator[Event, None, dict[str, Any]]:
    """Train a net as `job` says and return the evidence; OUT is then an ordinary checkpoint.

    `read(net, objectives)` returns the engine's `Reading`, torch's where nothing else is given.
    Raises what `prepared`, `fit` and the corpus raise.
    """
    history = History()
    setup = prepared(job, runtime, read)
    identity = digest(setup.identity)
    known = finished(job.out, identity)
    if known is not None:
        yield Event(kind="note", note=f"{job.out} is finished already")
        return known
    for words in setup.notes:
        yield Event(kind="note", note=words)
    supervised = Pretraining(setup.reading, setup.examples, setup.precision)
    recipe = setup.recipe
    _, weights = pretraining_optimiser(setup.net, recipe, setup.optimiser)
    folder = job.out / "run"
    plan = read_plan(folder, identity)
    if plan is None:
        plan = _new_plan(job, setup, supervised, history)
        write_plan(folder, identity, plan)
    yield Event(kind="note", note=_told(job, setup, plan))
    before = _before(job, setup, plan)
    optimiser, weights = pretraining_optimiser(setup.net, recipe, setup.optimiser)
    trained = Trained(
        name="pretrain", supervised=supervised, weights=weights, optimiser=optimiser, recipe=recipe
    )
    course = Course(trained, folder, history)
    yield Event(kind="start", candidate="pretrain", total=plan.steps)
    plan = yield from _trained(job, setup, course, plan, identity)
    course.save()
    yield Event(kind="end", candidate="pretrain")
    after = {name: _losses(setup, name, plan, LAST) for name in setup.held}
    evidence = _evidence(setup, plan, history, before, after)
    if evidence["rote"]:
        yield Event(kind="note", note=evidence["rote"])
    if setup.writes:
        evidence["samples"] = [asdict(s) for s in continuation(setup, job.seed)]
    save_product(setup, job, evidence, identity)
    remove_checkpoints(folder)
    yield Event(kind="note", note=learnt_words(evidence))
    return evidence


def _new_plan(job: Job, setup: Setup, supervised: Pretraining, history: History) -> Plan:
    recipe = setup.recipe
    if job.steps:
        return Plan.of(job.steps, recipe.warmup)
    optimiser, weights = pretraining_optimiser(setup.net, recipe, setup.optimiser)
    took = measured(supervised, lambda: optimiser, weights, recipe, job.seconds)
    return planned(took, job.seconds - history.spent, job.seconds, recipe.warmup)


def _trained(
    job: Job, setup: Setup, course: Course, plan: Plan, identity: str
) -> Generator[Event, None, Plan]:
    """Run the course to its end, and measure held-out text at fixed steps; return the last plan."""
    history = course.memory
    assert isinstance(history, History)
    while True:
        every = max(1, plan.steps // EVALUATIONS)
        course.trained = replace(course.trained, recipe=plan.recipe(setup.recipe))
        _measure_held(setup, course.number, every, plan, history)
        for event in course.steps(plan.steps):
            yield event
            if course.number % every:
                continue
            _measure_held(setup, course.number, every, plan, history)
            changed = _revised(plan, course.number, history, setup)
            if changed is not plan:
                write_plan(job.out / "run", identity, changed)
                note = f"the budget has room for {changed.steps:,} steps, not {plan.steps:,}"
                plan = changed
                yield Event(kind="note", note=note)
                break
        else:
            return plan


def _revised(plan: Plan, done: int, history: History, setup: Setup) -> Plan:
    taken = history.curve["seconds"]
    mean = sum(taken) / len(taken)
    return revised(plan, done, mean, plan.seconds - history.spent, setup.recipe.decay)


def _measure_held(setup: Setup, number: int, every: int, plan: Plan, history: History) -> None:
    """Note the held-out loss of step `number`, if it is due and not noted already."""
    if not number or number % every or any(held["step"] == number for held in history.held):
        return
    found = _losses(setup, "held", plan, 1)
    history.held.append({"step": number, **asdict(found), "words": found.words()})


def _losses(setup: Setup, name: str, plan: Plan, times: int) -> HeldOut:
    """Return losses on the held-out text `name`; `times`: more of it than while training."""
    draws = setup.held[name]
    wanted = times * setup.recipe.batch_size * max(2, round(FEW * plan.steps))
    many = min(draws.plan(0), wanted)
    chosen = [int(n * draws.plan(0) / many) for n in range(many)]
    trains = setup.net.training
    setup.net.eval()
    found = held_out(
        setup.reading,
        [draws.draw(0, n) for n in chosen],
        setup.recipe.pack_tokens,
        setup.precision,
    )
    setup.net.train(trains)
    return found


def _before(job: Job, setup: Setup, plan: Plan) -> dict[str, HeldOut]:
    """Return what a base that is continued gives on held-out text before it is."""
    if not job.base:
        return {}
    return {name: _losses(setup, name, plan, LAST) for name in setup.held}


def _told(job: Job, setup: Setup, plan: Plan) -> str:
    count = sum(p.numel() for p in setup.net.parameters())
    recipe = setup.recipe
    epochs = plan.steps * recipe.batch_size / max(1, len(setup.examples))
    return (
        f"{job.model or job.base}: {count:,} weights · {setup.facts['objective']} · "
        f"{plan.steps:,} steps of "
        f"{recipe.batch_size} rows of {setup.length} tokens, {epochs:.1f} epochs"
    )


def _evidence(
    setup: Setup, plan: Plan, history: History, before: dict[str, HeldOut],
    after: dict[str, HeldOut],
) -> dict[str, Any]:  # fmt: skip
    seconds = sum(history.curve["seconds"])
    found: dict[str, Any] = {
        **setup.facts,
        "plan": asdict(plan),
        "recipe": asdict(plan.recipe(setup.recipe)),
        "held_out": {name: {**asdict(held), "words": held.words()} for name, held in after.items()},
        "before": {name: {**asdict(held), "words": held.words()} for name, held in before.items()},
        "curve": history.curve,
        "held_curve": history.held,
        "rote": history.rote(),
        "cost": {
            "tokens": history.tokens,
            "training_seconds": round(seconds, 2),
            "seconds": round(history.spent, 2),
            "tokens_per_second": round(history.tokens / max(seconds, 1e-9), 1),
        },
        "versions": {"torch": torch.__version__, **setup.versions},
    }
    return found


def learnt_words(evidence: dict[str, Any]) -> str:
    """Return one line that says what was learnt."""
    cost, held = evidence["cost"], evidence["held_out"]["held"]
    words = f"learnt from {cost['tokens']:,} tokens in {cost['seconds']:,.0f} s: "
    if evidence["before"]:
        changes = []
        for name, label in (("held", "this text"), ("replay", "the old text")):
            if name in evidence["held_out"]:
                pair = (evidence[when][name]["words"] for when in ("before", "held_out"))
                changes.append(f"{label} {' -> '.join(pair)}")
        return words + "; ".join(changes)
    return f"{words}held-out {held['words']}"
