"""Any adaptation asked about rows: class probabilities, or answers written or found in the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from sapwood.adaptation import Adaptation, Golden
from sapwood.errors import ModelError
from sapwood.evaluation.answerer import Answerer
from sapwood.evaluation.bases import Bases
from sapwood.evaluation.predictor import Predictor
from sapwood.evaluation.predictor import check_golden as check_probabilities
from sapwood.evaluation.writer import Writer
from sapwood.interfaces import Answer, Example

# Answers of greedy decoding may part where two tokens are as good; on one machine they hardly do.
ALIKE = 0.5
PROBE_TOKENS = 24  # of free text in a probe: a whole story a row kept a server waiting a minute


class Asked(Protocol):
    """An adaptation over its loaded base; `tokens`: those its queries took so far."""

    tokens: int

    def said(self, rows: Sequence[Example]) -> Any:
        """Return class probabilities (rows, labels), or an Answer for each row."""
        ...


def answers_of(adaptation: Adaptation) -> bool:
    """Return whether an adaptation gives answers instead of class probabilities."""
    own = hasattr(adaptation.readout, "answers")
    return own or adaptation.reads in ("states", "answers")


@contextmanager
def asking(adaptation: Adaptation, bases: Bases, *, stored: bool = False) -> Iterator[Asked]:
    """Yield an adaptation ready to be asked; whatever was attached is detached at the end."""
    kind = Answerer if answers_of(adaptation) else Predictor
    with kind(adaptation, bases, stored=stored) as asked:
        yield asked


def sealed(adaptation: Adaptation, bases: Bases, rows: Sequence[Example]) -> Adaptation:
    """Return an adaptation with a golden probe: what it says of `rows` now."""
    texts = tuple(row.text for row in rows)
    with asking(adaptation, bases) as asked:
        if isinstance(asked, Answerer):
            golden = Golden(texts=texts, answers=tuple(a.words for a in _begun(asked, texts)))
        else:
            said = tuple(tuple(map(float, row)) for row in asked.said(rows))
            golden = Golden(texts=texts, probabilities=said)
    return replace(adaptation, golden=golden)


@contextmanager
def asked_safely(adaptation: Adaptation, bases: Bases) -> Iterator[Asked]:
    """Yield an adaptation whose golden probe has reproduced; ModelError (E-MODEL-051) if not."""
    with asking(adaptation, bases, stored=True) as asked:
        if isinstance(asked, Predictor):
            check_probabilities(asked)
        elif isinstance(asked, Answerer):
            _check_answers(adaptation, asked)
        yield asked


def _begun(asked: Answerer, texts: Sequence[str]) -> list[Answer]:
    """Return what is said of texts; where that is free text, its first tokens alone."""
    rows = [Example(text=text) for text in texts]
    writer = asked.asked
    if not isinstance(writer, Writer) or writer.guided:
        return list(asked.said(rows))
    whole = writer.decoding
    few = min(whole.tokens, PROBE_TOKENS)
    try:
        asked.decode_by(replace(whole, tokens=few, least_tokens=min(whole.least_tokens, few)))
        return list(asked.said(rows))
    finally:
        asked.decode_by(whole)


def _same(answer: Answer, words: str) -> bool:
    """Return whether an answer is what was recorded, or the beginning of it."""
    begun = answer.words.rstrip("\ufffd")  # of a character that was cut
    return answer.words == words or (not answer.stopped and words.startswith(begun))


def _check_answers(adaptation: Adaptation, asked: Answerer) -> None:
    wanted, texts = adaptation.golden.answers, adaptation.golden.texts
    if not texts:
        return
    said = _begun(asked, texts)
    alike = sum(_same(answer, words) for answer, words in zip(said, wanted, strict=True))
    if alike < ALIKE * len(texts):
        recorded, here = adaptation.base, asked.bases.runtime.dtype
        other = f"--dtype {recorded.dtype}; or " if recorded and recorded.dtype != here else ""
        raise ModelError(
            "E-MODEL-051",
            f"This adaptation does not reproduce its golden probe: {len(texts) - alike} of "
            f"{len(texts)} recorded answers differ.",
            fix=f"{other}check the versions in its evidence; adapt again if the base changed",
        )
