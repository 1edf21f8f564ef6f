"""Eight LoRA adaptations trained in one step on one base, against one after the other.

Both sides are Sapwood's: the same rows, batches, first weights, recipes and optimisers. Eight users
of one data set each have a share of its rows and a learning rate of their own; the base is in
float32, where losses are compared, and in the format that Sapwood picks on this machine. Small
batches are the case of many small tasks: alone they leave most of the machine idle. Loading and
tokenising are outside the times, as is the first step of every run.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from common import (
    arguments,
    clock,
    contention,
    finish,
    machine,
    median,
    say,
    sentiment_rows,
    settle,
    shuffled,
    versions,
)

ADAPTATIONS, RANK, ALPHA = 8, 8, 16.0
WARM = 1
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured: batch sizes, timed steps of each adaptation, repeats."""

    batches: tuple[int, ...] = (1, 2, 4, 16)
    steps: int = 4
    repeats: int = 3


QUICK = Size(batches=(1, 4), steps=2, repeats=1)
SMOKE = Size(batches=(1, 2), steps=1, repeats=1)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The base, and the tokenised rows of each user after the instruction `shared`."""

    decoder: Any
    trie: Any
    shared: tuple[int, ...]
    targets: tuple[list[Any], ...]

    def recipe(self, user: int, batch: int) -> Any:
        """Return a user's recipe: rates differ, from 2e-4 to 9e-4."""
        from sapwood.training import Recipe

        return Recipe(learning_rate=(2 + user) * 1e-4, batch_size=batch, seed=user)

    def supervision(self, user: int) -> Any:
        """Return the loss over a user's rows."""
        from sapwood.training import Supervision

        return Supervision(self.decoder, self.targets[user], self.trie, shared=self.shared)


def prepare(options: Any, dtype: str, size: Size) -> Work:
    """Load the base and tokenise every user's share of the rows."""
    from sapwood.context.prompter import Context, Prompter
    from sapwood.context.template import default_template
    from sapwood.launch import choose_runtime
    from sapwood.models.decoder import Decoder
    from sapwood.models.load import load_base
    from sapwood.models.trie import build_trie
    from sapwood.training import target

    base = load_base(options.model, choose_runtime("cpu", dtype))
    data = sentiment_rows(smoke=options.smoke)
    rows = shuffled(data.train)
    template = default_template(data.labels, [e.text for e in rows[:200]])
    prompter = Prompter(base.tokenizer, Context(template=template))
    trie = build_trie(prompter.labels(data.labels))
    most = max(size.batches) * (size.steps + WARM)
    share = min(most, len(rows) // ADAPTATIONS)
    targets = []
    for user in range(ADAPTATIONS):
        own = rows[user * share : (user + 1) * share]
        prompts = prompter.rest([e.text for e in own])
        gold = [data.labels.index(e.label) for e in own]
        targets.append([target(p, g, trie) for p, g in zip(prompts, gold, strict=True)])
    return Work(
        decoder=Decoder(base.net), trie=trie, shared=prompter.prefix, targets=tuple(targets)
    )


def method() -> Any:
    """Return the method that every user trains."""
    from sapwood.methods.lora import Lora

    return Lora(rank=RANK, alpha=ALPHA)


def timed_steps(steps: Iterator[Any]) -> tuple[list[Any], float, float]:
    """Return (steps, wall seconds, CPU seconds) without the first `WARM` in the times."""
    found, began = [], (0.0, 0.0)
    for step in steps:
        found.append(step)
        if len(found) == WARM:
            began = clock()
    wall, cpu = clock()
    return found, wall - began[0], cpu - began[1]


def apart(work: Work, batch: int, steps: int) -> dict[str, Any]:
    """Train one after the other."""
    from sapwood.methods.parts import detach, weights
    from sapwood.training import fit, make_optimiser

    wall, cpu, losses = 0.0, 0.0, {}
    for user in range(ADAPTATIONS):
        net = method().attach(work.decoder.net, seed=user)
        recipe = work.recipe(user, batch)
        optimiser = make_optimiser(list(weights(net).values()), recipe)
        run = fit(work.supervision(user), optimiser, recipe, total=steps + WARM)
        found, took, spent = timed_steps(run)
        wall, cpu = wall + took, cpu + spent
        losses[user] = [step.loss for step in found]
        detach(net)
    return {"wall": wall, "cpu": cpu, "losses": losses}


def joint(work: Work, batch: int, steps: int) -> dict[str, Any]:
    """Train all in one step."""
    from sapwood.methods.bank import Bank
    from sapwood.training.several import Member, Several

    names = [str(user) for user in range(ADAPTATIONS)]
    seeds = {name: user for user, name in enumerate(names)}  # as alone
    bank = Bank(work.decoder.net, {name: method() for name in names}, seed=seeds)
    members = [
        Member(
            name=name,
            supervision=work.supervision(user),
            recipe=work.recipe(user, batch),
            total=steps + WARM,
        )
        for user, name in enumerate(names)
    ]
    found, wall, cpu = timed_steps(Several(bank, members).steps())
    losses = {u: [r.steps[name].loss for r in found] for u, name in enumerate(names)}
    bank.detach()
    return {"wall": wall, "cpu": cpu, "losses": losses}


def compare(work: Work, dtype: str, size: Size, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return two rows a batch size, the sides' repeats in turn."""
    rows = []
    for batch in size.batches:
        runs: dict[str, list[dict[str, Any]]] = {"apart": [], "joint": []}
        for number in range(size.repeats):
            for side, train in (("apart", apart), ("joint", joint)):
                with contention(about):
                    runs[side].append(train(work, batch, size.steps))
                gc.collect()
                pace = ADAPTATIONS * batch * size.steps / runs[side][-1]["wall"]
                say(f"  {dtype}, batch {batch}, {number + 1}, {side}: {pace:.2f} examples/s")
        one, other = runs["apart"][0]["losses"], runs["joint"][0]["losses"]
        gaps = [abs(a - b) for u in one for a, b in zip(one[u], other[u], strict=True)]
        examples = ADAPTATIONS * batch * size.steps
        for side, found in runs.items():
            rows.append({
                "side": side, "dtype": dtype, "batch": batch, "steps_timed": size.steps,
                "examples_per_second": examples / median([r["wall"] for r in found]),
                "cpu_seconds_per_example": median([r["cpu"] for r in found]) / examples,
                "examples_per_second_repeats": [examples / r["wall"] for r in found],
                "largest_difference_of_losses": max(gaps),
                "losses_equal": max(gaps) <= TOLERANCE if dtype == "float32" else None,
            })  # fmt: skip
    return rows


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    from sapwood.launch import choose_runtime

    size = SMOKE if options.smoke else QUICK if options.quick else Size()
    about = machine(options.threads)
    rows = []
    for dtype in dict.fromkeys(("float32", choose_runtime("cpu").dtype)):
        work = prepare(options, dtype, size)
        say(f"{dtype}: {len(work.shared)} tokens of instruction, {ADAPTATIONS} adaptations")
        rows += compare(work, dtype, size, about)
    at = {(row["dtype"], row["batch"], row["side"]): row for row in rows}
    ratios = {}
    for dtype, batch, side in at:
        if side == "joint":
            pair = [at[dtype, batch, name] for name in ("joint", "apart")]
            pace, cpu = (
                [row[key] for row in pair]
                for key in ("examples_per_second", "cpu_seconds_per_example")
            )
            ratios[f"examples_per_second_{dtype}_batch_{batch}"] = pace[0] / pace[1]
            ratios[f"cpu_time_{dtype}_batch_{batch}"] = cpu[1] / cpu[0]
    return {
        "claim": (
            f"Examples a second of {ADAPTATIONS} LoRA adaptations (r {RANK}, all linear) trained "
            "in one step on one base divided by those of training one after the other, at equal "
            "losses (float32: within 1e-4), by batch size of each adaptation; target at least 2"
        ),
        "machine": about,
        "versions": versions(),
        "data": sentiment_rows(smoke=options.smoke).source,
        "rows": rows,
        "ratios": ratios,
    }


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__.splitlines()[0] if __doc__ else "").parse_args()
    settle(options.threads)
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
