"""Scoring labels in context: Sapwood, lm-evaluation-harness and a plain loop on the same prompts.

Every side gets the same strings (16 demonstrations and a query) and gives log p(label) for every
label. Loading is outside every time; tokenising and, for Sapwood, encoding the demonstrations are
inside. Sapwood scores all queries, the others some of the same queries; compared are seconds a
query. Repeats are interleaved and medians are taken, so that a disturbance meets every side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

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


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured: `batches` are the lm-eval batch sizes tried before timing."""

    queries: int = 200
    slow: int = 8
    repeats: int = 3
    shots: int = 16
    batches: tuple[int, ...] = (1, 2, 4, 8)


QUICK = Size(queries=100, slow=2, repeats=2, batches=(1, 2))
SMOKE = Size(queries=6, slow=2, repeats=1, shots=2, batches=(1,))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One comparison: a context and the texts to be scored under it."""

    name: str
    source: str
    context: Any
    texts: tuple[str, ...]
    labels: tuple[str, ...]

    def prompts(self, count: int) -> list[str]:
        """Return the first full prompts as text."""
        template, shown = self.context.template, self.context.demonstrations
        return [template.prompt(shown, text) for text in self.texts[:count]]

    def words(self) -> list[str]:
        """Return the words of every label, with the space before them."""
        return [self.context.template.words[label] for label in self.labels]


@dataclass(kw_only=True)
class Timing:
    """What one side did: seconds a query of every repeat, and the scores it found."""

    queries: int
    work: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    scores: Any = None


def settings(size: Size, smoke: bool) -> list[Setting]:
    """Return the two comparisons on real rows."""
    two = sentiment_rows(smoke=smoke)
    eight = made_up(EIGHT) if smoke else eight_label_rows(two)
    return [_setting("one_token", size, two), _setting("many_label", size, eight)]


def eight_label_rows(others: Rows) -> Rows:
    """Return BANKING77's rows of eight labels, else `others` under the words of these labels."""
    from sapwood.tasks.readers import read_folder

    folder = shared_folder("intent/banking77_en")
    if folder is not None:
        tables = read_folder(folder)
        train, dev = (
            tuple(e for e in tables[name].examples if e.label in EIGHT)
            for name in ("train", "test")
        )
        return Rows(source="banking77_en", labels=EIGHT, train=train, dev=dev)
    train, dev = (
        tuple(replace(e, label=EIGHT[n % 8]) for n, e in enumerate(part))
        for part in (others.train, others.dev)
    )
    source = f"{others.source} with label words of banking77_en"
    return Rows(source=source, labels=EIGHT, train=train, dev=dev)


def _setting(name: str, size: Size, rows: Rows) -> Setting:
    from sapwood.context.prompter import Context
    from sapwood.context.template import default_template

    labels, train = rows.labels, shuffled(rows.train)
    shown = []
    for place in range(size.shots):  # the labels in turn
        label = labels[place % len(labels)]
        chosen = [e for e in train if e.label == label]
        shown.append(chosen[place // len(labels)])
    template = default_template(labels, [e.text for e in train[:200]])
    context = Context(
        template=template,
        demonstrations=tuple(shuffled(shown)),
        selection="random",
        shots=size.shots,
        max_text_tokens=1 << 20,  # nothing is cut: every side must see the same strings
    )
    texts = tuple(e.text for e in shuffled(rows.dev)[: size.queries])
    return Setting(name=name, source=rows.source, context=context, texts=texts, labels=labels)


def score_sapwood(decoder: Any, tokenizer: Any, setting: Setting, count: int) -> Any:
    """Return log p, (queries, labels); nothing is kept from one call to the next."""
    from sapwood.context.prompter import Prompter
    from sapwood.models.decoder import Decoder
    from sapwood.models.trie import build_trie

    fresh = Decoder(decoder.net)  # an empty prefix cache
    prompter = Prompter(tokenizer, setting.context)
    rest = prompter.rest(setting.texts[:count])
    trie = build_trie(prompter.labels(setting.labels))
    return fresh.label_scores(rest, trie, fresh.encode(prompter.prefix))


def harness_task(setting: Setting, count: int) -> Any:
    """Return a local lm-eval task whose requests are exactly the prompts and label words."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    prompts, words = setting.prompts(count), setting.words()
    rows = datasets.Dataset.from_list([{"prompt": prompt, "gold": 0} for prompt in prompts])
    task = ConfigurableTask(
        config={
            "task": f"sapwood_{setting.name}",
            "custom_dataset": lambda **_: {"test": rows},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": lambda doc: doc["prompt"],
            "doc_to_choice": lambda _: words,
            "doc_to_target": lambda doc: doc["gold"],
            "target_delimiter": "",
        }
    )
    task.build_all_requests(rank=0, world_size=1)
    asked = [request.args for request in task.instances]
    wanted = [(prompt, word) for prompt in prompts for word in words]
    assert asked == wanted, "lm-eval asks something else than the same prompts"
    return task


def harness(net: Any, tokenizer: Any, batch: int) -> Any:
    """Return lm-eval's Hugging Face backend around a loaded net."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=net, tokenizer=tokenizer, batch_size=batch, device="cpu")


def score_harness(lm: Any, task: Any, labels: int) -> Any:
    """Return log p, (queries, labels), by lm-eval's own loglikelihood."""
    import numpy as np

    answers = lm.loglikelihood(list(task.instances), disable_tqdm=True)
    return np.array([score for score, _ in answers]).reshape(-1, labels)


def score_loop(net: Any, tokenizer: Any, setting: Setting, count: int) -> Any:
    """Return log p, (queries, labels), by one forward call for each query and label."""
    import numpy as np
    import torch

    out = np.zeros((count, len(setting.labels)))
    for row, prompt in enumerate(setting.prompts(count)):
        start = len(tokenizer(prompt)["input_ids"])
        for column, word in enumerate(setting.words()):
            ids = torch.tensor([tokenizer(prompt + word)["input_ids"]])
            with torch.inference_mode():
                logits = net(input_ids=ids).logits[0].float().log_softmax(-1)
            places = torch.arange(start - 1, ids.shape[1] - 1)
            out[row, column] = float(logits[places, ids[0, start:]].sum())
    return out


def best_batch(net: Any, tokenizer: Any, task: Any, setting: Setting, size: Size) -> int:
    """Return the lm-eval batch size that is fastest here."""
    found = {}
    for batch in size.batches if len(size.batches) > 1 else ():
        lm = harness(net, tokenizer, batch)
        _, found[batch], _ = timed(partial(score_harness, lm, task, len(setting.labels)))
        say(f"  lm-eval, batch {batch}: {found[batch] / size.slow:.3f} s a query")
    return min(found, key=lambda batch: found[batch]) if found else size.batches[0]


def compare(
    sides: tuple[Any, Any, Any], setting: Setting, size: Size, dtype: str, about: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return (rows, ratios) of one setting in one number format."""
    decoder, plain, tokenizer = sides
    count, slow = len(setting.texts), min(size.slow, len(setting.texts))
    task = harness_task(setting, slow)
    say(f"{setting.name}, {dtype}: {setting.source}, {len(setting.labels)} labels")
    lm = harness(plain, tokenizer, best_batch(plain, tokenizer, task, setting, size))
    own = partial(score_sapwood, decoder, tokenizer, setting)
    tests = {
        "sapwood": Timing(queries=count, work=partial(own, count)),
        "lm_eval": Timing(queries=slow, work=partial(score_harness, lm, task, len(setting.labels))),
        "plain_loop": Timing(
            queries=slow, work=partial(score_loop, plain, tokenizer, setting, slow)
        ),
        "sapwood_same_few_queries": Timing(queries=slow, work=partial(own, slow)),
    }
    own(slow)  # warm, as the search for the batch size has warmed the other
    for number in range(size.repeats):
        for name, timing in tests.items():
            with contention(about):
                timing.scores, seconds, cpu = timed(timing.work)
            timing.seconds.append(seconds / timing.queries)
            timing.cpu.append(cpu / timing.queries)
            say(f"  {number + 1}/{size.repeats} {name}: {timing.seconds[-1]:.4f} s a query")
    rows = [_row(name, timing, tests, setting, dtype) for name, timing in tests.items()]
    rows[1]["batch_size"] = lm.batch_size
    paces = {row["side"]: row["seconds_per_query"] for row in rows}
    tail = "" if dtype == "float32" else f"_{dtype}"
    spent = {row["side"]: row["cpu_seconds_per_query"] for row in rows}
    ratios = {
        f"{setting.name}_vs_lm_eval{tail}": paces["lm_eval"] / paces["sapwood"],
        f"{setting.name}_vs_plain_loop{tail}": paces["plain_loop"] / paces["sapwood"],
        f"{setting.name}_vs_lm_eval_same_few_queries{tail}": paces["lm_eval"]
        / paces["sapwood_same_few_queries"],
        f"{setting.name}_vs_lm_eval_cpu_time{tail}": spent["lm_eval"] / spent["sapwood"],
    }
    return rows, ratios


def _row(
    name: str, timing: Timing, tests: dict[str, Timing], setting: Setting, dtype: str
) -> dict[str, Any]:
    """Return one side's figures; differences are to every other side, on the queries all scored."""
    import numpy as np

    few = min(t.queries for t in tests.values())
    others = [t.scores[:few] for other, t in tests.items() if other != name]
    mine = timing.scores[:few]
    return {
        "setting": setting.name,
        "data": setting.source,
        "labels": len(setting.labels),
        "shots": setting.context.shots,
        "dtype": dtype,
        "side": name,
        "queries": timing.queries,
        "seconds_per_query": median(timing.seconds),
        "seconds_per_query_repeats": timing.seconds,
        "cpu_seconds_per_query": median(timing.cpu),
        "queries_compared": few,
        "largest_difference_of_log_p": max(float(np.abs(mine - o).max()) for o in others),
        "predictions_equal": all(bool((mine.argmax(1) == o.argmax(1)).all()) for o in others),
    }


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
    raised = raise_malloc_thresholds()  # as Sapwood's command line does; helps both sides
    about = machine(options.threads) | {"malloc_thresholds_raised": raised}
    auto = "float32" if options.smoke else choose_runtime("cpu").dtype
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for dtype in dict.fromkeys(("float32", auto)):
        sides = load(options.model, dtype)
        for setting in settings(size, options.smoke):
            new_rows, new_ratios = compare(sides, setting, size, dtype, about)
            rows += new_rows
            ratios |= new_ratios
    exact = [row for row in rows if row["dtype"] == "float32"]
    if not all(row["predictions_equal"] for row in exact) or not all(
        row["largest_difference_of_log_p"] <= TOLERANCE for row in exact
    ):
        say("WARNING: the sides do not agree in float32")
    return {
        "claim": (
            "Seconds a query of lm-evaluation-harness's Hugging Face backend (its fastest batch "
            "size here), or of a loop over queries and labels, divided by Sapwood's, with 16 "
            "demonstrations, Sapwood's encoding of them included; float32 unless the name says "
            f"otherwise; float32 log-probabilities agree to {TOLERANCE}"
        ),
        "machine": about,
        "versions": versions(),
        "rows": rows,
        "ratios": ratios,
    }


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__.splitlines()[0] if __doc__ else "").parse_args()
    require("lm_eval", "datasets")
    settle(options.threads)
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
