"""Binary files of KenLM (Heafield 2011), queried through its own library.

They hold tables that are ready to be mapped into memory, but words only as hashes: such a model
scores texts and cannot write any. Our own tables score some two times as many tokens a second from
Python; this is for models that exist in no other form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sapwood.errors import ModelError, ResourceError
from sapwood.interfaces import Floats
from sapwood.models.arpa import LN10
from sapwood.models.choosing import Sampling
from sapwood.models.nats import bits_a_byte

MAGIC = b"mmap lm http://kheafield.com/code format version"


def is_kenlm(path: Path) -> bool:
    """Tell whether a file is a binary of KenLM."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True)
class KenLanguage:
    """A binary of KenLM; `tokenizer`: parts texts into its words, None for spaces."""

    name: str
    judge: Any
    tokenizer: Any = None
    family: str = "n-gram"

    def scored(self, texts: Sequence[str]) -> list[Floats]:
        """Return minus log p of each word of each text, its end included, in nats."""
        return [np.array([-log * LN10 for log, _, _ in self._scores(text)]) for text in texts]

    def bits_per_byte(self, texts: Sequence[str]) -> float:
        """Return the bits a byte of all texts together."""
        return bits_a_byte(self.scored(texts), texts)

    def unknown(self, texts: Sequence[str]) -> int:
        """Return how many words of the texts the model does not know."""
        return sum(new for text in texts for _, _, new in self._scores(text))

    def written(self, prompts: Sequence[str], sampling: Sampling) -> list[list[str]]:
        """Raise ModelError (E-MODEL-177): its words cannot be listed."""
        raise ModelError(
            "E-MODEL-177",
            f"{self.name} cannot write: a binary of KenLM holds its words as hashes only.",
            fix="name the .arpa file it was made from",
        )

    def streamed(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """Raise what `written` raises."""
        yield self.written([prompt], sampling)[0][0]

    def _scores(self, text: str) -> Iterator[tuple[float, int, bool]]:
        """Yield (log10 p, length of the n-gram, whether the word is unknown)."""
        words = text.split() if self.tokenizer is None else self.tokenizer.tokenize(text)
        yield from self.judge.full_scores(" ".join(words))


def open_kenlm(path: Path) -> KenLanguage:
    """Open a binary; a tokenizer that lies in its folder parts texts into its words.

    Raises ResourceError (E-RESOURCE-050) without the extra, ModelError (E-MODEL-178) where the file
    cannot be read.
    """
    try:
        kenlm: Any = import_module("kenlm")
    except ImportError:
        raise ResourceError(
            "E-RESOURCE-050",
            f"{path} is a binary of KenLM, which needs the package kenlm (it is compiled here).",
            fix="pip install 'sapwood[ngram]'",
        ) from None
    try:
        judge = kenlm.Model(str(path))
    except (OSError, RuntimeError) as error:
        raise ModelError(
            "E-MODEL-178", f"{path} cannot be read by KenLM: {str(error).splitlines()[0]}",
            fix="build the binary again with build_binary of this machine",
        ) from error  # fmt: skip
    tokenizer: Any = None
    if (path.parent / "tokenizer.json").is_file():
        from sapwood.models.ngram import tokenizer_in

        tokenizer = tokenizer_in(path.parent)
    return KenLanguage(name=str(path), judge=judge, tokenizer=tokenizer)
