"""The bases of one process, each loaded once, with the decoder or encoder over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sapwood.adaptation import BaseRef
from sapwood.config import home
from sapwood.errors import ModelError
from sapwood.interfaces import Floats
from sapwood.launch import Runtime
from sapwood.methods import parts
from sapwood.models.decoder import Decoder
from sapwood.models.encoder import Encoder, Unmasked, around_pair, pair_marks
from sapwood.models.load import Base, load_base
from sapwood.models.store import BASES
from sapwood.models.stored import ContextStore
from sapwood.tasks.bio import HEAD, TAIL

# Encoded contexts that later processes open instead of encoding them again: a context of 1,000
# tokens takes 23 MB for SmolLM2-135M in bfloat16, so a hundred of them or so; the oldest go first.
STORE_BYTES = 4 << 30
SLACK = 4  # tokens: a text that is cut may be one or two longer, where words are parted


class Bases:
    """The bases of this process, each loaded once."""

    def __init__(self, runtime: Runtime, *, trust_remote_code: str = "") -> None:
        self.runtime = runtime
        self.trust_remote_code = trust_remote_code
        self._loaded: dict[str, Base] = {}
        self._formats: dict[str, str] = {}  # of the weights, where an adaptation says it
        self._decoders: dict[str, Decoder] = {}
        self._encoders: dict[str, Encoder] = {}

    def get(self, name: str) -> Base:
        """Return the base called `name`, loading it at the first call."""
        if name not in self._loaded:
            runtime = replace(self.runtime, weights=self._formats.get(name, self.runtime.weights))
            self._loaded[name] = load_base(name, runtime, trust_remote_code=self.trust_remote_code)
        return self._loaded[name]

    def expect(self, ref: BaseRef) -> Base:
        """Return the base that `ref` names; ModelError (E-MODEL-050) if its weights are others."""
        if ref.weights:
            self._formats.setdefault(ref.name, ref.weights)
        base = self.get(ref.name)
        if base.sha256 != ref.sha256:
            raise ModelError(
                "E-MODEL-050",
                f"The base '{ref.name}' here is not the one this adaptation was made for.",
                details=[f"expected weights {ref.sha256[:16]}, found {base.sha256[:16]}"],
                fix="load it with its own base, or adapt this one",
            )
        return base

    def decoder(self, name: str) -> Decoder:
        """Return the packed decoder over a base."""
        if name not in self._decoders:
            base = self.get(name)
            self._decoders[name] = Decoder(
                base.net,
                weights_key=lambda: f"{base.sha256} {parts.weights_key(base.net)}",
                store=ContextStore(home() / "contexts", STORE_BYTES),
            )
        return self._decoders[name]

    def forget(self) -> None:
        """Drop what decoders keep in memory of contexts: no result depends on what ran before."""
        for decoder in self._decoders.values():
            decoder.forget()

    def encoder(self, name: str) -> Encoder:
        """Return the packed encoder over a base, which may be a decoder: see `Unmasked`."""
        if name not in self._encoders:
            base = self.get(name)
            kind = Unmasked if base.kind == "decoder" else Encoder
            self._encoders[name] = kind(base.net, marks=pair_marks(base.tokenizer))
        return self._encoders[name]

    def tokens(
        self, name: str, texts: Sequence[str], *, limit: int | None = None
    ) -> list[list[int]]:
        """Return the token ids of texts as an encoder reads them, cut to what it reads at most.

        `limit`: the most tokens of one text; special tokens come on top of it. A text with a marked
        pair is cut around the pair, others at their end.
        """
        base = self.get(name)
        most, around = min(base.max_length, 512), base.tokenizer.num_special_tokens_to_add()
        if limit is not None:
            most = min(most, limit + around)
        whole = [self._paired(base, text, most - around) for text in texts]
        coded = base.tokenizer(whole, truncation=True, max_length=most, verbose=False)
        return [list(ids) for ids in coded["input_ids"]]

    def _paired(self, base: Base, text: str, room: int) -> str:
        """Return a text, one with a marked pair cut to `room` tokens around it."""
        marked = HEAD[1] in text and TAIL[1] in text
        if not marked or not base.tokenizer.is_fast or len(text.encode()) <= room:
            return text
        coded = base.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return around_pair(text, coded["offset_mapping"], room - SLACK)

    def embed(
        self, name: str, texts: Sequence[str], *, pooling: str = "mean", limit: int | None = None
    ) -> Floats:
        """Return one vector for each text from an encoder, (texts, hidden); `limit`: see tokens."""
        return self.encoder(name).features(self.tokens(name, texts, limit=limit), pooling)

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
            weights=base.runtime.weights,
        )


def _lasting(name: str) -> str:
    """Return a name that is found from any folder: local paths are made absolute."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in BASES and path.exists() else name
