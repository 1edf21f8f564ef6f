"""On CUDA methods compute what they compute on the CPU: losses, gradients, scores.

In float32 by the same plain operations, in half precision by the device's flash kernel. The tests
are skipped where there is no such device; SAPWOOD_TEST_DEVICE=cpu runs them there, too.
"""

from __future__ import annotations

import os

import pytest
import torch

from sapwood.methods import parts
from sapwood.methods.prompt import virtual_ids
from sapwood.methods.together import parse
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.testing import KINDS
from sapwood.training import Supervision, target

DEVICE = os.environ.get("SAPWOOD_TEST_DEVICE", "cuda")
METHODS = (
    "lora(rank=4)", "dora(rank=4)", "vera(rank=8)", "ia3", "adapter(width=8)", "compacter",
    "reft(rank=2)", "prefix(tokens=4, start=random)", "prompt(tokens=4, start=random)",
    "prefix(tokens=4, start=random)+lora(rank=4)", "gated(lora(rank=4)+adapter(width=8))", "full",
)  # fmt: skip
LABELS = [[10, 11], [10, 12, 13], [20]]
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs CUDA"
)


def made(tiny_net, kind, method, device, dtype):
    """Return (net, decoder) with a method whose tensors are the same everywhere."""
    net = tiny_net(kind).to(device, dtype)
    parse(method).attach(net)
    for number, tensor in enumerate(parts.weights(net).values()):
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
        tensor.data += 0.05 * noise.to(tensor)
    return net, Decoder(net, weights_key=lambda: method)


def rows():
    generator = torch.Generator().manual_seed(3)
    lengths = (3, 30, 12, 7, 25)
    return [torch.randint(30, 290, (n,), generator=generator).tolist() for n in lengths]


def trained(net, decoder, opening):
    """Return (loss, gradients by name) of a few rows, on the CPU and in float32."""
    trie = build_trie(LABELS)
    targets = [target(row, n % 3, trie) for n, row in enumerate(rows())]
    context = (*virtual_ids(net), *range(40, 60))
    seat = {"shared": context} if opening == "shared" else {}
    if opening == "cached":
        with torch.no_grad():
            seat = {"prefix": decoder.encode(context)}
    supervision = Supervision(decoder, targets, trie, **seat)
    total = 0.0
    for loss, _ in supervision.losses(range(len(targets)), 4096):
        loss.backward()
        total += float(loss.detach())
    found = {}
    for name, tensor in parts.weights(net).items():
        if tensor.grad is not None:
            found[name] = tensor.grad.float().cpu()
    return total, found


@pytest.mark.parametrize("opening", ["shared", "cached"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients(kind, method, opening, tiny_net):
    if "prompt" in method and opening == "cached":
        pytest.skip("virtual tokens stand in front of what is shared")
    plain = trained(*made(tiny_net, kind, method, "cpu", torch.float32), opening)
    exact = trained(*made(tiny_net, kind, method, DEVICE, torch.float32), opening)
    assert exact[0] == pytest.approx(plain[0], rel=1e-4)
    assert exact[1].keys() == plain[1].keys()
    for name, wanted in plain[1].items():
        room = 1e-3 * max(1e-3, float(wanted.abs().max()))
        torch.testing.assert_close(exact[1][name], wanted, rtol=1e-3, atol=room)
    if method == "full":  # half precision weights: the gradients are as coarse
        return
    half = trained(*made(tiny_net, kind, method, DEVICE, torch.bfloat16), opening)
    assert half[0] == pytest.approx(plain[0], rel=0.05)
    flat = [torch.cat([part[1][n].flatten() for n in sorted(plain[1])]) for part in (half, plain)]
    alike = torch.nn.functional.cosine_similarity(*flat, dim=0)
    assert alike > 0.95, f"gradients point elsewhere: {float(alike):.3f}"


@pytest.mark.parametrize("kind", KINDS)
def test_label_scores_under_a_context(kind, tiny_net):
    found = {}
    for device, dtype in (("cpu", torch.float32), (DEVICE, torch.float32), (DEVICE, torch.half)):
        _, decoder = made(tiny_net, kind, "lora(rank=4)", device, dtype)
        before = decoder.encode(list(range(40, 60)))
        scores = decoder.label_scores(rows(), build_trie(LABELS), before)
        found[device, dtype] = torch.tensor(scores)
    plain = found["cpu", torch.float32]
    torch.testing.assert_close(found[DEVICE, torch.float32], plain, rtol=0, atol=1e-3)
    torch.testing.assert_close(found[DEVICE, torch.half], plain, rtol=0, atol=0.3)
