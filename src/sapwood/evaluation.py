"""From an adaptation and texts to probabilities and scores, with the cost measured on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sapwood.adaptation import Adaptation, BaseRef
from sapwood.context.prompter import Context, Prompter
from sapwood.context.select import SELECTORS
from sapwood.errors import ModelError
from sapwood.interfaces import Floats
from sapwood.launch import Runtime
from sapwood.methods import lora
from sapwood.models.decoder import Decoder, Prefix
from sapwood.models.encoder import Encoder
from sapwood.models.labels import LabelHead
from sapwood.models.load import Base, load_base
from sapwood.models.store import BASES
from sapwood.models.trie import LabelTrie, build_trie
from sapwood.registry import resolve

# Texts read at once: enough rows to fill packs, few enough that progress moves and a stop is quick.
CHUNK = 64
# How far a golden probe may drift: rounding of the number format; on another machine the format
# itself may differ, which moves probabilities by a few hundredths.
_TOLERANCE = {"float32": 2e-3, "bfloat16": 4e-2, "float16": 2e-2}
_OTHER_FORMAT = 0.1


class Bases:
    """The bases of this process, each loaded once."""

    def __init__(self, runtime: Runtime, *, trust_remote_code: str = "") -> None:
        self.runtime = runtime
        self.trust_remote_code = trust_remote_code
        self._loaded: dict[str, Base] = {}
        self._decoders: dict[str, Decoder] = {}
        self._encoders: dict[str, Encoder] = {}

    def get(self, name: str) -> Base:
        """Return the base called `name`, loading it at the first call."""
        if name not in self._loaded:
            self._loaded[name] = load_base(
                name, self.runtime, trust_remote_code=self.trust_remote_code
            )
        return self._loaded[name]

    def decoder(self, name: str) -> Decoder:
        """Return the packed decoder over a base."""
        if name not in self._decoders:
            net = self.get(name).net
            self._decoders[name] = Decoder(net, weights_key=lambda: lora.weights_key(net))
        return self._decoders[name]

    def embed(self, name: str, texts: Sequence[str]) -> Floats:
        """Return one vector for each text from an encoder, (texts, hidden)."""
        base = self.get(name)
        if name not in self._encoders:
            self._encoders[name] = Encoder(base.net)
        coded = base.tokenizer(
            list(texts), truncation=True, max_length=min(base.max_length, 512), verbose=False
        )
        return self._encoders[name].features([list(ids) for ids in coded["input_ids"]])

    def reference(self, name: str) -> BaseRef:
        """Return what an adaptation records of a base."""
        base = self.get(name)
        return BaseRef(
            name=_lasting(name),
            sha256=base.sha256,
            kind=base.kind,
            licence=base.licence,
            upstream=base.upstream,
            dtype=base.runtime.dtype,
        )


def _lasting(name: str) -> str:
    """Return a name that is found from any folder: local paths are made absolute."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in BASES and path.exists() else name


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a base gave for texts: `features` (texts, hidden) and, from decoders, `scores`
    (texts, labels); `tokens` and `seconds` are what the texts cost, the context not counted.
    """

    features: Floats
    scores: Floats
    tokens: int
    seconds: float


class Reader:
    """Prompt a decoder under one context and read features and label scores in one pass.

    With `scope` "suffix" the context is encoded by the plain base, an attached method acts on the
    queries only.
    """

    def __init__(
        self,
        bases: Bases,
        name: str,
        context: Context,
        labels: Sequence[str],
        *,
        embedder: str | None = None,
        scope: str = "all",
    ) -> None:
        self.decoder = bases.decoder(name)
        self.bases, self.embedder, self.context, self.labels = bases, embedder, context, labels
        self.scope = scope
        self.prompter = Prompter(bases.get(name).tokenizer, context)
        self.trie: LabelTrie = build_trie(self.prompter.labels(labels))
        self._pool: Floats | None = None

    def prefix(self) -> Prefix:
        """Return the encoded context that all queries share."""
        if self.scope == "suffix":
            with lora.disabled(self.decoder.net):
                return self.decoder.encode(self.prompter.prefix)
        return self.decoder.encode(self.prompter.prefix)

    def prompts(self, texts: Sequence[str]) -> tuple[list[list[int]], Prefix]:
        """Return the token ids of each query and the prefix they follow."""
        if not self.context.per_query:
            rest = self.prompter.rest(texts)  # first, because it may shorten the prefix
            return rest, self.prefix()
        pool = self.context.demonstrations
        embeddings = queries = None
        if self.embedder is not None:
            if self._pool is None:
                self._pool = self.bases.embed(self.embedder, [d.text for d in pool])
            embeddings, queries = self._pool, self.bases.embed(self.embedder, texts)
        chosen = resolve("selector", SELECTORS, self.context.selection)().select(
            pool, texts, self.context.shots, 0, labels=self.labels,
            embeddings=embeddings, query_embeddings=queries,
        )  # fmt: skip
        whole = [
            self.prompter.whole(text, [pool[n] for n in numbers])
            for text, numbers in zip(texts, chosen, strict=True)
        ]
        return whole, Prefix()

    def read(self, texts: Sequence[str], *, normalise: str = "vocabulary") -> Reading:
        """Return features and scores of `texts`. See `Decoder.label_scores` for `normalise`."""
        prompts, prefix = self.prompts(texts)
        started, before = time.perf_counter(), self.decoder.tokens_run
        rows = [self.trie.row(prompt) for prompt in prompts]
        nodes, head = len(self.trie.tokens), LabelHead(self.decoder.net, self.trie)
        features = np.zeros((len(rows), self.decoder.net.config.hidden_size), dtype=np.float32)
        scores = np.zeros((len(rows), len(self.labels)))
        for owners, states in self.decoder.hidden(rows, prefix):
            numbers = owners.view(-1, nodes)[:, 0].numpy()
            grouped = states.view(-1, nodes, states.shape[-1])
            features[numbers] = grouped[:, 0].float().cpu().numpy()
            with torch.no_grad():
                part = head.scores(grouped, normalise)
            scores[numbers] = part.double().cpu().numpy()
        return Reading(
            features=features,
            scores=scores,
            tokens=self.decoder.tokens_run - before,
            seconds=time.perf_counter() - started,
        )


class Predictor:
    """An adaptation over its loaded base. Use as a context manager: leaving detaches the method.

    Raises ModelError (E-MODEL-050) when the base's weights are not those it was made for.
    """

    def __init__(self, adaptation: Adaptation, bases: Bases) -> None:
        self.adaptation, self.bases = adaptation, bases
        self.tokens = 0
        self._net: Any = None
        self._reader: Reader | None = None
        for ref in (adaptation.base, adaptation.embedder):
            found = bases.get(ref.name).sha256 if ref is not None else ""
            if ref is not None and found != ref.sha256:
                raise ModelError(
                    "E-MODEL-050",
                    f"The base '{ref.name}' here is not the one this adaptation was made for.",
                    details=[f"expected weights {ref.sha256[:16]}, found {found[:16]}"],
                    fix="load it with its own base, or adapt this one",
                )

    def __enter__(self) -> Predictor:
        made = self.adaptation
        if made.base is None or made.base.kind == "encoder":
            return self
        if made.method is not None:
            self._net = self.bases.get(made.base.name).net
            attach_weights(self._net, made)
        assert made.context is not None
        self._reader = Reader(
            self.bases,
            made.base.name,
            made.context,
            made.labels,
            embedder=made.embedder.name if made.embedder else None,
            scope=made.scope,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._net is not None:
            lora.detach(self._net)
            self._net = None

    def inputs(self, texts: Sequence[str]) -> Any:
        """Return what the readout reads for `texts`."""
        made = self.adaptation
        if made.base is None:
            return list(texts)
        if made.base.kind == "encoder":
            return self.bases.embed(made.base.name, texts)
        assert self._reader is not None, "use the predictor in a with block"
        normalise = "vocabulary"
        if made.reads == "scores":
            normalise = str(made.readout.state()[0]["normalise"])
        reading = self._reader.read(texts, normalise=normalise)
        self.tokens += reading.tokens
        return reading.features if made.reads == "features" else reading.scores

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Return class probabilities, (texts, labels)."""
        return self.adaptation.readout.probabilities(self.inputs(texts))

    def stream(self, texts: Sequence[str]) -> Iterator[Floats]:
        """Yield probabilities a chunk of texts at a time, in order."""
        for start in range(0, len(texts), CHUNK):
            yield self.probabilities(texts[start : start + CHUNK])


def attach_weights(net: Any, made: Adaptation) -> None:
    """Attach a saved method to `net`; raises ModelError when a tensor does not map."""
    assert made.method is not None
    made.method.attach(net)
    own = lora.weights(net)
    given = {name.removeprefix("base_model.model."): t for name, t in made.weights.items()}
    wrong = sorted(set(own) ^ set(given))
    wrong += [n for n in set(own) & set(given) if own[n].shape != given[n].shape]
    if wrong:
        lora.detach(net)
        raise ModelError(
            "E-MODEL-023",
            f"{len(wrong)} tensors of the method do not map onto the base.",
            details=wrong[:8],
            fix="load it with the base it was trained on",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])


@contextmanager
def predicting(adaptation: Adaptation, bases: Bases) -> Iterator[Predictor]:
    """Yield a ready predictor after its golden probe has reproduced; detach at the end."""
    with Predictor(adaptation, bases) as predictor:
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
