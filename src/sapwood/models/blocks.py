"""Demonstrations encoded alone: parallel context windows (Ratner et al. 2023, arXiv 2212.10947).

Every block sees the shared head (the instruction) and itself; queries see the head and all blocks.
Blocks all start at the position after the head, queries after the longest block, so a base reads
more demonstrations than its window holds. Encoding costs no attention between demonstrations, one
more demonstration costs one block, and blocks found before are not encoded again. Bertsch et al.
2025 (arXiv 2405.00200) find that many demonstrations need little attention to each other; with a
small base the loss is real, so such a prefix says `exact=False`, and its use is to be measured.

Layers with a sliding window see by position, as everywhere: a token of a block is visible while
the query is less than a window past it, so all blocks are visible where an exact context would
show its end only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sapwood.errors import ModelError
from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix
from sapwood.models.layout import Row
from sapwood.models.past import KeysValues

# Blocks of one head kept in memory; beyond it they are forgotten but for those being asked for.
_POOL_BYTES = 1 << 30


class Blocks:
    """Encoder of blocks of tokens after one `head`, each encoded once and kept by content.

    Raises ModelError (E-MODEL-033) for bases that cannot be packed.
    """

    def __init__(
        self, decoder: Decoder, head: Sequence[int] = (), *, limit: int = _POOL_BYTES
    ) -> None:
        if decoder.why_padded:
            raise ModelError(
                "E-MODEL-033",
                f"This base cannot encode demonstrations in blocks: {decoder.why_padded}.",
                fix="encode the context whole (exact), or choose a Llama, Qwen, Gemma 3 or GPT-2 "
                "kind",
            )
        self.decoder, self.head, self.limit = decoder, tuple(head), limit
        self._identity = ""
        self._head = NO_PREFIX
        self._places: dict[tuple[int, ...], int] = {}  # where a block starts in the pool
        self._pool: list[KeysValues] = []  # the head, then blocks: (1, key heads, room, size)
        self._used = 0

    def prefix(self, blocks: Sequence[Sequence[int]]) -> Prefix:
        """Return the head and `blocks` as one approximate prefix, encoding blocks that are new.

        With the same order as at the first call nothing is copied. Raises ModelError (E-MODEL-030)
        when the longest block does not fit the base.
        """
        wanted = [tuple(block) for block in blocks if len(block)]
        self._start_over_if_changed()
        missing = [block for block in dict.fromkeys(wanted) if block not in self._places]
        if not wanted:
            return self._head
        if missing and self._bytes(self._used + sum(map(len, missing))) > self.limit:
            self._forget()
            missing = list(dict.fromkeys(wanted))
        self._encode(missing)
        own = [range(self._places[block], self._places[block] + len(block)) for block in wanted]
        places = torch.tensor([*range(len(self.head)), *(p for span in own for p in span)])
        ends = len(self.head)
        at = [*range(ends), *(ends + step for block in wanted for step in range(len(block)))]
        return Prefix(
            ids=(*self.head, *(token for block in wanted for token in block)),
            layers=tuple(_chosen(pair, places) for pair in self._pool),
            exact=False,
            positions=torch.tensor(at, device=self.decoder.device),
            start=ends + max(map(len, wanted)),
        )

    def _start_over_if_changed(self) -> None:
        identity = self.decoder.identity()
        if identity != self._identity or not self._places:
            self._identity = identity
            self._forget()

    def _forget(self) -> None:
        """Keep the head alone. Prefixes handed out before stay as they are."""
        self._head = self.decoder.encode(self.head)
        self._places, self._used = {}, len(self.head)
        self._pool = [(key, value) for key, value in self._head.layers]

    def _bytes(self, tokens: int) -> int:
        return tokens * sum(x.element_size() * x[0, :, 0].numel() for p in self._pool for x in p)

    def _encode(self, blocks: Sequence[tuple[int, ...]]) -> None:
        """Run blocks side by side after the head and append them to the pool."""
        self.decoder.check_length([len(block) for block in blocks], len(self.head))
        end = self._used + sum(map(len, blocks))
        for block in blocks:
            self._places[block] = self._used
            self._used += len(block)
        for part in self.decoder.capture([Row(ids=block) for block in blocks], self._head):
            self._make_room(end, part.layers)
            spans = [
                (start, self._places[blocks[number]], len(blocks[number]))
                for number, start in zip(part.numbers, part.starts, strict=True)
            ]  # rows fill a pack from its beginning, in the order of their starts
            to = [at + step for _, at, length in sorted(spans) for step in range(length)]
            places = torch.tensor(to, device=self.decoder.device)
            for room, new in zip(self._pool, part.layers, strict=True):
                for kept, given in zip(room, new, strict=True):
                    kept.index_copy_(2, places, given)

    def _make_room(self, tokens: int, shapes: Sequence[KeysValues]) -> None:
        """Let the pool hold so many tokens; room doubles, so that appending one is cheap."""
        old = self._pool or [(key[:, :, :0], value[:, :, :0]) for key, value in shapes]
        held = old[0][0].shape[2]
        if held >= tokens:
            return
        room = tokens if held <= len(self.head) else max(tokens, 2 * held)
        self._pool = []
        for pair in old:
            new = tuple(x.new_empty(1, x.shape[1], room, x.shape[3]) for x in pair)
            for to, given in zip(new, pair, strict=True):
                to[:, :, :held] = given
            self._pool.append((new[0], new[1]))


def _chosen(pair: KeysValues, places: Tensor) -> KeysValues:
    """Return the tokens at `places` of the pool, without a copy where they are its beginning."""
    if bool((places == torch.arange(len(places))).all()):
        return pair[0][:, :, : len(places)], pair[1][:, :, : len(places)]
    where = places.to(pair[0].device)
    return pair[0].index_select(2, where), pair[1].index_select(2, where)
