"""One layer of a bank: the base and what many adaptations have there, each token its own.

At each layer the low-rank rows of the active adaptations are stacked, two dense products run over
all tokens, and the columns that a token does not own are zeroed (mask value = scale x weight), so
mixed ranks, weighted sums of adaptations and rows of the plain base cost nothing extra. DoRA's gain
g is two such things: g B in the place of B, and a factor 1 + weight (g - 1) on the token's x W^T,
which is then kept for the backward pass; so a weight w of any low-rank one adds w times the change
of the weight that it would be merged to. Beyond `STACKED` rows each adaptation's own tokens are
taken instead, the grouping of Punica (Chen et al., arXiv 2310.18547) and S-LoRA (Sheng et al.,
2311.03285). One node of the graph a layer, in training too (cf. mLoRA, Ye et al., 2312.02515).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.launch.products import faster
from sapwood.methods.adapter import Bottleneck, Tap
from sapwood.methods.ia3 import Ia3Layer
from sapwood.methods.low_rank import LowRank
from sapwood.methods.parts import Part
from sapwood.methods.sharing import Passing, Plan, Sharing, Where, add, factors
from sapwood.methods.stacks import Prepared, Stack, answered, prepared

# Most stacked low-rank rows. Forward and backward of a 576 x 1536 layer, ranks of 8, 640 (160)
# tokens, one CPU core, milliseconds, stacked against a loop over each adaptation's own tokens:
# bfloat16 64 rows 8.7, 8.4 (2.8, 3.2); 128 rows 10.5, 10.4 (3.5, 4.8); 512 rows 23, 19 (11, 14);
# float32, its products dearer, 32 rows 16, 17 (4.7, 4.1); 128 rows 24, 21 (7.5, 5.6); 512 rows 60,
# 20 (20, 9). Products by `functional.grouped_mm` would take 1.2 of the loop's 3.2 ms above the base
# at 64 rows in bfloat16, 8 of 13 at 512, but want equal ranks and sorted copies of all tokens.
STACKED, STACKED_FLOAT32 = 128, 32
# Most low-rank rows that are kept ready for passes that write answers (see `stacks`), and the most
# tokens of a pass in which more than `STACKED` of them are.
FEW, STACKED_FEW = 1024, 256


class _Stacked(torch.autograd.Function):
    """Base and all active branches as one node; saves the input and the inner products."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, layer, plan, gain, *factors = given
        out: Tensor
        out, plain, inner = layer.compute_all(x, plan, gain, factors)
        ctx.save_for_backward(x, gain, plain, *inner)
        ctx.layer, ctx.plan, ctx.factors = layer, plan, factors
        ctx.versions = [t._version for t in factors]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, gain, plain, *inner = ctx.saved_tensors
        if ctx.versions != [t._version for t in ctx.factors]:
            raise RuntimeError("LoRA weights changed between the forward and the backward pass.")
        grad, flat = grads[0].flatten(0, -2), x.flatten(0, -2)
        through, grad_x, grad_gain = grad, None, None
        if gain is not None:
            through, grad_gain = grad * gain, (grad * plain).sum_to_size(gain.shape)
        grad_x = ctx.layer.back(through) if ctx.needs_input_grad[0] else None
        step = ctx.layer.stacked_back
        if ctx.plan.sorted:
            step = partial(_sorted_back, ctx.layer)
        made = step((flat, grad, grad_x), inner, ctx.plan, ctx.factors)
        made = [g.to(f.dtype) for g, f in zip(made, ctx.factors, strict=True)]
        return (None if grad_x is None else grad_x.view_as(x), None, None, grad_gain, *made)


class BankLayer(LowRank):
    """One linear layer of the base with what all adaptations of a bank have there.

    `made`: adaptation -> the part that its method put here. IA3's factors act outside of low-rank
    branches, a weight w of them as 1 + w (factor - 1); bottlenecks act on what comes out, those
    beside the sublayer on what their taps saw. The parts are no modules of this one, as they wrap
    nothing; their parameters are.
    """

    def __init__(self, layer: Any, made: Mapping[str, Part], state: Passing) -> None:
        low = {name: part for name, part in made.items() if isinstance(part, LowRank)}
        super().__init__(layer, rank=sum(part.rank for part in low.values()), scale=1.0)
        self.state = state
        self.branches = tuple((n, p.rank, p.scale, p.dropout) for n, p in low.items())
        self.low, self._names = tuple(low.values()), tuple(low)
        self.tensors = tuple(tuple(part.trained().values()) for part in self.low)
        self.stacks: dict[int, Stack] = {}
        self.prepared: Prepared | None = None
        self._taps = {name: part for name, part in made.items() if isinstance(part, Tap)}
        gains = {name: part for name, part in made.items() if isinstance(part, Ia3Layer)}
        self.before = tuple(name for name, part in gains.items() if part.before)
        self.after = tuple(name for name, part in gains.items() if not part.before)
        self.ia3_before = nn.ParameterList([gains[name].ia3_l for name in self.before])
        self.ia3_after = nn.ParameterList([gains[name].ia3_l for name in self.after])
        necks = {name: part for name, part in made.items() if isinstance(part, Bottleneck)}
        self.necks = tuple((n, p.scale, p.act, p._tap[0] is None) for n, p in necks.items())
        self._neck_taps = {n: p._tap[0] for n, p in necks.items() if p._tap[0] is not None}
        self.downs = nn.ModuleList([part.adapter_down for part in necks.values()])
        self.ups = nn.ModuleList([part.adapter_up for part in necks.values()])
        self._low_rank_alone = len(low) == len(made)
        self.owned = {name: part.trained() for name, part in made.items()}
        self.held = nn.ParameterList([t for part in low.values() for t in part.trained().values()])

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters of all adaptations, ``ADAPTATION.NAME``."""
        return {f"{a}.{name}": p for a, own in self.owned.items() for name, p in own.items()}

    def extra_repr(self) -> str:
        """Return what changes the output besides the trained tensors."""
        sharing = self.state.sharing
        used = None if sharing is None else (sharing.names, sharing.shares.tolist())
        return f"{super().extra_repr()}, {self.branches}, {self.necks}, used={used}"

    @property
    def active(self) -> bool:
        """Whether any adaptation acts in the forward pass."""
        sharing = self.state.sharing
        return super().active and sharing is not None and bool(sharing.names)

    def fold(self) -> dict[str, Tensor]:
        """Raise ConfigError (E-CONFIG-023): several adaptations cannot be in one weight."""
        return Part.fold(self)

    def forward(self, x: Tensor) -> Any:
        """Map (..., inputs) to (..., outputs)."""
        sharing = self.state.sharing
        if sharing is None or not sharing.names or not super().active:
            return self.base_layer(x)
        if self._low_rank_alone:
            return self._branched(x, sharing)
        for name, tap in self._taps.items():
            tap.seen = x if name in sharing.names else None
        x = _scaled(x, self.before, self.ia3_before, sharing)
        out = self._branched(x, sharing)
        out = _scaled(out, self.after, self.ia3_after, sharing)
        states = (out.flatten(0, -2), _seen(self._neck_taps, sharing))
        added = _bottlenecks(states, self.necks, (self.downs, self.ups), sharing)
        return out if added is None else out + added.view(out.shape)

    def _branched(self, x: Tensor, sharing: Sharing) -> Tensor:
        answers = not torch.is_grad_enabled()
        if answers and self.prepared is not None and self.prepared.sharing is sharing:
            return answered(self, x, self.prepared)
        found = sharing.branches(self._names)
        if not found:
            return self.base_layer(x)  # type: ignore[no-any-return]
        dropped = self.training and any(self.branches[n][3] for n, _ in found)
        rows = sum(self.branches[n][1] for n, _ in found)
        if answers and not dropped and rows <= _most_kept(x):
            self.prepared = prepared(self, found, sharing, x, self.prepared)
            return answered(self, x, self.prepared)
        alone = len(sharing.shares) > 1 and len(sharing.names) > 1 and rows > _most_stacked(x)
        seed = int(torch.randint(1 << 62, ())) if dropped else 0
        plan = Plan(sharing=sharing, branches=found, sorted=dropped or alone, seed=seed)
        gain, made = factors([(self.low[n], at) for n, at in found], sharing, x.dtype)
        if not answers:
            return _Stacked.apply(x, self, plan, gain, *made)  # type: ignore[no-any-return,no-untyped-call]
        return self.compute_all(x, plan, gain, made)[0]

    def compute_all(
        self, x: Tensor, plan: Plan, gain: Tensor | None, factors: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Return (output, x W^T where there is a gain, inner products), without a graph."""
        flat, plain = x.flatten(0, -2), None
        out = faster(flat, self.out_by_in(), self.bias if gain is None else None)
        if gain is not None:
            plain, out = out, out * gain
            if self.bias is not None:
                out.add_(self.bias)
        whole = out.view(*x.shape[:-1], self.out_features)
        half = len(factors) // 2
        if not plan.sorted:
            a, b = torch.cat(list(factors[:half])), torch.cat(list(factors[half:]), 1)
            inner = (flat @ a.to(x.dtype).t()).mul_(self.columns(plan, x.dtype))
            out.addmm_(inner, b.to(x.dtype).t())
            return whole, plain, [inner]
        kept = []
        for number, (where, weight, mask) in enumerate(_spans(self, plan, flat)):
            own = flat[where] if mask is None else flat[where] * mask
            inner = (own @ factors[number].to(x.dtype).t()).mul_(weight)
            add(out, where, inner, factors[half + number].to(x.dtype).t())
            kept.append(inner)
        return whole, plain, kept

    def stacked_back(
        self, states: tuple[Tensor, ...], inner: Any, plan: Plan, factors: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the gradients of `factors`; adds to that of the input, the last of `states`."""
        flat, grad, grad_x = states
        half = len(factors) // 2
        a, b = torch.cat(list(factors[:half])), torch.cat(list(factors[half:]), 1)
        back = (grad @ b.to(grad.dtype)).mul_(self.columns(plan, grad.dtype))
        if grad_x is not None:
            grad_x.addmm_(back, a.to(grad.dtype))
        ranks = [len(factor) for factor in factors[:half]]
        grad_a = torch.split(back.t() @ flat, ranks)
        grad_b = torch.split(inner[0].t() @ grad, ranks)
        return [*grad_a, *(part.t() for part in grad_b)]

    def columns(self, plan: Plan, dtype: torch.dtype) -> Tensor:
        """Return the mask of all stacked rows; see `Sharing`."""
        owners = [(at, self.branches[n][2], self.branches[n][1]) for n, at in plan.branches]
        return plan.sharing.columns(owners, dtype)


def _spans(
    layer: BankLayer, plan: Plan, flat: Tensor
) -> Iterator[tuple[Where, Any, Tensor | None]]:
    """Yield (tokens, weight x scale, dropout mask) of each active branch."""
    for number, at in plan.branches:
        _, _, scale, dropout = layer.branches[number]
        where, weight = plan.sharing.span(at)
        wet = layer.training and dropout > 0
        mask = _drop_mask(flat[where], dropout, plan.seed + at) if wet else None
        whole = weight * scale
        yield where, whole if isinstance(whole, float) else whole.to(flat.dtype), mask


def _sorted_back(
    layer: BankLayer, states: tuple[Tensor, ...], inner: Any, plan: Plan, factors: Sequence[Tensor]
) -> list[Tensor]:
    """Do the same as `BankLayer.stacked_back`, one adaptation's own tokens at a time."""
    flat, grad, grad_x = states
    half = len(factors) // 2
    grads_a, grads_b = [], []
    for number, (where, weight, mask) in enumerate(_spans(layer, plan, flat)):
        own, upstream = flat[where], grad[where]
        back = (upstream @ factors[half + number].to(grad.dtype)).mul_(weight)
        grads_a.append(back.t() @ (own if mask is None else own * mask))
        grads_b.append(upstream.t() @ inner[number])
        low = factors[number].to(grad.dtype)
        if grad_x is not None and mask is None:
            add(grad_x, where, back, low)
        elif grad_x is not None:
            grad_x[where] += (back @ low) * mask
    return [*grads_a, *grads_b]


def _drop_mask(x: Tensor, share: float, seed: int) -> Tensor:
    generator = torch.Generator(x.device).manual_seed(seed)
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= share
    return kept.to(x.dtype).div_(1 - share)


def _most_stacked(x: Tensor) -> int:
    slow = x.device.type == "cpu" and x.dtype == torch.float32
    return STACKED_FLOAT32 if slow else STACKED


def _most_kept(x: Tensor) -> int:
    return STACKED_FEW if x.numel() <= FEW * x.shape[-1] else _most_stacked(x)


def _scaled(x: Tensor, names: Sequence[str], factors: Any, sharing: Sharing) -> Tensor:
    """Return x times the IA3 factors of each token's adaptations."""
    found = [(n, sharing.names.index(a)) for n, a in enumerate(names) if a in sharing.names]
    if not found:
        return x
    table = torch.stack([factors[n].flatten() for n, _ in found]) - 1
    shares = sharing.shares[:, [at for _, at in found]]
    gain = (1 + shares @ table).to(x.dtype)
    return x * (gain if len(gain) == 1 else gain.view(x.shape))


def _seen(taps: Mapping[str, Tap], sharing: Sharing) -> Tensor | None:
    """Return what the taps of active adaptations saw, (tokens, hidden): of one block all the same.

    They let go of it. None where no active one has a tap.
    """
    found: Tensor | None = None
    for name, tap in taps.items():
        if name in sharing.names:
            assert tap.seen is not None, "the feed-forward part did not run before its end"
            found, tap.seen = tap.seen.flatten(0, -2), None
    return found


def _bottlenecks(
    states: tuple[Tensor, Tensor | None],
    necks: Sequence[tuple[str, float, Any, bool]],
    layers: Any,
    sharing: Sharing,
) -> Tensor | None:
    """Return what the bottlenecks of each token's adaptations add, (tokens, hidden), if any.

    `states`: the sublayer's output and what taps saw; `necks`: (adaptation, scale, activation,
    whether it reads the output).
    """
    kinds: dict[tuple[str, bool], list[int]] = {}
    for number, (name, _, act, after) in enumerate(necks):
        if name in sharing.names:
            kinds.setdefault((type(act).__name__, after), []).append(number)
    total: Tensor | None = None
    for (_, after), numbers in kinds.items():  # those with one activation and input at once
        read = states[0 if after else 1]
        assert read is not None
        downs, ups = ([layers[side][n] for n in numbers] for side in (0, 1))
        owners = [(sharing.names.index(necks[n][0]), necks[n][1]) for n in numbers]
        widths = [
            (at, scale, len(down.bias)) for (at, scale), down in zip(owners, downs, strict=True)
        ]
        down = torch.cat([layer.weight for layer in downs]).to(read.dtype)
        start = torch.cat([layer.bias for layer in downs]).to(read.dtype)
        inner = necks[numbers[0]][2](nn.functional.linear(read, down, start))
        inner = inner * sharing.columns(widths, read.dtype)
        up = torch.cat([layer.weight for layer in ups], 1).to(read.dtype)
        ends = torch.stack([layer.bias for layer in ups]).to(read.dtype)
        shares = sharing.columns([(at, scale, 1) for at, scale in owners], read.dtype)
        added = nn.functional.linear(inner, up) + shares @ ends
        total = added if total is None else total + added
    return total
