"""What an objective must know of a tokenizer: how many ids there are, and which are special."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ConfigError
from sapwood.interfaces import Integers

# Sentinels of span corruption as T5 names them; the first that a text uses is number 0.
_SENTINEL = re.compile(r"<extra_id_(\d+)>")
# (prefix, suffix, middle) as StarCoder, Qwen Coder, Code Llama and SantaCoder spell them.
_MIDDLES = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<PRE>", "<SUF>", "<MID>"),
)
# (regular, extreme, sequential denoising) as UL2's own checkpoints spell them, and by its letters.
_MODES = (("[NLU]", "[NLG]", "[S2S]"), ("[R]", "[X]", "[S]"), ("<R>", "<X>", "<S>"))


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Ids of a tokenizer's special tokens; None or () where it has no such token.

    `size`: ids run from 0 to size - 1; `sentinels`: of span corruption, in order of use; `prefix`,
    `suffix`, `middle`: of filling in the middle; `modes`: UL2's tokens for its regular, extreme and
    sequential denoisers, all three or none; `specials`: every special id, with all of the above.
    """

    size: int
    pad: int | None = None
    unk: int | None = None
    bos: int | None = None
    eos: int | None = None
    cls: int | None = None
    sep: int | None = None
    mask: int | None = None
    sentinels: tuple[int, ...] = ()
    prefix: int | None = None
    suffix: int | None = None
    middle: int | None = None
    modes: tuple[int, ...] = ()
    specials: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        single = (self.pad, self.unk, self.bos, self.eos, self.cls, self.sep, self.mask)
        middles = (self.prefix, self.suffix, self.middle)
        named = {i for i in (*single, *middles) if i is not None}
        every = named | set(self.sentinels) | set(self.modes) | self.specials
        problems = [f"id {i} is outside 0 to {self.size - 1}" for i in every if not self.holds(i)]
        if len(self.modes) not in (0, 3):
            problems.append(f"there are three modes or none, not {len(self.modes)}")
        if len(every) >= self.size:
            problems.append(f"all {self.size} ids are special; none is left for text")
        if problems:
            raise ConfigError(
                "E-CONFIG-200",
                "The vocabulary is wrong.",
                details=problems,
                fix="make it from a tokenizer: Vocabulary.of(tokenizer)",
            )
        object.__setattr__(self, "specials", frozenset(every))

    def holds(self, number: int) -> bool:
        """Tell whether `number` is an id."""
        return 0 <= number < self.size

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """Return what a transformers tokenizer has; names of sentinels and the like are known.

        Sentinels: `<extra_id_N>`; filling in the middle: the tokens of StarCoder, Qwen Coder, Code
        Llama and SantaCoder; modes: `[NLU]`, `[NLG]`, `[S2S]` or `[R]`, `[X]`, `[S]`.
        """
        ids: dict[str, int] = tokenizer.get_vocab()
        numbered = [(int(m[1]), i) for t, i in ids.items() if (m := _SENTINEL.fullmatch(t))]
        middles = next((m for m in _MIDDLES if all(t in ids for t in m)), ())
        modes = next((m for m in _MODES if all(t in ids for t in m)), ())
        prefix, suffix, middle = (ids[t] for t in middles) if middles else (None, None, None)
        return cls(
            size=max(len(tokenizer), max(ids.values(), default=0) + 1),
            pad=tokenizer.pad_token_id,
            unk=tokenizer.unk_token_id,
            bos=tokenizer.bos_token_id,
            eos=tokenizer.eos_token_id,
            cls=tokenizer.cls_token_id,
            sep=tokenizer.sep_token_id,
            mask=tokenizer.mask_token_id,
            sentinels=tuple(i for _, i in sorted(numbered)),
            prefix=prefix,
            suffix=suffix,
            middle=middle,
            modes=tuple(ids[t] for t in modes),
            specials=frozenset(tokenizer.all_special_ids),
        )

    @property
    def first(self) -> int | None:
        """Return what an encoder's text begins with: cls, else bos."""
        return self.bos if self.cls is None else self.cls

    @property
    def separator(self) -> int | None:
        """Return what an encoder's text ends with: sep, else eos."""
        return self.eos if self.sep is None else self.sep

    @property
    def opening(self) -> int | None:
        """Return what stands before a decoder's document: bos, else eos."""
        return self.eos if self.bos is None else self.bos

    @cached_property
    def special(self) -> NDArray[np.bool_]:
        """Return a table (size,), True at special ids."""
        table = np.zeros(self.size, dtype=np.bool_)
        table[sorted(self.specials)] = True
        return table

    @cached_property
    def ordinary(self) -> Integers:
        """Return the ids that are not special, ascending, int64."""
        return np.flatnonzero(~self.special)

    def require(self, objective: str, names: Sequence[str]) -> None:
        """Check that the named tokens are there.

        Raises ConfigError (E-CONFIG-201) that lists every one that is missing.
        """
        missing = [name for name in names if getattr(self, name) in (None, ())]
        if missing:
            words = [f"no {_WORDS.get(name, name + ' token')}" for name in missing]
            raise ConfigError(
                "E-CONFIG-201",
                f"The tokenizer cannot serve the objective '{objective}'.",
                details=words,
                fix="take a tokenizer that was made for this objective, or add these tokens to it",
            )


_WORDS = {
    "sentinels": "sentinels (<extra_id_0>, <extra_id_1>, ...)",
    "prefix": "token in front of a prefix (<fim_prefix>)",
    "suffix": "token in front of a suffix (<fim_suffix>)",
    "middle": "token in front of a middle (<fim_middle>)",
    "first": "cls or bos token",
    "separator": "sep or eos token",
    "opening": "bos or eos token",
}
