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
from sapwood.interfaces import Example

# Answers of greedy decoding may part where two tokens are as good; on one machine they hardly do.
ALIKE = 0.5


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
        if answers_of(adaptation):
            plain = [Example(text=text) for text in texts]
            golden = Golden(texts=texts, answers=tuple(a.words for a in asked.said(plain)))
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
        else:
            _check_answers(adaptation, asked)
        yield asked


def _check_answers(adaptation: Adaptation, asked: Asked) -> None:
    wanted, texts = adaptation.golden.answers, adaptation.golden.texts
    if not texts:
        return
    said = asked.said([Example(text=text) for text in texts])
    alike = sum(answer.words == words for answer, words in zip(said, wanted, strict=True))
    if alike < ALIKE * len(texts):
        raise ModelError(
            "E-MODEL-051",
            f"This adaptation does not reproduce its golden probe: {len(texts) - alike} of "
            f"{len(texts)} recorded answers differ.",
            fix="check the versions in its evidence; adapt again if the base changed",
        )
