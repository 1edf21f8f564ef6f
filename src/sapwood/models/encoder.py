"""Text features from encoders, and from decoders read as such, packed without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.errors import ConfigError, ModelError
from sapwood.interfaces import Floats
from sapwood.models import attention, decoder
from sapwood.models.layout import Pack, Row, build_pack, split_by_budget
from sapwood.models.prefixes import NO_PREFIX, joined, trained_prefix, virtual_tokens
from sapwood.registry import did_you_mean
from sapwood.tasks.bio import HEAD, TAIL

PACKED = ("bert",)
POOLINGS = ("mean", "first", "markers")
PACK_TOKENS = 2048


class Encoder:
    """A bidirectional encoder: a state for each token of a text, or one vector for all of them.

    `net`: a transformers encoder on its device, weights frozen (methods may be attached). `marks`:
    token ids of what opens and closes the head and the tail of a marked pair; see `pair_marks`.
    """

    kinds: tuple[str, ...] = PACKED  # that are packed

    def __init__(self, net: Any, *, marks: Sequence[Sequence[int]] = ()) -> None:
        self.net, self.marks = net, marks
        self.packed = net.config.model_type in self.kinds
        if self.packed:
            attention.register()
            net.set_attn_implementation(attention.NAME)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.net.device  # type: ignore[no-any-return]

    def check_length(self, rows: Sequence[Sequence[int]]) -> None:
        """Raise ModelError (E-MODEL-030) when a row is longer than the base reads."""
        limit = getattr(self.net.config, "max_position_embeddings", None) or 1 << 62
        limit = limit if limit > 0 else 1 << 62  # XLNet says -1
        before = len(virtual_tokens(self.net))
        if (prefix := trained_prefix(self.net)) is not None:
            before += prefix.tokens
        if (longest := before + max(map(len, rows), default=0)) > limit:
            raise ModelError(
                "E-MODEL-030",
                f"A text has {longest:,} tokens; this base reads at most {limit:,}.",
                fix="shorter texts (--max-length), or a base that reads more",
            )

    def packs(
        self, rows: Sequence[Sequence[int]], *, budget: int = PACK_TOKENS, gradient: bool = False
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Yield (row numbers, the last hidden states of each, (length, hidden)) a pack at a time.

        `rows`: token ids; `budget`: tokens a pack; `gradient`: whether the graph is kept for a
        backward pass. Raises ModelError (E-MODEL-030) for a row that is too long.
        """
        self.check_length(rows)
        for part in split_by_budget([len(ids) for ids in rows], budget):
            with torch.set_grad_enabled(gradient):  # not around the yield: that is the caller's
                states = self._run([rows[n] for n in part])
            yield part, states

    def _run(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the states of rows that run together.

        The one place where rows get what stands before them: token ids go in front of `ids` (and
        their states are cut off below), keys and values into `build_pack`.
        """
        before = virtual_tokens(self.net)
        rows = [[*before, *ids] for ids in rows]
        if not self.packed:
            return [states[len(before) :] for states in self._padded(rows)]
        laid = [Row(ids=ids, wanted=range(len(before), len(ids))) for ids in rows]
        prefix = joined(self.net, NO_PREFIX)
        pack = build_pack(laid, causal=False, device=self.device, **prefix.seat)
        states = self._through(pack)[0, pack.wanted]
        return list(torch.split(states, [len(row.wanted) for row in laid]))

    def _through(self, pack: Pack) -> Tensor:
        """Return the last hidden states of a pack, (1, tokens, hidden)."""
        types = torch.zeros_like(pack.ids)
        found: Tensor = self.net(
            token_type_ids=types, **pack.inputs(self.net.dtype)
        ).last_hidden_state
        return found

    def _padded(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        given = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        out = self.net(**given).last_hidden_state
        return [out[place, : len(row)] for place, row in enumerate(rows)]

    def states(
        self, rows: Sequence[Sequence[int]], *, budget: int = PACK_TOKENS, gradient: bool = False
    ) -> list[Tensor]:
        """Return each row's last hidden states, (length, hidden), in the order given; see packs."""
        found: dict[int, Tensor] = {}
        for part, states in self.packs(rows, budget=budget, gradient=gradient):
            found.update(zip(part, states, strict=True))
        return [found[n] for n in range(len(rows))]

    def features(self, rows: Sequence[Sequence[int]], pooling: str = "mean") -> Floats:
        """Return one vector a row, (rows, width), float32; see `pooled`."""
        out = np.zeros((len(rows), self.width(pooling)), dtype=np.float32)
        for part, states in self.packs(rows):
            out[part] = self.pooled([rows[n] for n in part], states, pooling).cpu().numpy()
        return out

    def width(self, pooling: str) -> int:
        """Return how many numbers a vector of this pooling has."""
        return int(self.net.config.hidden_size) * (1 + 2 * (pooling == "markers"))

    def pooled(
        self, rows: Sequence[Sequence[int]], states: Sequence[Tensor], pooling: str = "mean"
    ) -> Tensor:
        """Return one vector for each of `rows`, whose states these are, (rows, width), float32.

        "markers": the means over the whole text, the head and the tail, one after the other, width
        3 times hidden (R-BERT, Wu and He 2019, arXiv 1905.08284, has [CLS] for the first); where a
        mark was cut off, the whole text stands for its part. The others: see the function `pooled`.
        """
        if pooling != "markers":
            return pooled(states, pooling)
        assert len(self.marks) == 4, "made with the marks of a pair"
        made = []
        for ids, own in zip(rows, states, strict=True):
            parts = [slice(None), *(_between(ids, *self.marks[n : n + 2]) for n in (0, 2))]
            made.append(torch.cat([own[part].float().mean(0) for part in parts]))
        return torch.stack(made)


class Unmasked(Encoder):
    """A decoder read as an encoder: each token sees its whole row, not only what came before it.

    Its frozen weights do not know how; a method trained so soon does, and then tags words better
    than the masked decoder (Li et al. 2023, arXiv 2310.01208). `net`: a causal language model of a
    kind that `decoder.why_padded` has nothing against.
    """

    kinds = decoder.PACKED

    def _through(self, pack: Pack) -> Tensor:
        body = getattr(self.net, self.net.base_model_prefix)
        found: Tensor = body(use_cache=False, **pack.inputs(self.net.dtype)).last_hidden_state
        return found


def pair_marks(tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of the marks that `tasks.bio.mark_pair` sets around head and tail."""
    coded = tokenizer([*HEAD, *TAIL], add_special_tokens=False, verbose=False)
    return tuple(tuple(ids) for ids in coded["input_ids"])


def around_pair(text: str, offsets: Sequence[tuple[int, int]], room: int) -> str:
    """Return the part of a marked text that is worth most in `room` tokens: around the pair.

    `offsets`: (start, end) in characters of its tokens. Where even what lies between the pair is
    longer, its middle is left out. A text without both marks is returned as it is.
    """
    places = [text.find(mark) for mark in (HEAD[0], TAIL[0], HEAD[1], TAIL[1])]
    if min(places) < 0 or len(offsets) <= room:
        return text
    start, end = min(places[:2]), max(places[2] + len(HEAD[1]), places[3] + len(TAIL[1]))
    held = [n for n, (a, b) in enumerate(offsets) if a < end and start < b]
    first, last = held[0], held[-1] + 1
    if last - first > room:
        half = room // 2
        left, right = offsets[first + half - 1][1], offsets[last - half][0]
        return f"{text[offsets[first][0] : left]} {text[right : offsets[last - 1][1]]}"
    before = max(0, min(first - (room - last + first) // 2, len(offsets) - room))
    return text[offsets[before][0] : offsets[before + room - 1][1]]


def _between(ids: Sequence[int], opened: Sequence[int], closed: Sequence[int]) -> slice:
    """Return where the tokens between two marks are; all of them where a mark is missing."""
    start, end = _place(ids, opened), _place(ids, closed)
    first = start + len(opened)
    return slice(first, end) if start >= 0 and first < end else slice(None)


def _place(ids: Sequence[int], mark: Sequence[int]) -> int:
    """Return where `mark` begins in `ids`, or -1."""
    size, wanted = len(mark), list(mark)
    return next((n for n in range(len(ids) - size + 1) if list(ids[n : n + size]) == wanted), -1)


def pooled(states: Sequence[Tensor], pooling: str = "mean") -> Tensor:
    """Return one vector for the states of each row, (rows, hidden), float32.

    `pooling`: "mean" over the tokens, or the "first" token's state, where BERT has its [CLS].
    Raises ConfigError (E-CONFIG-001) for another.
    """
    if pooling == "mean":
        return torch.stack([row.float().mean(0) for row in states])
    if pooling == "first":
        return torch.stack([row[0].float() for row in states])
    raise ConfigError(
        "E-CONFIG-001",
        f"Unknown pooling '{pooling}'.{did_you_mean(pooling, POOLINGS)}",
        fix=f"use one of: {', '.join(POOLINGS)}",
    )
