"""Text features from encoders of the BERT kind, packed without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.interfaces import Floats
from sapwood.models import attention
from sapwood.models.layout import Row, build_pack, split_by_budget

PACKED = ("bert",)


class Encoder:
    """A bidirectional encoder that turns texts into one vector each (mean over tokens)."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.packed = net.config.model_type in PACKED
        if self.packed:
            attention.register()
            net.set_attn_implementation(attention.NAME)

    def states(self, rows: Sequence[Sequence[int]], *, budget: int = 2048) -> list[Tensor]:
        """Return each row's last hidden states, (length, hidden), in the order given."""
        found: dict[int, Tensor] = {}
        for part in split_by_budget([len(ids) for ids in rows], budget):
            if self.packed:
                chosen = [Row(ids=rows[n], wanted=range(len(rows[n]))) for n in part]
                pack = build_pack(chosen, causal=False, device=self.net.device)
                out = self.net(
                    input_ids=pack.ids,
                    attention_mask=torch.zeros(1, 1, 1, 1, dtype=self.net.dtype).to(
                        self.net.device
                    ),
                    token_type_ids=torch.zeros_like(pack.ids),
                    position_ids=pack.layout.positions[None],
                    pack=pack.layout,
                ).last_hidden_state[0, pack.wanted]
                pieces = out.split([len(rows[n]) for n in part])
                found.update(zip(part, pieces, strict=True))
            else:
                found.update(self._padded(rows, part))
        return [found[n] for n in range(len(rows))]

    def _padded(self, rows: Sequence[Sequence[int]], part: Sequence[int]) -> dict[int, Tensor]:
        width = max(len(rows[n]) for n in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, n in enumerate(part):
            ids[place, : len(rows[n])] = torch.tensor(rows[n])
            mask[place, : len(rows[n])] = 1
        device = self.net.device
        out = self.net(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        return {n: out[place, : len(rows[n])] for place, n in enumerate(part)}

    @torch.no_grad()
    def features(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Return the mean hidden state of each row, (rows, hidden), float32."""
        return np.stack([s.float().mean(0).cpu().numpy() for s in self.states(rows)])
