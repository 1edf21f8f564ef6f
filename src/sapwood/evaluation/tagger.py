"""From texts to frames, through an encoder that tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sapwood.interfaces import Answer, Frame, Span
from sapwood.models.encoder import Encoder
from sapwood.models.windows import Framing, Pieced, Window
from sapwood.readouts.scheme import Question
from sapwood.readouts.tags import Found, Tags

CHUNK = 64  # texts at once: enough to fill packs, few enough to be stopped soon


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """The frames of one text by position, and how probable each is.

    The probability of a frame is that of its least certain span.
    """

    frames: tuple[Frame, ...] = ()
    probabilities: tuple[float, ...] = ()

    def surer(self, threshold: float) -> tuple[Frame, ...]:
        """Return the frames that are at least so probable."""
        each = zip(self.frames, self.probabilities, strict=True)
        return tuple(frame for frame, probability in each if probability >= threshold)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A question about a text: which one, and the frame that its answer fills."""

    text: int
    question: Question | None
    frame: Frame
    probability: float = 1.0


class Tagger:
    """Answers extraction tasks with an encoder and the tags trained on it.

    `max_length`: tokens a row; longer texts are read in overlapping windows. `threshold`: frames
    less probable than this are not answered. Raises ModelError (E-MODEL-076, 077) as Framing does.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Any,
        readout: Tags,
        *,
        max_length: int = 512,
        threshold: float = 0.0,
    ) -> None:
        self.encoder, self.readout, self.threshold = encoder, readout, threshold
        self.framing = Framing(tokenizer, max_length, pieces=readout.scheme.pieces)
        self._weight = torch.tensor(readout.weight, device=encoder.device)
        self._bias = torch.tensor(readout.bias, device=encoder.device)
        self.tokens = 0

    def answers(self, texts: Sequence[str]) -> list[Answer]:
        """Return the answer to each text: its frames, by position."""
        return [Answer(frames=tagged.surer(self.threshold)) for tagged in self.read(texts)]

    def read(self, texts: Sequence[str]) -> list[Tagged]:
        """Return all frames of each text, with their probabilities."""
        return [tagged for at in range(0, len(texts), CHUNK)
                for tagged in self._read(texts[at : at + CHUNK])]  # fmt: skip

    def _read(self, texts: Sequence[str]) -> Iterator[Tagged]:
        scheme = self.readout.scheme
        pieced = self.framing.pieced(texts)
        first = [
            _Asked(text=n, question=question, frame=Frame(label=question.label if question else ""))
            for n in range(len(texts))
            for question in scheme.first_questions()
        ]
        answered = list(zip(first, self._found(pieced, first), strict=True))
        if scheme.heads:
            second = [
                asked
                for one, found in answered
                for span in found
                for asked in self._follow(pieced[one.text], one.text, span)
            ]
            answered = list(zip(second, self._found(pieced, second), strict=True))
        frames: list[list[tuple[Frame, float]]] = [[] for _ in texts]
        for asked, found in answered:
            frames[asked.text] += self._filled(pieced[asked.text], asked, found)
        for own in frames:
            own.sort(key=lambda pair: place_of(pair[0]))
            yield Tagged(
                frames=tuple(frame for frame, _ in own),
                probabilities=tuple(probability for _, probability in own),
            )

    def _follow(self, text: Pieced, number: int, span: Found) -> Iterator[_Asked]:
        start, end = text.characters(span.start, span.end)
        for question, frame in self.readout.scheme.questions(start, end, span.kind):
            yield _Asked(text=number, question=question, frame=frame, probability=span.probability)

    def _filled(
        self, text: Pieced, asked: _Asked, found: Sequence[Found]
    ) -> Iterator[tuple[Frame, float]]:
        scheme = self.readout.scheme
        sure = {text.characters(one.start, one.end): one.probability for one in found}
        marked = [(*text.characters(one.start, one.end), one.kind) for one in found]
        for frame in scheme.filled(asked.frame, marked):
            least = [sure[span.start, span.end] for span in frame.arguments]
            yield frame, min([asked.probability, *least])

    def _found(self, texts: Sequence[Pieced], asked: Sequence[_Asked]) -> list[list[Found]]:
        """Return the spans that answer each question, in units of its text."""
        scheme = self.readout.scheme
        allowed = [scheme.allowed(one.question) for one in asked]
        wanted = [n for n, own in enumerate(allowed) if len(own) > 1]
        logits = self._logits([texts[asked[n].text] for n in wanted],
                              [asked[n].question for n in wanted])  # fmt: skip
        found = self.readout.found(logits, [allowed[n] for n in wanted])
        answers: list[list[Found]] = [[] for _ in asked]
        for n, own in zip(wanted, found, strict=True):
            answers[n] = own
        return answers

    def _logits(
        self, texts: Sequence[Pieced], questions: Sequence[Question | None]
    ) -> list[Tensor]:
        """Return the logits of each text under its question, (units, labels)."""
        rows: list[tuple[int, Window]] = []
        for n, (text, question) in enumerate(zip(texts, questions, strict=True)):
            words, about = "", None
            if question is not None:
                words, head = question.words(text.text), question.head
                about = None if head is None else text.covering(head.start, head.end)
            rows += [(n, window) for window in self.framing.windows(text, words, about)]
        found = [torch.zeros(len(text.units), len(self.readout.labels)) for text in texts]
        ids = [window.ids for _, window in rows]
        self.tokens += sum(map(len, ids))
        with torch.no_grad():
            for part, states in self.encoder.packs(ids):
                for number, own in zip(part, states, strict=True):
                    n, window = rows[number]
                    asked = own[list(window.places)].float()
                    logits = functional.linear(asked, self._weight, self._bias)
                    found[n][window.first : window.end] = logits.cpu()
        return found


def place_of(frame: Frame) -> tuple[int, int, str, tuple[Span, ...]]:
    """Return what frames are sorted by: where they are, then what they are."""
    spans = [frame.head] if frame.head is not None else list(frame.arguments)
    start = min((span.start for span in spans), default=0)
    end = min((span.end for span in spans), default=0)
    return start, end, frame.label, frame.arguments
