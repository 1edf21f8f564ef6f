"""Rows of a pack that begin alike: the tokens that all of them begin with, computed once.

Behind a trained prefix nothing before the rows can be kept, and an instruction or a template's
first words stand in every row. They are a prefix of their own within the pack, which sees the
trained one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sapwood.models.layout import Group, Pack


def beginning_once(pack: Pack) -> Pack:
    """Return the same rows with the tokens that all of them begin with as the pack's shared part.

    Every row keeps a token of its own at least. `wanted` and `owners` mean the same tokens as
    before; in `rows` the shared part belongs to nobody, and `starts` says where a row goes on
    behind it. A pack of one row, or of rows that begin differently, is returned as it is.
    """
    length = _alike(pack)
    if not length or len(pack.starts) < 2:
        return pack
    layout = pack.layout
    firsts = torch.cat([group.index[:, :length] for group in layout.groups])  # (rows, length)
    own = torch.ones_like(layout.positions, dtype=torch.bool)
    own[firsts] = False
    place = own.cumsum(0) + (length - 1)  # (tokens,): where each is from now on
    steps = torch.arange(length, device=place.device)
    place[firsts] = steps.expand_as(firsts)
    kept = torch.cat((firsts[0], own.nonzero().flatten()))
    shared = Group(index=steps[None], valid=torch.ones_like(steps, dtype=torch.bool)[None])
    rests = [
        Group(
            index=place[group.index[:, length:]],
            valid=group.valid[:, length:],
            visible=None if group.visible is None else group.visible[:, length:, length:],
        )
        for group in layout.groups
    ]
    rows = pack.rows
    if rows is not None:
        rows = rows[kept].index_fill(0, steps, -1)
    return replace(
        pack,
        ids=pack.ids[:, kept],
        layout=replace(
            layout, groups=(shared, *rests), positions=layout.positions[kept], shared=length
        ),
        wanted=place[pack.wanted],
        starts=tuple(int(place[start + length]) for start in pack.starts),
        rows=rows,
    )


def _alike(pack: Pack) -> int:
    """Return how many tokens all rows begin with, as one chain that the rest of each row sees."""
    groups = pack.layout.groups
    shortest = min(int(group.valid.sum(1).min()) for group in groups)
    model = pack.ids[0, groups[0].index[0]]
    alike = torch.ones(shortest - 1, dtype=torch.bool, device=model.device)
    for group in groups:
        tokens = pack.ids[0, group.index[:, : shortest - 1]]
        alike &= (tokens == model[: shortest - 1]).all(0) & _in_chain(group)[: shortest - 1]
    return int(alike.long().cumprod(0).sum())


def _in_chain(group: Group) -> Tensor:
    """Return for each step of a group whether every later token of its row sees it, (length,)."""
    length = group.index.shape[1]
    if group.visible is None:
        return torch.ones(length, dtype=torch.bool, device=group.index.device)
    earlier = torch.ones(length, length, dtype=torch.bool, device=group.index.device).triu(1)
    return (group.visible | ~group.valid[:, :, None] | earlier).all(0).all(0)
