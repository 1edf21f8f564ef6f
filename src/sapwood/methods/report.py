"""What attaching a method did: which modules it matched, what trains, whether it takes effect."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sapwood.errors import ConfigError
from sapwood.methods.depth import blocks, untouched
from sapwood.methods.parts import Method, parts, weights
from sapwood.methods.prompt import virtual_ids

_PROBE_TOKENS = 8
_SHOWN = 4  # patterns a line names before it counts the rest


def attached_report(net: Any, method: Method) -> dict[str, Any]:
    """Return what is attached to `net`, JSON-ready; nothing is changed.

    `modules`: how many parts each pattern of paths has; `trainable` parameters, their `share` of
    all and `bytes`; `blocks` and how many of them, from the first, have no gradient; `unmoved`:
    parts none of whose tensors has a gradient, from a probe of eight tokens: the output will not
    move with them.
    """
    trained = weights(net)
    own = {id(p) for p in trained.values()}
    base = sum(p.numel() for p in net.parameters() if id(p) not in own)
    base += sum(int(getattr(m, "packed_values", 0)) for m in net.modules())
    count = sum(p.numel() for p in trained.values())
    found: Counter[str] = Counter(re.sub(r"\.\d+(?=\.|$)", ".*", path) for path, _ in parts(net))
    try:
        depth, below = len(blocks(net)), untouched(net)
    except ConfigError:  # a net without known blocks
        depth, below = 0, 0
    return {
        "method": method.name,
        "settings": method.describe(),
        "modules": dict(found),
        "trainable": count,
        "share": count / max(1, count + base),
        "bytes": sum(p.numel() * p.element_size() for p in trained.values()),
        "blocks": depth,
        "blocks_without_gradient": below,
        "unmoved": unmoved(net),
    }


def unmoved(net: Any) -> list[str]:
    """Return the paths of parts that no gradient reaches, from a probe of a few tokens.

    A part counts as reached when one of its tensors has a gradient that is not zero: of a LoRA
    that starts plain that is B, as A waits for it.
    """
    found = [(path, list(part.trained().values())) for path, part in parts(net)]
    tensors = list({id(t): t for _, own in found for t in own}.values())
    if not tensors:
        return []
    gradients = dict(zip(map(id, tensors), _gradients(net, tensors), strict=True))
    return [path for path, own in found if own and not any(gradients[id(t)] for t in own)]


def _gradients(net: Any, tensors: Sequence[Tensor]) -> list[bool]:
    """Return for each tensor whether a probe's gradient on it is other than zero."""
    size = int(net.get_input_embeddings().weight.shape[0])
    device = net.get_input_embeddings().weight.device
    plain = [number % size for number in range(_PROBE_TOKENS)]
    ids = torch.tensor([[*virtual_ids(net), *plain]], device=device)
    given: dict[str, Any] = {"input_ids": ids}
    if getattr(net.config, "is_encoder_decoder", False):
        given["decoder_input_ids"] = ids
    training = {id(module): module.training for module in net.modules()}
    net.eval()
    try:
        with torch.enable_grad():
            out = net(**given)[0].float()
            pattern = torch.arange(out.numel(), device=device).cos().view_as(out)  # cancels nothing
            found = torch.autograd.grad((out * pattern).sum(), tensors, allow_unused=True)
    finally:
        for module in net.modules():
            module.training = training[id(module)]
    return [gradient is not None and bool(gradient.any()) for gradient in found]


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return a report in one line for people, and a second one where something is wrong."""
    modules = sorted(report["modules"].items(), key=lambda item: -item[1])
    named = [f"{path} ({count})" for path, count in modules[:_SHOWN]]
    more = len(modules) - _SHOWN
    named += [f"{more} more"] if more > 0 else []
    below = report["blocks_without_gradient"]
    said = [
        f"{report['settings']}: {report['trainable']:,} weights train "
        f"({report['share']:.2%}, {report['bytes'] / 1e6:.1f} MB) on {', '.join(named)}"
        + (f"; no gradient in the first {below} of {report['blocks']} blocks" if below else "")
    ]
    lost = report["unmoved"]
    if lost:
        shown = [*lost[:_SHOWN], *([f"{len(lost) - _SHOWN} more"] if len(lost) > _SHOWN else [])]
        said.append(f"{len(lost)} parts do not move the output: {', '.join(shown)}")
    return said
