"""Scoring labels in context: Sapwood, lm-evaluation-harness and a plain loop on the same prompts.

Every side gets the same strings (demonstrations and a query) and gives log p(label) for the
labels. Loading is outside every time; tokenising and, for Sapwood, encoding the demonstrations are
inside. Sapwood scores all queries, the others some of the same queries; compared are seconds a
query. Repeats are interleaved and medians are taken, so that a disturbance meets every side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from _icl_sides import (
    Setting,
    ending,
    forwards,
    harness,
    requests,
    same_tokens,
    score_harness,
    score_loop,
    score_sapwood,
)  # fmt: skip
from common import (
    Rows,
    arguments,
    contention,
    finish,
    machine,
    made_up,
    median,
    require,
    say,
    sentiment_rows,
    settle,
    shared_folder,
    shuffled,
    timed,
    versions,
)  # fmt: skip

TOLERANCE = 1e-4  # of a log-probability in float32
# Labels of BANKING77 (Casanueva et al. 2020), the first eight by name that have at least three
# tokens for SmolLM2; their words stand in for its rows where the data is not here.
EIGHT = (
    "Refund_not_showing_up", "activate_my_card", "apple_pay_or_google_pay", "atm_support",
    "automatic_top_up", "balance_not_updated_after_bank_transfer",
    "balance_not_updated_after_cheque_or_cash_deposit", "beneficiary_not_allowed",
)  # fmt: skip
MADE_UP = tuple(f"label of number {n}" for n in range(12))
MAIN = ("one_token", "many_label")  # in both number formats; the others in float32
WIDE = ("eight_label", "clinc150", "channel")
FEW = 8  # labels up to which a slow side scores several queries, and a batch size is sought on all
SPARE_TOKENS = 300  # of the base's limit, for the query and the label


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured: `batches` are the lm-eval batch sizes tried before timing.

    `slow_tokens`: a slow side reads at most about so many tokens of a setting; where one query
    with all labels has more, it scores a sample of the labels.
    """

    queries: int = 200
    wide_queries: int = 64
    slow: int = 8
    slow_tokens: int = 60_000
    repeats: int = 3
    shots: tuple[int, ...] = (16,)
    batches: tuple[int, ...] = (1, 2, 4, 8)


QUICK = Size(
    queries=64, wide_queries=16, slow=2, slow_tokens=10_000, repeats=2, batches=(1, 2)
)  # fmt: skip
SMOKE = Size(queries=6, wide_queries=4, slow=2, slow_tokens=250, repeats=1, batches=(1,))
GRID = (16, 4, 64, 256)


@dataclass(kw_only=True)
class Timing:
    """What one side did: seconds a query of every repeat, and the scores it found.

    `times`: what a query with all labels costs as a multiple of what was scored, 1 if that is all.
    """

    queries: int
    work: Callable[[], Any]
    times: float = 1.0
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    scores: Any = None


def rows_of(name: str, smoke: bool) -> Rows:
    """Return the rows of a setting; where the shared data is missing, films under its labels."""
    if smoke:
        labels = {"many_label": EIGHT, "clinc150": MADE_UP}.get(name, ("bad", "good"))
        return made_up(labels)
    if name in ("one_token", "channel"):
        return sentiment_rows()
    folder = shared_folder("intent/clinc150_en" if name == "clinc150" else "intent/banking77_en")
    if folder is not None:
        from sapwood.tasks.readers import read_folder

        tables = read_folder(folder)
        every = (label for label in tables["train"].labels if label != "oos")  # CLINC150's 151st
        labels = EIGHT if name == "eight_label" else tuple(every)
        train, dev = (
            tuple(e for e in tables[part].examples if e.label in set(labels))
            for part in ("train", "test")
        )
        return Rows(source=folder.name, labels=labels, train=train, dev=dev)
    others = sentiment_rows()
    train, dev = (
        tuple(replace(e, label=EIGHT[n % 8]) for n, e in enumerate(part))
        for part in (others.train, others.dev)
    )
    source = f"{others.source} with label words of banking77_en"
    return Rows(source=source, labels=EIGHT, train=train, dev=dev)


def settings(
    names: Sequence[str], size: Size, sides: Any, *, smoke: bool = False
) -> Iterator[Setting]:
    """Yield the comparisons, each setting with 16 demonstrations first."""
    for name in names:
        rows = rows_of(name, smoke)
        if name in ("eight_label", "clinc150") and "with label words" in rows.source:
            say(f"{name}: no data, left out")
            continue
        for shots in size.shots:
            yield _setting(name, 2 if smoke else shots, size, rows, sides)


def _setting(name: str, shots: int, size: Size, rows: Rows, sides: Any) -> Setting:
    from sapwood.context.prompter import Context
    from sapwood.context.template import default_template

    decoder, _, tokenizer = sides
    template = default_template(rows.labels, [e.text for e in shuffled(rows.train)[:200]])
    limit = getattr(decoder.net.config, "max_position_embeddings", 1 << 30) - SPARE_TOKENS
    shown: list[Any] = []
    for share in (1.0, 0.75, 0.5, 0.25):  # the shortest rows only, where all would be too long
        shown = _dealt(rows, shots, share)
        if len(tokenizer(template.head(shown))["input_ids"]) <= max(limit, 0) or shots <= 16:
            break
    context = Context(
        template=template,
        demonstrations=tuple(shuffled(shown)),
        selection="random",
        shots=shots,
        max_text_tokens=1 << 20,  # nothing is cut: every side must see the same strings
    )
    count = size.queries if name in MAIN else size.wide_queries
    texts = tuple(e.text for e in shuffled(rows.dev)[:count])
    every = tuple(range(len(rows.labels)))
    made = Setting(
        name=name if shots in (2, 16) else f"{name}_{shots}_shots",
        source=rows.source,
        context=context,
        texts=texts,
        labels=rows.labels,
        slow=size.slow,
        columns=every,
        ending=ending(tokenizer, context, rows.labels),
        channel=name == "channel",
    )
    tokens = len(tokenizer("".join(made.pairs(1)[0]))["input_ids"])
    affordable = max(2, size.slow_tokens // tokens)  # rows of a slow side
    most = size.slow if len(every) <= FEW else max(1, size.slow // 4)
    if name in MAIN and shots <= 16:
        affordable = most * len(every)
    slow = min(most, max(1, affordable // len(every)), len(texts))
    columns = tuple(sorted(shuffled(every)[:affordable]))
    return replace(made, slow=slow, columns=columns)


def _dealt(rows: Rows, shots: int, share: float) -> list[Any]:
    """Return demonstrations, the labels in turn, from the shortest `share` of the rows."""
    train = shuffled(rows.train)
    longest = sorted(len(e.text) for e in train)[int(share * len(train)) - 1]
    piles = {y: [e for e in train if e.label == y and len(e.text) <= longest] for y in rows.labels}
    deepest = max(map(len, piles.values()))
    dealt = [p[turn] for turn in range(deepest) for p in piles.values() if turn < len(p)]
    return dealt[:shots]


def best_batch(sides: Any, setting: Setting, asked: Any, batches: Sequence[int]) -> int:
    """Return the lm-eval batch size that is fastest here."""
    _, plain, tokenizer = sides
    found = {}
    for batch in batches if len(batches) > 1 else ():
        lm = harness(plain, tokenizer, batch)
        _, found[batch], _ = timed(partial(score_harness, lm, asked, setting))
        say(f"  lm-eval, batch {batch}: {found[batch] / setting.slow:.3f} s a query")
    return min(found, key=lambda batch: found[batch]) if found else batches[0]


def compare(
    sides: Any, setting: Setting, size: Size, dtype: str, about: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return (rows, ratios) of one setting in one number format."""
    decoder, plain, tokenizer = sides
    count, slow, every = len(setting.texts), setting.slow, range(len(setting.labels))
    asked = requests(setting, slow)
    say(
        f"{setting.name}, {dtype}: {setting.source}, {setting.context.shots} demonstrations, "
        f"{len(every)} labels, {len(setting.columns)} of them for the slow sides"
    )
    tried = size.batches if setting.name in MAIN else (1,)
    part = replace(setting, columns=setting.columns[:FEW])
    batch = best_batch(sides, part, requests(part, slow), tried)
    lm = harness(plain, tokenizer, batch)
    if not same_tokens(lm, tokenizer, setting):
        raise SystemExit(f"{setting.name}: the sides do not score the same tokens")
    more = forwards(lm, setting, every) / forwards(lm, setting, setting.columns)
    own = partial(score_sapwood, decoder, tokenizer, setting)
    loop = partial(score_loop, plain, tokenizer, setting, slow)
    theirs = partial(score_harness, lm, asked, setting)
    tests = {
        "sapwood": Timing(queries=count, work=partial(own, count)),
        "lm_eval": Timing(queries=slow, times=more, work=theirs),
        "plain_loop": Timing(queries=slow, times=len(every) / len(setting.columns), work=loop),
        "sapwood_same_few_queries": Timing(queries=slow, work=partial(own, slow)),
    }
    own(slow)  # warm, as the search for the batch size has warmed the other
    repeats = size.repeats if setting.name in MAIN and len(every) <= FEW else 1
    for number in range(repeats):
        for name, timing in tests.items():
            with contention(about):
                timing.scores, seconds, cpu = timed(timing.work)
            timing.seconds.append(seconds * timing.times / timing.queries)
            timing.cpu.append(cpu * timing.times / timing.queries)
            say(f"  {number + 1}/{repeats} {name}: {timing.seconds[-1]:.4f} s a query")
    longest = max(len(lm._encode_pair(*pair)[1]) for pair in setting.pairs(slow))
    rows = [_row(name, tests, setting, dtype) | {"tokens_scored": longest} for name in tests]
    rows[1] |= {"batch_size": batch, "batch_sizes_tried": list(tried)}
    return rows, _ratios(rows, setting, "" if dtype == "float32" else f"_{dtype}")


def _ratios(rows: Sequence[dict[str, Any]], setting: Setting, tail: str) -> dict[str, float]:
    """Return each side's seconds a query by Sapwood's; the name says what was extrapolated."""
    at = {row["side"]: row for row in rows}
    if len(setting.columns) < len(setting.labels):
        tail += "_extrapolated"
    found = {}
    for name, side, own, unit in (
        ("vs_lm_eval", "lm_eval", "sapwood", "seconds_per_query"),
        ("vs_plain_loop", "plain_loop", "sapwood", "seconds_per_query"),
        ("vs_lm_eval_same_few_queries", "lm_eval", "sapwood_same_few_queries", "seconds_per_query"),
        ("vs_lm_eval_cpu_time", "lm_eval", "sapwood", "cpu_seconds_per_query"),
    ):
        found[f"{setting.name}_{name}{tail}"] = at[side][unit] / at[own][unit]
    return found


def _row(name: str, tests: dict[str, Timing], setting: Setting, dtype: str) -> dict[str, Any]:
    """Return one side's figures; differences are to every other side, on what all scored."""
    import numpy as np

    timing, few, columns = tests[name], setting.slow, list(setting.columns)
    scored = {
        side: t.scores[:few] if t.scores.shape[1] == len(columns) else t.scores[:few, columns]
        for side, t in tests.items()
    }
    others = [scores for other, scores in scored.items() if other != name]
    mine = scored[name]
    found = {
        "setting": setting.name,
        "data": setting.source,
        "scorer": "channel" if setting.channel else "direct",
        "labels": len(setting.labels),
        "labels_scored": timing.scores.shape[1],
        "shots": setting.context.shots,
        "dtype": dtype,
        "side": name,
        "queries": timing.queries,
        "seconds_per_query": median(timing.seconds),
        "seconds_per_query_repeats": timing.seconds,
        "cpu_seconds_per_query": median(timing.cpu),
        "queries_compared": few,
        "labels_compared": len(columns),
        "largest_difference_of_log_p": max(float(np.abs(mine - o).max()) for o in others),
        "predictions_equal": all(bool((mine.argmax(1) == o.argmax(1)).all()) for o in others),
    }
    if timing.times != 1:
        found["extrapolated"] = (
            f"{timing.scores.shape[1]} of {len(setting.labels)} labels were scored, and their "
            f"seconds a query ({median(timing.seconds) / timing.times:.3f}) multiplied by "
            f"{timing.times:.3f}, the forward passes of all labels by those of these"
        )
    return found


def load(model: str, dtype: str) -> tuple[Any, Any, Any]:
    """Return (Sapwood's decoder, a net of its own for the others, the tokenizer)."""
    from sapwood.launch import choose_runtime
    from sapwood.models.decoder import Decoder
    from sapwood.models.load import load_base

    runtime = choose_runtime("cpu", dtype)
    own, other = load_base(model, runtime), load_base(model, runtime)
    return Decoder(own.net), other.net, own.tokenizer


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    import logging

    from sapwood.launch import choose_runtime, raise_malloc_thresholds

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    size = SMOKE if options.smoke else QUICK if options.quick else Size()
    size = replace(size, shots=GRID) if options.grid else size
    names: tuple[str, ...] = (*MAIN, *WIDE)
    if options.quick or options.smoke:
        names = (*MAIN, "clinc150", "channel") if options.smoke else (*MAIN, "channel")
    raised = raise_malloc_thresholds()  # as Sapwood's command line does; helps both sides
    about = machine(options.threads) | {"malloc_thresholds_raised": raised}
    auto = "float32" if options.smoke else choose_runtime("cpu").dtype
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for dtype in dict.fromkeys(("float32", auto)):
        sides = load(options.model, dtype)
        few = replace(size, repeats=1) if options.quick and dtype != "float32" else size
        both = MAIN[:1] if options.quick else MAIN
        asked = options.settings or (names if dtype == "float32" else both)
        for setting in settings(asked, few, sides, smoke=options.smoke):
            new_rows, new_ratios = compare(sides, setting, few, dtype, about)
            rows += new_rows
            ratios |= new_ratios
    exact = [row for row in rows if row["dtype"] == "float32"]
    agreed = all(
        row["predictions_equal"]
        # The channel sums over a whole text, and rounding with it: there the bound is a token's.
        and row["largest_difference_of_log_p"]
        <= TOLERANCE * (row["tokens_scored"] if row["scorer"] == "channel" else 1)
        for row in exact
    )
    if not agreed:
        say("WARNING: the sides do not agree in float32")
    return {
        "claim": (
            "Seconds a query of lm-evaluation-harness's Hugging Face backend (its fastest batch "
            "size here, 1 where none was searched), or of a loop over queries and labels, divided "
            "by Sapwood's, with 16 demonstrations or as many as the name says, Sapwood's encoding "
            "of them included; float32 unless the name says otherwise; 'extrapolated' where the "
            "slow sides scored a sample of the labels (`rows` says which share); float32 "
            f"log-probabilities of everything that both scored agree to {TOLERANCE} (of a text, "
            f"under the channel, to as much a token): {agreed}"
        ),
        "machine": about,
        "versions": versions(),
        "rows": rows,
        "ratios": ratios,
    }


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--grid", action="store_true", help="4, 64 and 256 demonstrations too")
    parser.add_argument("--settings", nargs="+", choices=(*MAIN, *WIDE), help="only these")
    options = parser.parse_args()
    require("lm_eval", "datasets")
    settle(options.threads)
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
