"""In-context learning against light tuning at the same model, with and without a cached context.

T-Few (Liu et al. 2022, arXiv 2205.05638, Table 1) puts in-context learning a thousand times above
tuning: a larger model, and demonstrations encoded anew for every query. Here the model is the same
and the context is cached in one arm. FLOPs a query are 2 x parameters x tokens, as there (Kaplan
et al. 2020, arXiv 2001.08361, section 2.1), and beside them what that formula leaves out and a
cached context does not save: attention of the query's tokens over the context's, 4 x layers x
width of the queries x context tokens x query tokens. Training takes 4 x parameters x tokens: the
weights are frozen, so of the usual 6 the 2 for their gradients fall away. Milliseconds are medians
of interleaved repeats.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from _contexts import Prompts, make_prompts
from common import (
    arguments,
    contention,
    finish,
    machine,
    median,
    say,
    sentiment_rows,
    settle,
    timed,
    versions,
)

RANK, RATE, BATCH = 8, 5e-4, 8


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured; 41 demonstrations are the median of T-Few's data sets.

    `slow`: queries of the arm that encodes the context anew for each; `epochs` of tuning.
    """

    shots: int = 41
    queries: int = 200
    slow: int = 8
    repeats: int = 3
    epochs: float = 10.0


QUICK = Size(queries=50, slow=2, repeats=1, epochs=3.0)
SMOKE = Size(shots=3, queries=4, slow=2, repeats=1, epochs=1.0)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to answer: `score` gives log p of so many queries; `context` tokens they attend to
    besides their own; `kept` bytes; `tokens` that were trained on, in `seconds`.
    """

    name: str
    score: Callable[[int], Any]
    queries: int
    decoder: Any
    context: int
    kept: int
    seconds: float = 0.0
    tokens: int = 0


def train(decoder: Any, prompts: Prompts, answers: list[int], size: Size) -> tuple[float, int]:
    """Tune LoRA on the demonstrations, as queries without a context; return (seconds, tokens)."""
    from sapwood.methods.lora import Lora
    from sapwood.methods.parts import weights
    from sapwood.training import Recipe, Supervision, fit, make_optimiser, target

    Lora(rank=RANK).attach(decoder.net)
    recipe = Recipe(learning_rate=RATE, batch_size=min(BATCH, size.shots), epochs=size.epochs)
    rows = [list(prompts.head) + list(query) for query in prompts.queries]
    targets = [target(row, answer, prompts.trie) for row, answer in zip(rows, answers, strict=True)]
    supervision = Supervision(decoder, targets, prompts.trie)
    optimiser = make_optimiser(list(weights(decoder.net).values()), recipe)

    def work() -> int:
        total = recipe.steps(len(targets))
        return sum(step.tokens for step in fit(supervision, optimiser, recipe, total=total))

    tokens, seconds, _ = timed(work)
    decoder.net.eval().requires_grad_(False)
    return seconds, tokens


def arms(base: Any, prompts: Prompts, demonstrations: Any, size: Size) -> list[Arm]:
    """Return the arms; LoRA's has a net of its own."""
    from sapwood.methods.lora import Lora
    from sapwood.methods.parts import weights
    from sapwood.models.blocks import Blocks
    from sapwood.models.decoder import Decoder

    tuned = Decoder(copy.deepcopy(base.net))
    seconds, tokens = train(tuned, *demonstrations, size)
    kept = sum(t.numel() * t.element_size() for t in weights(tuned.net).values())
    say(f"  LoRA: {seconds:.1f} s for {tokens:,} tokens")
    Lora(rank=RANK).merge(tuned.net)  # as one serves it: the same FLOPs as the base
    decoder, whole = Decoder(base.net), prompts.exact(size.shots)
    blocks = Blocks(decoder, prompts.head).prefix(prompts.blocks[: size.shots])

    def under(engine: Any, prefix: Any) -> Callable[[int], Any]:
        return lambda n: engine.label_scores(prompts.queries[:n], prompts.trie, prefix)

    def anew(count: int) -> Any:
        import numpy as np

        rows = [[*whole, *query] for query in prompts.queries[:count]]
        return np.concatenate([decoder.label_scores([row], prompts.trie) for row in rows])

    cached, head = decoder.encode(whole), decoder.encode(prompts.head)
    alone = tuned.encode(prompts.head)
    many, of = len(prompts.queries), len(whole)
    return [
        Arm(name="in-context, encoded anew", score=anew, queries=min(size.slow, many),
            decoder=decoder, context=0, kept=0),
        Arm(name="in-context, cached", score=under(decoder, cached), queries=many,
            decoder=decoder, context=of, kept=cached.bytes),
        Arm(name="in-context, blocks", score=under(decoder, blocks), queries=many,
            decoder=decoder, context=of, kept=blocks.bytes),
        Arm(name="LoRA", score=under(tuned, alone), queries=many, decoder=tuned,
            context=len(prompts.head), kept=kept, seconds=seconds, tokens=tokens),
        Arm(name="zero-shot", score=under(decoder, head), queries=many, decoder=decoder,
            context=len(prompts.head), kept=head.bytes),
    ]  # fmt: skip


def measure(
    base: Any, sides: list[Arm], prompts: Prompts, size: Size, about: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return one row an arm."""
    spent: dict[str, list[float]] = {arm.name: [] for arm in sides}
    found: dict[str, tuple[Any, float]] = {}
    for arm in sides:
        arm.score(1)  # warm
    for number in range(size.repeats):
        for arm in sides:
            before = arm.decoder.tokens_run
            with contention(about):
                scores, seconds, _ = timed(lambda a=arm: a.score(a.queries))
            spent[arm.name].append(1e3 * seconds / arm.queries)
            found[arm.name] = (scores, (arm.decoder.tokens_run - before) / arm.queries)
            say(f"  {number + 1}/{size.repeats} {arm.name}: {spent[arm.name][-1]:.1f} ms a query")
    return [_row(base, arm, spent[arm.name], *found[arm.name], prompts) for arm in sides]


def _row(
    base: Any, arm: Arm, spent: list[float], scores: Any, tokens: float, prompts: Prompts
) -> dict[str, Any]:
    import numpy as np

    config = base.net.config
    parameters = sum(p.numel() for p in base.net.parameters())  # tied weights count once
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * size
    seen = arm.context or tokens / 2  # without a cache a token sees half of its prompt on average
    right = scores.argmax(1) == np.array(prompts.gold[: arm.queries])
    return {
        "arm": arm.name,
        "queries": arm.queries,
        "tokens_per_query": tokens,
        "flops_per_query": 2.0 * parameters * tokens,
        "attention_flops_per_query": 4.0 * config.num_hidden_layers * width * seen * tokens,
        "ms_per_query": median(spent),
        "ms_per_query_repeats": spent,
        "bytes_kept": arm.kept,
        "training_seconds": arm.seconds,
        "training_flops": 4.0 * parameters * arm.tokens,
        "accuracy": float(right.mean()),
        "parameters": parameters,
    }


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    from dataclasses import replace

    from sapwood.launch import choose_runtime, raise_malloc_thresholds
    from sapwood.models.load import load_base

    size = SMOKE if options.smoke else QUICK if options.quick else Size()
    raised = raise_malloc_thresholds()
    about = machine(options.threads) | {"malloc_thresholds_raised": raised}
    runtime = choose_runtime("cpu", "float32" if options.smoke else "auto")
    about["dtype"] = runtime.dtype
    data = sentiment_rows(smoke=options.smoke)
    base = load_base(options.model, runtime)
    prompts = make_prompts(base.tokenizer, data, size.shots, size.queries, short=False)
    shown = replace(data, dev=shown_rows(data, size.shots))
    as_queries = make_prompts(base.tokenizer, shown, 1, size.shots, short=False)
    sides = arms(base, prompts, (as_queries, list(as_queries.gold)), size)
    rows = measure(base, sides, prompts, size, about)
    by_name = {row["arm"]: row for row in rows}
    pace = by_name["in-context, cached"]
    return {
        "claim": (
            f"At one model with {size.shots} demonstrations: what each way to answer costs a "
            "query, relative to in-context learning with its context cached"
        ),
        "machine": about,
        "versions": versions(),
        "data": data.source,
        "rows": rows,
        "ratios": {
            f"{key}_{name.replace(', ', '_').replace(' ', '_')}_vs_cached": row[f"{key}_per_query"]
            / pace[f"{key}_per_query"]
            for name, row in by_name.items()
            if row is not pace
            for key in ("flops", "ms")
        },
    }


def shown_rows(data: Any, shots: int) -> tuple[Any, ...]:
    """Return the examples that `make_prompts` shows: those to tune on."""
    from common import shuffled

    pools = [shuffled([e for e in data.train if e.label == label]) for label in data.labels]
    every = [pool[n] for n in range(shots) for pool in pools if n < len(pool)]
    return tuple(every[:shots])


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__.splitlines()[0] if __doc__ else "").parse_args()
    settle(options.threads)
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
