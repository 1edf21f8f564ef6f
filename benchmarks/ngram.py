"""An n-gram model against KenLM's lmplz: the same perplexity, and how fast it is counted.

Five novels train it and a sixth is read, by subwords of the same tokenizer (4,096 byte-level
pairs). lmplz and query of KenLM are found by LMPLZ and QUERY or on the PATH; without them only our
own figures are given. Seconds are of counting and smoothing; lmplz also reads and writes text.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import ROOT, arguments, contention, finish, machine, say, settle, timed, versions

HELD = "persuasion"
VOCABULARY = 4096


def books(folder: Path | None, *, smoke: bool) -> tuple[list[str], list[str]]:
    """Return (training lines, held-out lines): a paragraph a line."""
    if smoke:
        lines = [f"the {n % 7} cats sat on {n % 5} mats and {n % 3} dogs" for n in range(60)]
        return lines[:50], lines[50:]
    shared = Path(os.environ.get("SAPWOOD_SHARED") or ROOT.parent / "shared")
    folder = folder or shared / "corpora" / "books"
    paths = sorted(folder.glob("*.txt"))
    if not any(path.stem == HELD for path in paths):
        raise SystemExit(f"{folder} has no {HELD}.txt; name a folder of books with --books")
    texts = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in paths}
    return [line for name, text in texts.items() if name != HELD for line in text], texts[HELD]


def tokens(train: Sequence[str], held: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Return both sides as a tokenizer that the training lines made parts them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(
        train, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=letters)
    )
    return made.encode_batch(list(train)), made.encode_batch(list(held))


def ours(train: Sequence[Any], held: Sequence[Any], order: int, *, closed: bool) -> dict[str, Any]:
    """Return perplexity, bits and seconds of our own counts."""
    import numpy as np

    from sapwood.models.counting import Symbols
    from sapwood.models.ngram import count_and_smooth, sequences_in

    symbols = Symbols(size=VOCABULARY + 3, bos=VOCABULARY, eos=VOCABULARY + 1, unk=VOCABULARY + 2)

    def counted() -> Any:
        steps = count_and_smooth(
            sequences_in(one.ids for one in train), order=order, symbols=symbols, closed=closed
        )
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    model, seconds, _ = timed(counted)
    found, scored, _ = timed(lambda: model.scored([one.ids for one in held]))
    nats = np.concatenate(found)
    counts = model.about["tokens_counted"]
    return {
        "side": "sapwood, every token a word" if closed else "sapwood", "order": order,
        "perplexity": float(np.exp(nats.mean())), "bits": float(nats.sum() / np.log(2)),
        "tokens": len(nats), "ngrams": list(model.sizes), "seconds": seconds,
        "counted_per_second": counts / seconds, "scored_per_second": len(nats) / scored,
    }  # fmt: skip


def theirs(train: Sequence[Any], held: Sequence[Any], order: int) -> dict[str, Any] | None:
    """Return the same of lmplz, None where it is not here."""
    lmplz, query = (
        os.environ.get(name.upper()) or shutil.which(name) for name in ("lmplz", "query")
    )
    if not lmplz or not query:
        return None
    with tempfile.TemporaryDirectory() as folder:
        text, asked, arpa = (Path(folder) / name for name in ("train", "held", "lm.arpa"))
        for path, side in ((text, train), (asked, held)):
            path.write_text("".join(" ".join(one.tokens) + "\n" for one in side), encoding="utf-8")
        command = [lmplz, "-o", str(order), "-S", "1G", "--text", str(text), "--arpa", str(arpa),
                   "-T", folder, "--discount_fallback"]  # fmt: skip
        _, seconds, _ = timed(lambda: subprocess.run(command, check=True, capture_output=True))
        with asked.open(encoding="utf-8") as given:
            said = subprocess.run([query, str(arpa)], stdin=given, check=True, capture_output=True)
    line = next(x for x in said.stdout.decode().splitlines() if x.startswith("Perplexity incl"))
    return {"side": "lmplz", "order": order, "perplexity": float(line.split()[-1]),
            "seconds": seconds}  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--books", type=Path, help="folder of books, a paragraph a line")
    given = parser.parse_args()
    settle(given.threads)
    about, rows, ratios = machine(given.threads), list[dict[str, Any]](), dict[str, float]()
    train, held = books(given.books, smoke=given.smoke)
    size = sum(len(line.encode()) for line in held)
    left, right = tokens(train, held)
    for order in (3,) if given.smoke else (2, 3, 4, 5):
        with contention(about):
            sides = [ours(left, right, order, closed=False), ours(left, right, order, closed=True)]
            peer = theirs(left, right, order)
        for row in sides:
            row["bits_a_byte"] = row["bits"] / size
            row["bits_a_byte_with_line_ends"] = row.pop("bits") / (size + len(held))
        rows += sides + ([peer] if peer else [])
        if peer:
            ratios[f"perplexity_{order}_vs_lmplz"] = sides[0]["perplexity"] / peer["perplexity"]
            ratios[f"seconds_{order}_vs_lmplz"] = sides[0]["seconds"] / peer["seconds"]
        else:
            say("lmplz is not here: only our own figures")
        say(f"order {order}: perplexity {sides[0]['perplexity']:.3f}"
            + (f", lmplz {peer['perplexity']:.3f}" if peer else ""))  # fmt: skip
    about["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    finish(
        {"claim": "n-gram perplexity is lmplz's to four digits", "machine": about,
         "versions": versions(), "rows": rows, "ratios": ratios},
        compact=given.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()
