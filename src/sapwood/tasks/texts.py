"""Scores of written texts: how well the wanted one was expected, and how like it the answer is.

Likelihood is the headline: it needs no second opinion of what a good text is, every byte of every
row counts, and it does not depend on how answers were drawn. BLEU and chrF come from sacrebleu,
which fixes their tokens (Post 2018, arXiv 1804.08771); ROUGE (Lin 2004) is counted here, in
characters for Chinese, where words have no borders. Distinct-n (Li et al. 2016, arXiv 1510.03055)
and repetition look at the answers alone. A distance between distributions of texts (MAUVE, Pillutla
et al. 2021) needs embeddings of thousands of answers from a large model, so there is none here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from sapwood.errors import DataError, ResourceError
from sapwood.interfaces import Answer, Example
from sapwood.tally import Tally, bits_a_byte
from sapwood.tasks.forms import guessed, rates
from sapwood.tasks.perplexity import perplexities

REPEATED = 4  # words or characters in a row; ordinary texts hardly repeat so many
_CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_TOKEN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\u3400-\u9fff\uf900-\ufaff]+")


def likelihood(answers: Sequence[Answer]) -> Tally:
    """Return the bits a byte that the wanted answers took.

    Raises DataError (E-DATA-112) where an answer was written and not scored.
    """
    if not sum(answer.bytes for answer in answers):
        raise DataError(
            "E-DATA-112",
            "These answers were written; how well the wanted ones were expected is not known.",
            fix="score rows that have an answer: sapwood eval DIR --data FILE",
        )
    nats = np.array([answer.nats for answer in answers])
    return bits_a_byte(nats, np.array([answer.bytes for answer in answers], np.float64))


def measure(task: str, gold: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return every score of written texts, JSON-ready.

    `likelihood` over all rows that were scored; the others over the rows that have a written
    answer, with how many that are.
    """
    found: dict[str, Any] = {"task": task, "rows": len(gold)}
    if sum(answer.bytes for answer in answers):
        score = likelihood(answers).interval()
        found["bits_a_byte"] = {"value": score.value, "low": score.low, "high": score.high}
        found |= perplexities(gold, answers)
    pairs = [(g.label or "", a.words) for g, a in zip(gold, answers, strict=True) if a.words]
    if pairs:
        found["written"] = {
            "rows": len(pairs),
            **compared([w for w, _ in pairs], [s for _, s in pairs]),
        }
    if pairs and task == "poetry":
        found |= _form(gold, answers)
    return found


def _form(gold: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return how many written poems keep the form that the wanted ones have, {} if these have none.

    A prompt may be the first line of its poem: then it counts as one.
    """
    rows = [(g.text, g.label or "", a.words) for g, a in zip(gold, answers, strict=True) if a.words]
    whole = [(wanted, said) for _, wanted, said in rows]
    continued = [(f"{text}\n{wanted}", f"{text}\n{said}") for text, wanted, said in rows]
    try:
        for poems in (whole, continued):
            names = guessed([wanted for wanted, _ in poems])
            if names:
                return {"form": rates([w for w, _ in poems], [s for _, s in poems], names)}
    except ResourceError as missing:
        return {"form": {"note": f"{missing.what} {missing.fix}"}}
    return {}


def compared(wanted: Sequence[str], said: Sequence[str]) -> dict[str, Any]:
    """Return how like the wanted texts the written ones are, and what they are by themselves."""
    tokens = [tokens_of(text) for text in said]
    references = [tokens_of(text) for text in wanted]
    found: dict[str, Any] = dict(_sacrebleu(wanted, said))
    both = list(zip(references, tokens, strict=True))
    for size in (1, 2):
        found[f"rouge_{size}"] = float(np.mean([overlap(a, b, size) for a, b in both]))
    found["rouge_l"] = float(np.mean([longest_shared(a, b) for a, b in both]))
    for size in (1, 2):
        found[f"distinct_{size}"] = {"value": distinct(tokens, size),
                                     "wanted": distinct(references, size)}  # fmt: skip
    found["repetition"] = {"value": repetition(tokens), "wanted": repetition(references)}
    found["length"] = {
        "value": float(np.mean([len(own) for own in tokens])),
        "wanted": float(np.mean([len(own) for own in references])),
    }
    return found


def tokens_of(text: str) -> list[str]:
    """Return words in lower case, and each Chinese character on its own.

    >>> tokens_of("The cat, 东京!")
    ['the', 'cat', '东', '京']
    """
    return _TOKEN.findall(text.lower())


def overlap(wanted: Sequence[str], said: Sequence[str], size: int) -> float:
    """Return ROUGE-N: the F1 of shared runs of `size` tokens, in [0, 1].

    >>> overlap(["a", "b", "c"], ["a", "b"], 1)
    0.8
    """
    left, right = Counter(_runs(wanted, size)), Counter(_runs(said, size))
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 0.0


def longest_shared(wanted: Sequence[str], said: Sequence[str]) -> float:
    """Return ROUGE-L: the F1 of the longest common subsequence, in [0, 1].

    >>> longest_shared(["a", "x", "b"], ["a", "b"])
    0.8
    """
    row = [0] * (len(said) + 1)
    for token in wanted:
        diagonal = 0
        for at, other in enumerate(said, 1):
            above = row[at]
            row[at] = diagonal + 1 if token == other else max(above, row[at - 1])
            diagonal = above
    total = len(wanted) + len(said)
    return 2 * row[-1] / total if total else 0.0


def distinct(texts: Sequence[Sequence[str]], size: int) -> float:
    """Return the share of different ones among all runs of `size` tokens, in [0, 1].

    It falls as texts get longer and more: compare it with the wanted texts of the same rows only.
    """
    runs = [run for text in texts for run in _runs(text, size)]
    return len(set(runs)) / len(runs) if runs else 0.0


def repetition(texts: Sequence[Sequence[str]]) -> float:
    """Return the share of runs of four tokens that stood in the same text before, in [0, 1]."""
    repeated = total = 0
    for text in texts:
        runs = list(_runs(text, REPEATED))
        repeated += len(runs) - len(set(runs))
        total += len(runs)
    return repeated / total if total else 0.0


def _runs(tokens: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]


def _sacrebleu(wanted: Sequence[str], said: Sequence[str]) -> dict[str, Any]:
    """Return BLEU and chrF, 0 to 100; without the extra a line that says what installs it."""
    try:
        sacrebleu: Any = import_module("sacrebleu")
    except ImportError:
        missing = ResourceError(
            "E-RESOURCE-028", "BLEU and chrF need sacrebleu",
            fix="pip install 'sapwood[generation]'",
        )  # fmt: skip
        return {"bleu": None, "chrf": None, "note": f"{missing.what}: {missing.fix}"}
    sample = "".join(wanted[:50])
    chinese = len(_CJK.findall(sample)) > 0.2 * max(1, len(sample))
    bleu = sacrebleu.corpus_bleu(list(said), [list(wanted)], tokenize="zh" if chinese else "13a")
    return {"bleu": bleu.score, "chrf": sacrebleu.corpus_chrf(list(said), [list(wanted)]).score}
