"""From an adaptation and texts to probabilities, after its golden probe has reproduced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from sapwood.adaptation import Adaptation, classifier, seed
from sapwood.errors import ModelError
from sapwood.evaluation.bases import Bases
from sapwood.evaluation.masked import MaskedReader
from sapwood.evaluation.reader import Extras, Reader
from sapwood.evaluation.text_to_text import TextToTextReader
from sapwood.interfaces import Example, Floats
from sapwood.methods import parts
from sapwood.methods.folder import attach_trained

# Texts read at once: enough rows to fill packs, few enough that progress moves and a stop is quick.
CHUNK = 64
# How far a golden probe may drift: rounding of the number format; on another machine the format
# itself may differ, which moves probabilities by a few hundredths.
_TOLERANCE = {"float32": 2e-3, "bfloat16": 4e-2, "float16": 2e-2}
_OTHER_FORMAT = 0.1


class Predictor:
    """An adaptation over its loaded base. Use as a context manager: leaving detaches the method.

    `stored`: whether its encoded context is looked for on disk, and kept there for the next time.
    Raises ModelError (E-MODEL-050) when the base's weights are not those it was made for.
    """

    def __init__(self, adaptation: Adaptation, bases: Bases, *, stored: bool = False) -> None:
        self.adaptation, self.bases, self.stored = adaptation, bases, stored
        self.tokens = 0
        self._net: Any = None
        self._settings = adaptation.readout.state()[0]
        self.reader: Reader | TextToTextReader | MaskedReader | None = None
        for ref in (adaptation.base, adaptation.embedder):
            if ref is not None:
                bases.expect(ref)

    def __enter__(self) -> Predictor:
        made = self.adaptation
        if made.base is None:
            return self
        if made.method is not None:
            net = self.bases.get(made.base.name).net
            attach_trained(net, made.method, made.weights, where="the adaptation")
            self._net = net
        if self._encodes:
            if made.reads == "scores":
                assert made.context is not None
                self.reader = MaskedReader(self.bases, made.base.name, made.context, made.labels)
            return self
        assert made.context is not None
        if made.base.kind == "text-to-text":
            self.reader = TextToTextReader(self.bases, made.base.name, made.context, made.labels)
            return self
        self.reader = Reader(
            self.bases,
            made.base.name,
            made.context,
            made.labels,
            scope=made.scope,
            scorer="channel" if self._settings.get("scorer") == "channel" else "direct",
            extras=self._extras(made),
        )
        return self

    @property
    def _encodes(self) -> bool:
        """Whether the base is read as an encoder."""
        made = self.adaptation
        return made.unmasked or (made.base is not None and made.base.kind == "encoder")

    def _extras(self, made: Adaptation) -> Extras:
        assert made.base is not None
        seat = None
        if made.prefix is not None:
            seat = seed(made.prefix, self.bases.decoder(made.base.name))
        embedder = made.embedder.name if made.embedder else None
        return Extras(embedder=embedder, seat=seat, facts=made.facts, stored=self.stored)

    def __exit__(self, *exception: object) -> None:
        if self._net is not None:
            parts.detach(self._net)
            self._net = None

    def inputs(self, texts: Sequence[str]) -> Any:
        """Return what the readout reads for `texts`."""
        made = self.adaptation
        if made.base is None:
            return list(texts)
        if self._encodes and self.reader is None:
            assert made.method is None or self._net is not None, "use it in a with block"
            pooling = str(self._settings.get("pooling", "mean"))
            limit = made.max_text_tokens
            return self.bases.embed(made.base.name, texts, pooling=pooling, limit=limit)
        assert self.reader is not None, "use the predictor in a with block"
        if made.reads == "features" and isinstance(self.reader, Reader):
            reading = self.reader.features(texts)
        else:
            normalise = str(self._settings.get("normalise", "vocabulary"))
            reading = self.reader.read(texts, normalise=normalise)
        self.tokens += reading.tokens
        return reading.features if made.reads == "features" else reading.scores

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Return class probabilities, (texts, labels)."""
        found = classifier(self.adaptation).probabilities(self.inputs(texts))
        decision = self.adaptation.decision
        return found if decision is None else decision.apply(found)

    def said(self, rows: Sequence[Example]) -> Floats:
        """Return class probabilities of rows, (rows, labels)."""
        return self.probabilities([row.text for row in rows])

    def stream(self, texts: Sequence[str]) -> Iterator[Floats]:
        """Yield probabilities a chunk of texts at a time, in order."""
        for start in range(0, len(texts), CHUNK):
            yield self.probabilities(texts[start : start + CHUNK])


@contextmanager
def predicting(adaptation: Adaptation, bases: Bases) -> Iterator[Predictor]:
    """Yield a ready predictor after its golden probe has reproduced; detach at the end."""
    with Predictor(adaptation, bases, stored=True) as predictor:
        check_golden(predictor)
        yield predictor


def check_golden(predictor: Predictor) -> None:
    """Raise ModelError (E-MODEL-051) when the recorded inputs no longer give what they gave."""
    made = predictor.adaptation
    if not made.golden.texts:
        return
    recorded = made.base.dtype if made.base else "float32"
    here = predictor.bases.runtime.dtype
    bound = _TOLERANCE.get(recorded, 2e-3)
    if made.base is not None and here != recorded:
        bound = _OTHER_FORMAT
    found = predictor.probabilities(made.golden.texts)
    drift = float(np.abs(found - np.array(made.golden.probabilities)).max())
    if not drift <= bound:
        raise ModelError(
            "E-MODEL-051",
            f"This adaptation does not reproduce its golden probe: a probability moved by "
            f"{drift:.3f}, {bound:.3f} is allowed.",
            fix="check the versions in its evidence; adapt again if the base changed",
        )
