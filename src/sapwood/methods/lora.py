"""LoRA: trained low-rank branches beside frozen layers (Hu et al. 2022, arXiv 2106.09685).

With rsLoRA's scale (arXiv 2312.03732), LoRA+'s faster B (arXiv 2402.12354), and three ways to
begin: plain, PiSSA (arXiv 2404.02948) and EVA (arXiv 2410.07170).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sapwood.errors import ConfigError
from sapwood.methods.depth import within
from sapwood.methods.low_rank import LowRank
from sapwood.methods.parts import Method, Part, detach, parts
from sapwood.methods.places import ALL_LINEAR, Place, find, pattern

STARTS = ("plain", "pissa", "eva")


@dataclass(frozen=True, kw_only=True)
class Lora(Method):
    """LoRA's whole configuration.

    `rank` >= 1; `alpha` > 0: the branch is scaled by alpha / rank (by alpha / sqrt(rank) with
    `rslora`); `dropout` in [0, 1) on the branch's input; `targets`: see `places`; `rank_pattern`,
    `alpha_pattern`: other values for single module paths; `plus` >= 1: B learns so many times
    faster than A (LoRA+ recommends 16 for large nets); `start`: "plain" (B is zero), "pissa" (the
    principal part of the base's weight trains) or "eva" (A from the inputs, see
    `start_from_inputs`). Whatever the start, the output does not change at first. `rho` >= 1, for
    "eva": ranks move between layers, none above `rho` times its own, their sum stays. `layers`: the
    numbers of the blocks to train, from 0, all if empty; below the first nothing has a gradient.
    """

    name: ClassVar[str] = "lora"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL_LINEAR,)
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    plus: float = 1.0
    start: str = "plain"
    rho: float = 1.0
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        others = pattern_problems(self.rank_pattern, self.alpha_pattern)
        if self.plus < 1:
            others.append(f"plus must be 1 or more, got {self.plus}")
        if self.start not in STARTS:
            others.append(f"start must be one of {', '.join(STARTS)}, got '{self.start}'")
        if self.rho < 1:
            others.append(f"rho must be 1 or more, got {self.rho}")
        elif self.rho > 1 and self.start != "eva":
            others.append("rho moves ranks by what inputs show: it needs start=eva")
        check_low_rank("LoRA", self.rank, self.alpha, self.dropout, others)

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """Freeze `net`, wrap its target layers in place and return it.

        The branches start from `seed` alone, whatever the state of torch's generator. Raises
        ConfigError (E-CONFIG-021) naming every target that matches no layer.
        """

        def branch(place: Place) -> LoraLayer:
            rank = int(pattern(self.rank_pattern, place.path, self.rank))
            alpha = float(pattern(self.alpha_pattern, place.path, self.alpha))
            scale = alpha / (rank**0.5 if self.rslora else rank)
            layer: Any = place.module
            made = LoraLayer(layer, rank=rank, scale=scale, dropout=self.dropout)
            made.power = 0.5 if self.rslora else 1.0
            made.by_inputs = self.rho if self.start == "eva" else 0.0
            if self.start == "pissa":
                made.start_from_weight()
            return made

        return attach_branches(
            net, self.targets, branch, method="LoRA", seed=seed, layers=self.layers
        )

    def describe(self) -> str:
        """Return it in words for the report."""
        words = [f"lora r={self.rank}", *(["rslora"] if self.rslora else [])]
        words += [f"{len(self.layers)} blocks"] if self.layers else []
        words += [self.start] if self.start != "plain" else []
        words += [f"rho {self.rho:g}"] if self.rho > 1 else []
        return ", ".join(words)

    def rate(self, name: str) -> float:
        """Return how many times the learning rate a trained tensor takes."""
        return self.plus if name.endswith("lora_B.weight") else 1.0

    def kept(self) -> Lora:
        """Return the configuration of what `stored` returns: a plain LoRA that answers the same.

        PiSSA's frozen starting point becomes half of a branch of twice the rank.
        """
        if self.start != "pissa":
            return replace(self, start="plain", plus=1.0, rho=1.0)
        twice = 2**0.5 if self.rslora else 2.0
        return replace(
            self,
            start="plain",
            plus=1.0,
            rank=2 * self.rank,
            alpha=twice * self.alpha,
            rank_pattern={name: 2 * rank for name, rank in self.rank_pattern.items()},
            alpha_pattern={name: twice * alpha for name, alpha in self.alpha_pattern.items()},
        )


class LoraLayer(LowRank):
    """LoRA's branch: `lora_A` (rank, inputs), `lora_B` (outputs, rank), B zero at first."""

    FILES: ClassVar[Mapping[str, str]] = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}

    def __init__(
        self, layer: nn.Linear | Conv1D, *, rank: int, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__(layer, rank=rank, scale=scale, dropout=dropout)
        device = layer.weight.device
        drawn = torch.empty(rank, self.in_features)  # on the CPU: the same on every device
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5))
        self.lora_A = nn.Parameter(drawn.to(device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, device=device))
        self.by_inputs = 0.0  # rho, where A waits for `start_from_inputs`
        self.power = 1.0  # the scale is alpha / rank to this power
        self.alpha: float | None = None  # where the rank is not the one that was asked for
        self.origin_A: Tensor | None = None
        self.origin_B: Tensor | None = None

    @torch.no_grad()
    def start_from_weight(self) -> None:
        """Train the principal singular part of the base's weight (PiSSA), the rest staying frozen.

        The base is left alone: the starting point is taken off by a frozen branch.
        """
        left, values, right = torch.linalg.svd(self.out_by_in().float(), full_matrices=False)
        root = (values[: self.rank] / self.scale).sqrt()
        self.lora_B.copy_(left[:, : self.rank] * root)
        self.lora_A.copy_(root[:, None] * right[: self.rank])
        self.origin_A, self.origin_B = self.lora_A.clone(), -self.lora_B

    @torch.no_grad()
    def start_from_directions(self, top: Tensor) -> None:
        """Start A with `top`, (rank, inputs), and B with zeros; the scale stays whatever the rank.

        The trained tensors stay the same objects; without any direction they take no gradient.
        """
        rank, there = len(top), self.lora_A.device
        if rank not in (self.rank, 0):
            self.alpha = self.scale * rank**self.power
            self.scale = self.alpha / rank**self.power  # as it is when it was saved and loaded
        self.rank = rank
        self.lora_A.data = top.to(there).float().contiguous()
        self.lora_B.data = torch.zeros(self.out_features, rank, device=there)
        for tensor in (self.lora_A, self.lora_B):
            tensor.requires_grad_(rank > 0)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A and B, with the frozen starting point behind them if there is one."""
        if self.origin_A is None or self.origin_B is None:
            return self.lora_A, self.lora_B
        return torch.cat((self.lora_A, self.origin_A)), torch.cat((self.lora_B, self.origin_B), 1)

    def stored(self) -> dict[str, Tensor]:
        """Return the factors as a plain LoRA has them."""
        a, b = self.factors()
        return {**super().stored(), "lora_A.weight": a, "lora_B.weight": b}


def pattern_problems(ranks: Mapping[str, int], alphas: Mapping[str, float]) -> list[str]:
    """Return what is wrong with a rank pattern and an alpha pattern, a line each."""
    wrong: list[tuple[str, str, str, float]] = [
        (m, "rank", "1 or more", rank) for m, rank in ranks.items() if rank < 1
    ]
    wrong += [(m, "alpha", "above 0", alpha) for m, alpha in alphas.items() if alpha <= 0]
    return [f"{what} of {m} must be {limit}, got {got}" for m, what, limit, got in wrong]


def check_low_rank(
    name: str, rank: int, alpha: float, dropout: float, others: Sequence[str] = ()
) -> None:
    """Raise ConfigError (E-CONFIG-020) for values out of their ranges and `others`, all at once."""
    problems = []
    if rank < 1:
        problems.append(f"rank must be 1 or more, got {rank}")
    if alpha <= 0:
        problems.append(f"alpha must be above 0, got {alpha}")
    if not 0 <= dropout < 1:
        problems.append(f"dropout must be in [0, 1), got {dropout}")
    problems += others
    if problems:
        raise ConfigError("E-CONFIG-020", f"{name}'s settings are wrong.", details=problems)


def attach_branches(
    net: Any,
    targets: tuple[str, ...],
    branch: Callable[[Place], LowRank],
    *,
    method: str,
    seed: int,
    layers: Sequence[int] = (),
) -> Any:
    """Freeze the base of `net`, put a branch on each target and return the net.

    `layers`: numbers of the blocks whose targets are meant, all if empty. Raises ConfigError:
    E-CONFIG-021 a target or a number matches nothing, E-CONFIG-025 a layer has a branch already,
    which would read its weight past this one, or its weight is trained itself.
    """
    found = find(net, targets, method=method)
    if layers:
        found = within(net, found, layers, method=method)
    taken = {path for path, part in parts(net) if isinstance(part, LowRank)}
    trained = {id(p) for _, part in parts(net) for p in part.trained().values()}
    both = [p.path for p in found if p.path in taken or id(p.module.weight) in trained]
    if both:
        raise ConfigError(
            "E-CONFIG-025",
            f"{len(both)} layers have a low-rank branch already, or their weights train.",
            details=both[:4],
            fix="give both methods different targets, or merge the first",
        )
    freeze(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for place in found:
            made = branch(place)
            made.train(net.training)
            net.set_submodule(place.inner, made)
    return net


def freeze(net: Any) -> None:
    """Take gradients from every tensor of the base; parts keep theirs."""
    own = {id(p) for _, part in parts(net) for p in part.trained().values()}
    for parameter in net.parameters():
        if id(parameter) not in own:
            parameter.requires_grad_(False)


@torch.no_grad()
def start_from_inputs(net: Any, run: Callable[[], None]) -> None:
    """Start LoRA's A with the directions in which its inputs vary most (EVA).

    Only where `start` is "eva"; without such a LoRA nothing runs.

    `run` passes some training rows through the net; B stays zero, so nothing else changes. Where
    `rho` is above 1 ranks move between the layers (EVA's second step, see `spread_ranks`); a layer
    that has no rank left is the base's again. `as_ranked` says the ranks for what is saved.
    """
    layers = [p for _, p in parts(net) if isinstance(p, LoraLayer) and p.by_inputs]
    if not layers:
        return
    moments = {layer: torch.zeros(layer.in_features, layer.in_features) for layer in layers}

    def gather(layer: Any, given: tuple[Tensor, ...]) -> None:
        flat = given[0].detach().flatten(0, -2).float()
        moments[layer] += (flat.t() @ flat).cpu()

    hooks = [layer.register_forward_pre_hook(gather) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    shares, directions = [], []
    for layer in layers:
        values, vectors = torch.linalg.eigh(moments.pop(layer))
        most = min(int(layer.rank * layer.by_inputs), layer.in_features)
        values = values.clamp_min(0).flip(0)  # largest first
        shares.append((values[:most] / values.sum().clamp_min(1e-30)).tolist())
        directions.append(vectors.flip(1)[:, :most].t().clone())  # (most, inputs)
    ranks = spread_ranks(shares, sum(layer.rank for layer in layers))
    for layer, rank, rows in zip(layers, ranks, directions, strict=True):
        layer.start_from_directions(rows[:rank])
    gone = {layer for layer in layers if not layer.rank}
    if gone:
        detach(net, keep=[part for _, part in parts(net) if part not in gone])


def spread_ranks(shares: Sequence[Sequence[float]], total: int) -> list[int]:
    """Return a rank for each layer, `total` together: the directions that explain most (EVA).

    `shares`: for each layer how much of its inputs' second moment each direction holds, largest
    first, those that it may get. Among equals the earlier direction, then the earlier layer wins.

    >>> spread_ranks([[0.9, 0.05], [0.5, 0.3]], 3)
    [1, 2]
    """
    found = [(-share, n, layer) for layer, own in enumerate(shares) for n, share in enumerate(own)]
    chosen = [layer for _, _, layer in sorted(found)[:total]]
    return [chosen.count(layer) for layer in range(len(shares))]


def as_ranked(net: Any, method: Lora, own: Sequence[tuple[str, Part]]) -> Lora:
    """Return `method.kept()` with the ranks that its `own` parts in `net` came to have.

    Scales are what they were: a moved rank has its own alpha.
    """
    made = method.kept()
    found = {path: part for path, part in own if isinstance(part, LoraLayer)}
    if all(part.alpha is None for part in found.values()):
        return made
    meant = find(net, method.targets, method="LoRA")
    meant = within(net, meant, method.layers, method="LoRA") if method.layers else meant
    alphas = {path: float(pattern(method.alpha_pattern, path, method.alpha)) for path in found}
    alphas |= {path: part.alpha for path, part in found.items() if part.alpha is not None}
    gone = {place.path for place in meant} != set(found)
    return replace(
        made,
        targets=tuple(found) if gone else made.targets,
        layers=() if gone else made.layers,
        rank_pattern={path: p.rank for path, p in found.items() if p.rank != made.rank},
        alpha_pattern={path: alpha for path, alpha in alphas.items() if alpha != made.alpha},
    )
