"""Steps a second of both engines on the same rows from the same start, turn by turn.

Three jobs: a prefix under a head on MiniLM, LoRA under label words on SmolLM2, and pretraining all
of a small BERT on masked tokens and pairs. Engines take turns, so that what else the machine does
meets both; TensorFlow's first step, which compiles, is told by itself. Losses of equal steps are
compared, and what differs is part of the result.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import arguments, contention, finish, machine, say, settle, versions

ENGINES = ("torch", "tensorflow", "tensorflow, XLA")
LENGTHS = {"prefix": 48, "lora": 48, "mlm+nsp": 128}
ROWS = {"prefix": 32, "lora": 8, "mlm+nsp": 16}
Steps = Iterator[Any]
Labelled = tuple[list[str], list[int]]


def reviews(*, smoke: bool) -> Labelled:
    """Return film reviews, real but for a smoke test, and whether each is good."""
    if smoke:
        return ["a fine film", "a dull film"] * 8, [1, 0] * 8
    import json

    from sapwood.config import home
    from sapwood.tasks.pull import pull

    lines = (pull("movie-reviews", home()) / "train.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    some = [*rows[:400], *rows[-400:]]
    return [r["text"] for r in some], [int(r["label"] == "positive") for r in some]


def course(made: Any, weights: Any, rows: int, total: int) -> Steps:
    """Return the steps of a training run."""
    from sapwood.training import Recipe, fit, make_optimiser

    recipe = Recipe(learning_rate=1e-3, batch_size=rows, epochs=1000.0)
    return fit(made, make_optimiser(list(weights.values()), recipe), recipe, total=total)


def under_head(base: Any, rows: Labelled, engine: str, total: int) -> Steps:
    """Return the steps of a prefix of 8 tokens on an encoder, and of its head."""
    from sapwood.methods.together import parse
    from sapwood.models.encoder import Encoder
    from sapwood.readouts.head import Head
    from sapwood.training.heads import HeadSupervision, TrainedHead, head_weights

    texts, gold = rows
    encoder = Encoder(parse("prefix(tokens=8)").attach(base.net))
    head = TrainedHead(Head.random(("bad", "good"), encoder.net.config.hidden_size))
    coded = [base.tokenizer(text)["input_ids"][: LENGTHS["prefix"]] for text in texts]
    made: Any = HeadSupervision(encoder, coded, gold, head)
    if engine != "torch":
        from sapwood.tensorflow import supervision

        made = supervision.under_head(made, xla="XLA" in engine)
    return course(made, head_weights(encoder.net, head), ROWS["prefix"], total)


def under_words(base: Any, rows: Labelled, engine: str, total: int) -> Steps:
    """Return the steps of LoRA on a decoder that says "good" or "bad"."""
    from sapwood.methods import parts
    from sapwood.methods.together import parse
    from sapwood.models.decoder import Decoder
    from sapwood.models.trie import build_trie
    from sapwood.training import Supervision, target

    texts, gold = rows
    decoder = Decoder(parse("lora").attach(base.net), weights_key=lambda: "lora")
    words = base.tokenizer([" bad", " good"], add_special_tokens=False)["input_ids"]
    trie = build_trie(words)
    prompts = base.tokenizer([f"Review: {text}\nIt was" for text in texts])["input_ids"]
    cut = LENGTHS["lora"]
    targets = [target(p[-cut:], g, trie) for p, g in zip(prompts, gold, strict=True)]
    made: Any = Supervision(decoder, targets, trie)
    if engine != "torch":
        from sapwood.tensorflow import supervision

        made = supervision.under_words(made, xla="XLA" in engine)
    return course(made, parts.weights(base.net), ROWS["lora"], total)


def pretraining(corpus: Any, net_name: str, engine: str, total: int) -> Steps:
    """Return the steps of a new BERT on masked tokens and pairs."""
    from transformers import AutoTokenizer

    from sapwood.models.kinds import new_net
    from sapwood.models.products import quickened
    from sapwood.objectives import Draws, Vocabulary, objective
    from sapwood.training.readings import Pretraining, reading_for
    from sapwood.training.stream import Stream

    tokenizer: Any = AutoTokenizer.from_pretrained(str(corpus.tokenizer), local_files_only=True)
    vocabulary, names = Vocabulary.of(tokenizer), ("mlm", "nsp")
    net = quickened(new_net(net_name, vocabulary, LENGTHS["mlm+nsp"], names).train())
    draws = Draws(objective("mlm+nsp"), corpus.part("train"), vocabulary, LENGTHS["mlm+nsp"], 0)
    make: Any = reading_for
    if engine != "torch":
        from sapwood.tensorflow.reading import TensorFlowReading

        make = lambda *given: TensorFlowReading(*given, xla="XLA" in engine)  # noqa: E731
    made = Pretraining(make(net, names), Stream(draws, 0))
    weights = {name: w for name, w in net.named_parameters() if w.requires_grad}
    return course(made, weights, ROWS["mlm+nsp"], total)


def compared(job: str, begin: Callable[[str, int], Steps], total: int, xla: bool) -> dict[str, Any]:
    """Return median seconds a step of each engine after its first, and how far losses differ."""
    engines = ENGINES if xla else ENGINES[:2]
    steps = {engine: begin(engine, total) for engine in engines}
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    losses: dict[str, list[float]] = {engine: [] for engine in engines}
    for _ in range(total):
        for engine in engines:
            began = time.perf_counter()
            losses[engine].append(next(steps[engine]).loss)
            seconds[engine].append(time.perf_counter() - began)
    middle = {engine: statistics.median(taken[1:]) for engine, taken in seconds.items()}
    for engine in engines:
        say(f"  {job}, {engine}: {1 / middle[engine]:.2f} steps a second, the first took "
            f"{seconds[engine][0]:.1f} s")  # fmt: skip
    far = max(abs(a - b) for a, b in zip(*(losses[e] for e in engines[:2]), strict=True))
    return {
        "row": job, "rows_a_step": ROWS[job], "length": LENGTHS[job], "steps": total,
        "steps_per_second": {engine: 1 / taken for engine, taken in middle.items()},
        "first_step_seconds": {engine: seconds[engine][0] for engine in engines},
        "loss_difference": far, "last_loss": {e: losses[e][-1] for e in engines},
    }  # fmt: skip


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    from sapwood.corpora.corpus import Corpus
    from sapwood.launch import Runtime
    from sapwood.models.load import load_base
    from sapwood.tensorflow.arrival import tensorflow

    about, tf = machine(options.threads), tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    runtime = Runtime(device="cpu", dtype="float32", threads=options.threads)
    total, rows, texts = options.steps, [], reviews(smoke=options.smoke)
    with contention(about), tempfile.TemporaryDirectory() as folder:
        corpus = options.corpus
        if options.smoke:
            from sapwood.testing.corpora import tiny_corpus

            corpus = tiny_corpus(Path(folder) / "corpus", count=40, held=8)
        else:
            rows.append(compared("prefix", lambda *given: under_head(
                load_base("minilm-l6", runtime), texts, *given), total, options.xla))  # fmt: skip
        rows.append(compared("lora", lambda *given: under_words(
            load_base(options.model, runtime), texts, *given), total, options.xla))  # fmt: skip
        if corpus:
            net = "bert-tiny" if options.smoke else "bert-mini"
            rows.append(compared("mlm+nsp", lambda *given: pretraining(
                Corpus.open(Path(corpus)), net, *given), total, options.xla))  # fmt: skip
    ratios = {
        f"{row['row']}_tensorflow_vs_torch":
            row["steps_per_second"]["tensorflow"] / row["steps_per_second"]["torch"]
        for row in rows
    }  # fmt: skip
    return {
        "claim": "steps a second of TensorFlow and torch, the same rows, start and optimiser",
        "machine": about, "versions": versions() | {"tensorflow": tf.__version__},
        "rows": rows, "ratios": ratios,
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=20, help="of every engine (default 20)")
    parser.add_argument("--corpus", help="a folder of `sapwood corpus build`, for pretraining")
    parser.add_argument("--xla", action="store_true", help="also TensorFlow with XLA")
    options = parser.parse_args()
    settle(options.threads)
    if options.quick:
        options.steps = min(options.steps, 8)
    if options.smoke:
        options.steps = 2
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
