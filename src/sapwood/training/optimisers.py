"""Muon for hidden matrices with AdamW for the rest, as one optimiser that checkpoints exactly.

Muon: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), scaled so that AdamW's rate
suits it (Liu et al. 2025, arXiv 2502.16982). Embeddings, heads, norms and biases take AdamW
(Loshchilov and Hutter 2019, arXiv 1711.05101).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.training.loop import Recipe

NAMES = ("muon", "adamw")
# RoBERTa's (arXiv 1907.11692): the usual 0.999 forgets the steep beginning of pretraining late.
BETAS = (0.9, 0.98)
MOMENTUM = 0.95  # Jordan et al.
NARROW = 8  # a matrix of fewer rows or columns is a head or a set of vectors


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with "match_rms_adamw", but on CPUs it computes in float32.

    torch's computes in bfloat16, which most CPUs emulate: with it a step of BERT-tiny on 2,048
    tokens took twice as long (one core, torch 2.13).
    """

    def __init__(self, params: Sequence[Tensor], rate: float, decay: float) -> None:
        super().__init__(params, {"lr": rate, "weight_decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the weights by the nearest orthogonal matrix of each one's averaged gradient."""
        assert closure is None, "nobody needs it here"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                mean = state["momentum_buffer"].lerp_(weight.grad, 1 - MOMENTUM)
                update = orthogonal(weight.grad.lerp(mean, MOMENTUM))
                rate = group["lr"] * 0.2 * max(weight.shape) ** 0.5  # AdamW's size of a step
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.to(weight.dtype), alpha=-rate)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix with the singular vectors of `matrix` and singular values near 1.

    Five Newton-Schulz steps with the coefficients of Jordan et al.
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide.float() if matrix.device.type == "cpu" else wide.bfloat16()
    wide = wide / wide.norm().clamp_min(1e-7)
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


class Joined:
    """Several optimisers as one: weights are numbered through in the order given."""

    def __init__(self, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimisers = tuple(optimisers)
        self.param_groups = [group for each in self.optimisers for group in each.param_groups]

    def step(self) -> None:
        """Change the weights."""
        for optimiser in self.optimisers:
            optimiser.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all, numbered through."""
        state: dict[int, Any] = {}
        first = 0
        for optimiser in self.optimisers:
            own = optimiser.state_dict()
            state |= {first + number: values for number, values in own["state"].items()}
            first += _size(own)
        return {"state": state, "param_groups": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each its own part back; rates and the like stay what they are."""
        first = 0
        for optimiser in self.optimisers:
            groups = optimiser.state_dict()["param_groups"]
            size = sum(len(group["params"]) for group in groups)
            state = state_dict["state"].items()
            own = {n - first: values for n, values in state if first <= n < first + size}
            optimiser.load_state_dict({"state": own, "param_groups": groups})
            first += size
        # torch makes new groups when it loads
        self.param_groups = [group for each in self.optimisers for group in each.param_groups]


def _size(state: Mapping[str, Any]) -> int:
    return sum(len(group["params"]) for group in state["param_groups"])


def divided(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights that train, by name: hidden matrices, other matrices, vectors.

    The second are embeddings, heads and narrow matrices; ties appear once.
    """
    head = getattr(net, "get_output_embeddings", lambda: None)()
    apart = {id(module.weight) for module in net.modules() if isinstance(module, nn.Embedding)}
    apart |= {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    biases = {id(p) for name, p in net.named_parameters() if name.endswith("bias")}
    hidden, others, vectors = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    for name, weight in net.named_parameters():
        if not weight.requires_grad:
            continue
        if weight.ndim < 2 or id(weight) in biases:
            vectors[name] = weight
        elif weight.ndim > 2 or id(weight) in apart or min(weight.shape) < NARROW:
            others[name] = weight
        else:
            hidden[name] = weight
    return hidden, others, vectors


def pretraining_optimiser(
    net: nn.Module, recipe: Recipe, name: str = "muon"
) -> tuple[Joined, dict[str, Tensor]]:
    """Return (the optimiser, its weights by name in its order); `name`: one of NAMES.

    Vectors (biases, gains of norms) do not decay.
    """
    assert name in NAMES, name
    hidden, others, vectors = divided(net)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    made: list[torch.optim.Optimizer] = []
    if name == "muon" and hidden:
        made.append(Muon(list(hidden.values()), rate, decay))
        matrices = others
    else:
        hidden, matrices = {}, {**hidden, **others}
    groups: list[dict[str, Any]] = [
        {"params": list(matrices.values()), "weight_decay": decay},
        {"params": list(vectors.values()), "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if groups:
        made.append(torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True))
    return Joined(made), {**hidden, **matrices, **vectors}
