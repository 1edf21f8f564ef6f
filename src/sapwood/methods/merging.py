"""Several adaptations of one base as one: sums, TIES, DARE, SVD of LoRA; the mean of any method.

What is combined are the deltas, s B A of each module. That is not what combining the factors
gives: the sum of B's times the sum of A's holds cross terms B1 A2 that nobody trained. Ranks,
targets and scales may differ. Task arithmetic: Ilharco et al. (arXiv 2212.04089); TIES: Yadav et
al. (2306.01708); DARE: Yu et al. (2311.03099); soups: Wortsman et al. (2203.05482).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.lora import Lora
from sapwood.methods.parts import Method
from sapwood.methods.places import pattern

HOWS = ("linear", "svd", "ties", "dare", "dare-ties", "average")
ON = ("deltas", "factors")
# Up to this size a full SVD takes seconds; above it a randomised one is taken (arXiv 0909.4061).
_FULL_SVD = 1536
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One module's change, `scale` B A: `a` (rank, inputs), `b` (outputs, rank), float32."""

    a: Tensor
    b: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Return how many rows A has."""
        return len(self.a)

    def delta(self) -> Tensor:
        """Return the change itself, (outputs, inputs)."""
        return self.b @ self.a * self.scale


@dataclass(frozen=True, kw_only=True)
class Combining:
    """How several LoRAs become one.

    `how`: one of HOWS but "average"; `weights`: one a LoRA, empty for the usual ones; `density` in
    (0, 1]: the share of values that TIES and DARE keep; `rank` >= 1 of the result, None for all of
    it with "linear" and the largest that goes in with the others; `on` "factors": A and B are
    combined each alone, as PEFT does by default, with the cross terms that brings; `seed`: of
    DARE's masks.
    """

    how: str = "linear"
    weights: tuple[float, ...] = ()
    density: float = 1.0
    rank: int | None = None
    on: str = "deltas"
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.how not in HOWS:
            problems.append(f"how is '{self.how}', not one of {', '.join(HOWS)}")
        if self.on not in ON:
            problems.append(f"on is '{self.on}', not one of {', '.join(ON)}")
        if not 0 < self.density <= 1:
            problems.append(f"density must be above 0 and at most 1, got {self.density}")
        if self.density < 1 and self.how in ("linear", "svd", "average"):
            problems.append(f"density means nothing with '{self.how}'")
        if self.rank is not None and self.rank < 1:
            problems.append(f"rank must be 1 or more, got {self.rank}")
        if self.rank is not None and self.how == "linear":
            problems.append("'linear' keeps every rank; 'svd' cuts to one")
        if self.on == "factors" and (self.how == "svd" or self.rank is not None):
            problems.append("combined factors keep their rank, so nothing is cut")
        if problems:
            raise ConfigError("E-CONFIG-095", "They cannot be merged so.", details=problems)

    def usual(self, count: int) -> tuple[float, ...]:
        """Return the weights: those given, else the mean's; 1 for TIES, which has a mean itself."""
        if self.weights and len(self.weights) != count:
            raise ConfigError(
                "E-CONFIG-095",
                f"{len(self.weights)} weights for {count} adaptations.",
                fix="give one weight for each, in their order",
            )
        means = self.how in ("ties", "dare-ties")
        return self.weights or (1.0 if means else 1 / count,) * count


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What came out: a plain LoRA of one rank, by module path, and what the cut to it lost.

    `lost`: |D - D_r| / |D| of each module's delta D (Frobenius norms), 0 where nothing was cut.
    """

    branches: Mapping[str, Branch]
    lost: Mapping[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Return the rank that all modules have."""
        return next(iter(self.branches.values())).rank

    def as_method(self) -> tuple[Lora, dict[str, Tensor]]:
        """Return it as a LoRA with scale 1 and its tensors by module path."""
        targets = tuple(sorted(self.branches))
        tensors = {}
        for path, branch in self.branches.items():
            tensors[path + _A] = branch.a.contiguous()
            tensors[path + _B] = (branch.b * branch.scale).contiguous()
        return Lora(rank=self.rank, alpha=float(self.rank), targets=targets), tensors


def branches(method: Method, tensors: Mapping[str, Tensor]) -> dict[str, Branch]:
    """Return a LoRA's branches by module path; `tensors` as `folder.read_method` gives them.

    Raises ModelError (E-MODEL-063) for other methods: only a LoRA is a sum of low-rank deltas.
    """
    if not isinstance(method, Lora):
        raise ModelError(
            "E-MODEL-063",
            f"A {method.name} is no low-rank delta, so it has no such sum.",
            fix="use --how average, or fold it first: sapwood check DIR --for peft --fold OUT",
        )
    found = {}
    for path in sorted(name.removesuffix(_A) for name in tensors if name.endswith(_A)):
        a, b = tensors[path + _A].float(), tensors[path + _B].float()
        alpha = float(pattern(method.alpha_pattern, path, method.alpha))
        found[path] = Branch(a=a, b=b, scale=alpha / (len(a) ** 0.5 if method.rslora else len(a)))
    return found


def combine(given: Sequence[Mapping[str, Branch]], settings: Combining) -> Merged:
    """Return several LoRAs of one base as one; a module that one lacks is zero there.

    Exact with "linear" (ranks add up); the others report what cutting to the rank lost. Raises
    ConfigError (E-CONFIG-095) for weights of another count, ModelError (E-MODEL-064) for modules
    of other shapes, and for factors of other ranks.
    """
    weights = settings.usual(len(given))
    paths = sorted({path for one in given for path in one})
    _check_shapes(given, paths, factors=settings.on == "factors")
    rank = settings.rank or max(branch.rank for one in given for branch in one.values())
    made, lost = {}, {}
    for path in paths:
        found = [(one[path], w) for one, w in zip(given, weights, strict=True) if path in one]
        if settings.on == "factors":
            made[path] = _on_factors(path, found, settings)
        elif settings.how in ("linear", "svd"):
            made[path] = concatenated(found)
            if settings.how == "svd":
                made[path], lost[path] = cut_branch(made[path], rank)
        else:
            tensors = [branch.delta() for branch, _ in found]
            whole = _combined(path, tensors, [w for _, w in found], settings)
            made[path], lost[path] = cut(whole, rank)
    return Merged(branches=padded(made), lost=lost)


def concatenated(found: Sequence[tuple[Branch, float]]) -> Branch:
    """Return the weighted sum of branches, exactly: their ranks side by side, scale 1."""
    a = torch.cat([branch.a for branch, _ in found])
    b = torch.cat([branch.b * (branch.scale * weight) for branch, weight in found], 1)
    return Branch(a=a, b=b)


def padded(found: Mapping[str, Branch], rank: int = 0) -> dict[str, Branch]:
    """Return branches of one rank, the largest (at least `rank`): zeros change nothing."""
    most = max([rank, *(branch.rank for branch in found.values())])
    made = {}
    for path, branch in found.items():
        more = most - branch.rank
        a = torch.nn.functional.pad(branch.a, (0, 0, 0, more))
        b = torch.nn.functional.pad(branch.b * branch.scale, (0, more))
        made[path] = Branch(a=a, b=b)
    return made


def cut(delta: Tensor, rank: int) -> tuple[Branch, float]:
    """Return the nearest branch of `rank` to `delta` (outputs, inputs), and what it lost.

    The singular values are shared between A and B. Matrices above 1536 x 1536 take a randomised
    decomposition, nearest up to a little; what was lost is measured in either case.
    """
    delta = delta.float()
    rank = min(rank, *delta.shape)
    if min(delta.shape) <= _FULL_SVD or rank > _FULL_SVD // 2:
        left, values, right = torch.linalg.svd(delta, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            left, values, columns = torch.svd_lowrank(delta, q=rank + 16, niter=4)
        right = columns.t()
    root = values[:rank].sqrt()
    branch = Branch(a=root[:, None] * right[:rank], b=left[:, :rank] * root)
    return branch, _lost(delta, branch.delta())


def cut_branch(branch: Branch, rank: int) -> tuple[Branch, float]:
    """Return the nearest branch of `rank` to a wider one, without making its delta."""
    if branch.rank <= rank:
        return branch, 0.0
    left, upper = torch.linalg.qr(branch.b * branch.scale)  # (outputs, r), (r, rank)
    right, lower = torch.linalg.qr(branch.a.t())  # (inputs, r), (r, rank)
    small, values, rows = torch.linalg.svd(upper @ lower.t(), full_matrices=False)
    root = values[:rank].sqrt()
    a = root[:, None] * (rows[:rank] @ right.t())
    whole, gone = float(values.square().sum()), float(values[rank:].square().sum())
    return Branch(a=a, b=left @ small[:, :rank] * root), (gone / whole) ** 0.5 if whole else 0.0


def trim(tensor: Tensor, density: float) -> Tensor:
    """Return `tensor` with only its largest values kept, the share `density` (TIES' first step)."""
    if density >= 1:
        return tensor
    kept = torch.zeros_like(tensor).flatten()
    kept[tensor.abs().flatten().topk(int(density * tensor.numel())).indices] = 1
    return tensor * kept.view_as(tensor)


def elect(tensors: Tensor, weights: Tensor) -> Tensor:
    """Return (shape) from (count, shape): the mean of what agrees with the elected sign.

    The sign of the plain sum is elected; the weighted values of that sign are summed and divided
    by how many there are (TIES' second and third step).
    """
    sign = torch.where(tensors.sum(0) >= 0, 1.0, -1.0)
    agree = tensors.sign() == sign
    weighted = tensors * weights.view(-1, *[1] * (tensors.dim() - 1))
    return (weighted * agree).sum(0) / agree.sum(0).clamp_min(1)


def drop(tensor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Return `tensor` with each value kept with probability `density` and divided by it (DARE)."""
    if density >= 1:
        return tensor
    keep = torch.bernoulli(torch.full_like(tensor, density), generator=generator)
    return tensor * keep / density


def mask_seed(path: str, seed: int) -> int:
    """Return the seed of a module's masks: it depends on nothing but the module and `seed`."""
    return int.from_bytes(sha256(f"{seed} {path}".encode()).digest()[:4], "little")


def average(
    given: Sequence[tuple[Method, Mapping[str, Tensor]]], weights: Sequence[float] = ()
) -> tuple[Method, dict[str, Tensor]]:
    """Return the mean of the trained tensors of one method, with its configuration (a soup).

    It suits runs that began at one point and took different data, order or rate. `weights` default
    to the mean's. Raises ModelError (E-MODEL-065) naming all that is not equal.
    """
    method, first = given[0]
    weights = Combining(how="average", weights=tuple(weights)).usual(len(given))
    problems = []
    for number, (other, tensors) in enumerate(given[1:], 2):
        if other.kept() != method.kept():
            problems.append(f"number {number} is {other!r}, the first is {method!r}")
        shapes = [{name: t.shape for name, t in held.items()} for held in (first, tensors)]
        if shapes[0] != shapes[1]:
            differ = sorted({n for n, _ in shapes[0].items() ^ shapes[1].items()})
            problems.append(f"number {number} has other tensors, such as {differ[0]}")
    if problems:
        raise ModelError(
            "E-MODEL-065",
            "Only equal methods have a mean.",
            details=problems,
            fix="for LoRAs of different ranks or targets: --how linear, svd, ties or dare",
        )
    pairs = list(zip(given, weights, strict=True))
    mean = {
        name: torch.stack([t[name].float() * w for (_, t), w in pairs]).sum(0) for name in first
    }
    return method, mean


def _combined(
    path: str, tensors: list[Tensor], weights: list[float], settings: Combining
) -> Tensor:
    generator = torch.Generator().manual_seed(mask_seed(path, settings.seed))
    return _merge(tensors, weights, settings, lambda t: drop(t, settings.density, generator))


def _merge(
    tensors: list[Tensor],
    weights: list[float],
    settings: Combining,
    dropped: Callable[[Tensor], Tensor],
) -> Tensor:
    if settings.how.startswith("dare"):
        tensors = [dropped(tensor) for tensor in tensors]
    if settings.how == "ties":
        tensors = [trim(tensor, settings.density) for tensor in tensors]
    stacked, factors = torch.stack(tensors), torch.tensor(weights)
    if settings.how.endswith("ties"):
        return elect(stacked, factors)
    return torch.einsum("n...,n->...", stacked, factors)


def _on_factors(path: str, found: list[tuple[Branch, float]], settings: Combining) -> Branch:
    """Combine A's and B's each alone, each with the root of its weight, the sign on A."""
    whole = [branch.scale * weight for branch, weight in found]
    roots = [abs(w) ** 0.5 for w in whole]
    signed = [r if w >= 0 else -r for r, w in zip(roots, whole, strict=True)]
    generator = torch.Generator().manual_seed(mask_seed(path, settings.seed))

    def dropped(tensor: Tensor) -> Tensor:
        return drop(tensor, settings.density, generator)

    a = _merge([branch.a for branch, _ in found], signed, settings, dropped)
    b = _merge([branch.b for branch, _ in found], roots, settings, dropped)
    return Branch(a=a, b=b)


def _check_shapes(
    given: Sequence[Mapping[str, Branch]], paths: Sequence[str], *, factors: bool
) -> None:
    problems = []
    for path in paths:
        found = [one[path] for one in given if path in one]
        if len({(len(branch.b), branch.a.shape[1]) for branch in found}) > 1:
            problems.append(f"{path} has other sizes in another")
        if factors and len({branch.rank for branch in found}) > 1:
            problems.append(f"{path} has other ranks, so factors have no sum; use deltas")
    if problems:
        raise ModelError("E-MODEL-064", "They do not fit together.", details=problems[:8])


def _lost(delta: Tensor, kept: Tensor) -> float:
    whole = float(delta.norm())
    return float((delta - kept).norm()) / whole if whole else 0.0
