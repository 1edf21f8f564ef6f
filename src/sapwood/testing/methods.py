"""What every method must keep to, checked on a small net: see `check_method`."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.errors import ConfigError, SapwoodError
from sapwood.methods.folder import load_trained, write_method
from sapwood.methods.parts import (
    Method,
    detach,
    disabled,
    parts,
    stored,
    transposed,
    weights,
    weights_key,
)
from sapwood.methods.prompt import virtual_ids
from sapwood.models.decoder import PACKED, Decoder, behind, why_padded
from sapwood.models.layout import Row, build_pack
from sapwood.models.prefixes import trained_prefix

Run = Callable[[Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What `check_method` found besides that all is well.

    `trained`: how many numbers train; `merges`: whether the method can be folded into the base;
    `saved_bytes`: what autograd keeps of a forward pass, as a share of what it keeps for the frozen
    base whose embeddings take a gradient; `packed`, `checkpointed`: whether the net has a packed
    path and gradient checkpointing, so that these were checked, too.
    """

    trained: int
    merges: bool
    saved_bytes: float
    packed: bool
    checkpointed: bool


def check_method(
    method: Method,
    net: Any,
    run: Run,
    *,
    starts_unchanged: bool = True,
    idle: tuple[str, ...] = (),
    tolerance: float = 1e-4,
) -> Checked:
    """Check a method, ours or yours, on a plain `net` (copied, never changed).

    `run(net)` returns any differentiable output that depends on all of the net, the same each time
    it is called; the net is small, on the CPU, in evaluation mode. `starts_unchanged`: whether the
    output must be the base's before training; `idle`: ends of the names of trained tensors that
    `run` does not reach; `tolerance`: of outputs, relative to the largest number.

    Checked: the start (unchanged; `seed` alone decides it), one step (only trained tensors move,
    each has a gradient), save and load, merge (equal, or ConfigError and no harm), disable and
    detach (the very bits, the very modules), resume from a checkpoint (the very bits), packed rows
    against plain ones where the kind can be packed, and gradient checkpointing where the net has
    it. Raises AssertionError that says what does not hold; what `attach` raises passes through.

    >>> from sapwood.methods.lora import Lora
    >>> from sapwood.testing import check_method, run_tiny, tiny_net
    >>> check_method(Lora(rank=2), tiny_net("llama"), run_tiny).merges
    True
    """
    case = _Case(method=method, net=net, run=run, idle=idle, tolerance=tolerance)
    case.attached()  # what it raises is about the method and this kind, and no failure of a check
    _check_start(case, starts_unchanged)
    _check_step(case)
    with TemporaryDirectory() as folder:
        _check_files(case, Path(folder) / "method")
        _check_resume(case, Path(folder) / "checkpoints")
    merges = _check_merge(case)
    _check_detach(case)
    packed = net.config.model_type in PACKED and not why_padded(net.config)
    if packed:
        _check_packed(case)
        _check_checkpointing(case, lambda net: torch.cat(_packed_logits(Decoder(net))))
    return Checked(
        trained=sum(tensor.numel() for tensor in weights(case.attached()).values()),
        merges=merges,
        saved_bytes=_saved_share(case),
        packed=packed,
        checkpointed=_check_checkpointing(case, run),
    )


@dataclass(frozen=True, kw_only=True)
class _Case:
    method: Method
    net: Any
    run: Run
    idle: tuple[str, ...]
    tolerance: float

    def plain(self) -> Any:
        return copy.deepcopy(self.net)

    def attached(self, *, seed: int = 0, shaken: bool = False) -> Any:
        """Return a copy with the method; shaken: away from its start, as after training."""
        net = self.method.attach(self.plain(), seed=seed)
        if shaken:
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for tensor in weights(net).values():
                    noise = torch.randn(tensor.shape, generator=generator) * 0.1
                    tensor.add_(noise.to(tensor))
        return net

    def output(self, net: Any) -> Tensor:
        with torch.no_grad():
            return self.run(net)

    def same(self, found: Tensor, wanted: Tensor, what: str) -> None:
        room = self.tolerance * max(1.0, float(wanted.abs().max()))
        off = float((found - wanted).abs().max())
        assert off <= room, f"{self.name}: {what}: outputs differ by {off:.2g}"

    @property
    def name(self) -> str:
        return f"{self.method.name} on {self.net.config.model_type}"

    def reached(self, net: Any) -> dict[str, torch.nn.Parameter]:
        """Return the trained tensors that `run` reaches."""
        return {n: t for n, t in weights(net).items() if not n.endswith(self.idle or ("\0",))}


def _check_start(case: _Case, unchanged: bool) -> None:
    starts = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.random.get_rng_state()
        net = case.attached(seed=3)
        same = torch.equal(before, torch.random.get_rng_state())
        assert same, f"{case.name}: attach changes the state of torch's generator"
        starts.append(stored(net))
    for name, tensor in starts[0].items():
        assert torch.equal(tensor, starts[1][name]), f"{case.name}: {name} starts unlike its seed"
    net, trained = case.attached(), weights(case.attached())
    assert trained, f"{case.name}: nothing trains"
    own = set(map(id, weights(net).values()))
    loose = [n for n, p in net.named_parameters() if p.requires_grad and id(p) not in own]
    assert not loose, f"{case.name}: {loose[0]} takes a gradient and is in no part"
    if unchanged:
        case.same(case.output(net), case.output(case.plain()), "at its start")


def _state(net: Any) -> dict[str, Tensor]:
    """Return copies of every parameter and buffer."""
    named = (*net.named_parameters(), *net.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named}


def _train(case: _Case, net: Any, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        case.run(net).square().mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def _check_step(case: _Case) -> None:
    net = case.attached(shaken=True)
    reached = case.reached(net)
    before = _state(net)
    optimiser = torch.optim.AdamW(weights(net).values(), lr=1e-2, weight_decay=0.0)
    _train(case, net, optimiser, 1)
    for name, tensor in reached.items():
        reaches = tensor.grad is not None and bool(tensor.grad.abs().max() > 0)
        assert reaches, f"{case.name}: {name} does not reach the output"
    own = set(map(id, weights(net).values()))
    names = {name for name, tensor in net.named_parameters() if id(tensor) in own}
    after = _state(net)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved <= names, f"{case.name}: a step moved {sorted(moved - names)[:3]}, not trained"
    still = {n for n in names - moved if not n.endswith(case.idle or ("\0",))}
    assert not still, f"{case.name}: a step did not move {sorted(still)[:3]}"


def _check_files(case: _Case, folder: Path) -> None:
    net = case.attached(shaken=True)
    write_method(stored(net), case.method, folder, base="tiny", transposed=transposed(net))
    fresh = case.plain()
    loaded = load_trained(fresh, folder)
    kept = case.method.kept().name  # targets may be spelt out
    assert loaded.name == kept, f"{case.name}: saved as {kept}, it is loaded as {loaded.name}"
    case.same(case.output(fresh), case.output(net), "saved and loaded")
    again, once = stored(fresh), stored(net)
    assert again.keys() == once.keys(), f"{case.name}: saved twice, the tensors have other names"
    for name, tensor in once.items():
        assert torch.equal(again[name], tensor), f"{case.name}: saved twice, {name} differs"


def _check_resume(case: _Case, folder: Path) -> None:
    ends = []
    for broken in (False, True):
        net = case.attached(shaken=True)
        optimiser = torch.optim.AdamW(weights(net).values(), lr=1e-2)
        _train(case, net, optimiser, 2)
        if broken:
            save_checkpoint(folder, step=2, weights=weights(net), optimiser=optimiser, extra={})
            net = case.attached()
            optimiser = torch.optim.AdamW(weights(net).values(), lr=1e-2)
            step, _, _ = load_checkpoint(folder, weights=weights(net), optimiser=optimiser)
            assert step == 2, f"{case.name}: its checkpoint cannot be loaded"
        _train(case, net, optimiser, 2)
        ends.append(stored(net))
    for name, tensor in ends[0].items():
        same = torch.equal(tensor, ends[1][name])
        assert same, f"{case.name}: {name} differs when training was resumed"


def _check_merge(case: _Case) -> bool:
    net = case.attached(shaken=True)
    wanted = case.output(net)
    before = _state(net)
    try:
        merged = case.method.merge(net)
    except ConfigError as error:
        assert error.code == "E-CONFIG-023", f"{case.name}: merging fails with {error}"
        after = _state(net)
        same = before.keys() == after.keys() and all(
            torch.equal(before[n], after[n]) for n in after
        )
        assert same, f"{case.name}: a refused merge changed the net"
        case.same(case.output(net), wanted, "after a refused merge")
        return False
    case.same(case.output(merged), wanted, "merged")
    assert _shape(merged) == _shape(case.net), f"{case.name}: merged, the net has other modules"
    return True


def _shape(net: Any) -> list[tuple[str, str, int]]:
    """Return the path, type and number of hooks of every module."""
    return [
        (path, type(m).__qualname__, len(m._forward_hooks) + len(m._forward_pre_hooks))
        for path, m in net.named_modules()
    ]


def _tied(net: Any) -> list[list[str]]:
    """Return the names of tensors that are one."""
    names: dict[int, list[str]] = {}
    for name, tensor in net.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), []).append(name)
    return sorted(sorted(same) for same in names.values())


def _check_detach(case: _Case) -> None:
    base, before = case.output(case.plain()), _state(case.net)
    net = case.attached(shaken=True)
    changed, key = case.output(net), weights_key(net)
    assert bool((changed - base).abs().max() > 0), f"{case.name}: trained, it changes no output"
    with disabled(net):
        assert torch.equal(case.output(net), base), f"{case.name}: disabled, it is not the base"
        assert weights_key(net) == "", f"{case.name}: disabled, it still has a key"
    assert torch.equal(case.output(net), changed), f"{case.name}: disabled and enabled, it changed"
    assert weights_key(net) == key, f"{case.name}: disabled and enabled, its key changed"
    net = detach(net)
    assert not list(parts(net)), f"{case.name}: detached, parts are left"
    assert _shape(net) == _shape(case.net), f"{case.name}: detached, the net has other modules"
    assert _tied(net) == _tied(case.net), f"{case.name}: detached, other tensors are tied"
    after = _state(net)
    assert before.keys() == after.keys(), f"{case.name}: detached, the net has other tensors"
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), f"{case.name}: detached, {name} is not the base's"
    assert torch.equal(case.output(net), base), f"{case.name}: detached, it is not the base"


_ROWS = ((30, 31, 32, 33), (40, 41, 42), (50, 51, 52, 53, 54, 55, 56, 57, 58, 59))
_CONTEXT = tuple(range(20, 30))


def _packed_logits(decoder: Decoder, context: tuple[int, ...] = ()) -> list[Tensor]:
    """Return the logits of each of `_ROWS` in one pack, (length, vocabulary), with gradients."""
    front = virtual_ids(decoder.net)
    rows = [(*front, *row) for row in _ROWS]
    wanted = [Row(ids=r, wanted=range(len(front), len(r))) for r in rows]
    prefix = behind(decoder, decoder.encode(context))
    states = decoder.run(build_pack(wanted, **prefix.seat))
    logits: Tensor = decoder.net.get_output_embeddings()(states)
    return list(torch.split(logits, [len(row) for row in _ROWS]))


def _check_packed(case: _Case) -> None:
    """Compare rows in one pack with each alone, after a context and without one."""
    net = case.attached(shaken=True)
    decoder, front = Decoder(net), virtual_ids(net)
    # A trained prefix stands after the context, and in a plain call before it: that is no pair.
    contexts = ((),) if trained_prefix(net) is not None else ((), _CONTEXT)
    with torch.no_grad():
        for context in contexts:
            found = _packed_logits(decoder, context)
            for row, logits in zip(_ROWS, found, strict=True):
                ids = torch.tensor([[*context, *front, *row]])
                alone = net(input_ids=ids, use_cache=False).logits[0, -len(row) :]
                case.same(logits, alone, f"packed after {len(context)} tokens")


def _saved_share(case: _Case) -> float:
    return _saved(case, case.attached(shaken=True)) / max(1, _saved(case, case.plain()))


def _saved(case: _Case, net: Any) -> int:
    """Return the bytes autograd keeps of a forward pass, weights aside, each storage once."""
    found: dict[int, int] = {}
    held = {t.untyped_storage().data_ptr() for t in net.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    def track(module: Any, given: Any, out: Tensor) -> Tensor:
        return out if out.requires_grad else out.detach().requires_grad_()

    weight = net.get_input_embeddings().weight
    tables = [m for m in net.modules() if isinstance(m, nn.Embedding) and m.weight is weight]
    hooks = [table.register_forward_hook(track) for table in tables]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = case.run(net)
    for hook in hooks:
        hook.remove()
    total = sum(found.values())
    del out
    return total


def _check_checkpointing(case: _Case, run: Run) -> bool:
    """Compare gradients with and without gradient checkpointing; False where there is none.

    The net may not have it, or the method may refuse this way of running under it.
    """
    if not getattr(case.net, "supports_gradient_checkpointing", False):
        return False
    found: list[dict[str, Tensor | None]] = []
    for checkpointed in (False, True):
        net, runs = case.attached(shaken=True), Counter[nn.Module]()
        if checkpointed:
            _enable_checkpointing(net)
            blocks = [m for m in net.modules() if isinstance(m, GradientCheckpointingLayer)]
            for block in blocks:  # what is inside stays in evaluation mode: no dropout
                block.training = True
            for module in blocks[-1].modules():
                module.register_forward_pre_hook(partial(_count, runs))
        try:
            out = run(net)
        except SapwoodError:
            if not checkpointed:
                raise
            return False
        out.square().mean().backward()  # type: ignore[no-untyped-call]
        twice = max(runs.values(), default=2) > 1
        assert twice, f"{case.name}: nothing was checkpointed"
        found.append({name: tensor.grad for name, tensor in case.reached(net).items()})
    largest = max(float(g.abs().max()) for g in found[0].values() if g is not None)
    for name, gradient in found[0].items():
        other = found[1][name]
        assert gradient is not None and other is not None, f"{case.name}: {name} has no gradient"
        off = float((other - gradient).abs().max())
        room = case.tolerance * largest
        assert off <= room, f"{case.name}: checkpointed, the gradient of {name} is off by {off:.2g}"
    return True


def _count(runs: Counter[nn.Module], module: nn.Module, given: Any) -> None:
    runs[module] += 1


def _enable_checkpointing(net: Any) -> None:
    """Switch it on by the name that this version of transformers has for it."""
    new = getattr(net, "activation_checkpointing_enable", None)
    (new or net.gradient_checkpointing_enable)({"use_reentrant": False})
