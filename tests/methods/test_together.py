"""Several methods on one net: they act side by side, come off together, are read from a line."""

import json

import pytest
import torch

from sapwood.errors import ConfigError
from sapwood.methods.adapter import Adapter
from sapwood.methods.bitfit import BitFit, LayerNorm
from sapwood.methods.dora import Dora
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.parts import detach, parts, stored, weights
from sapwood.methods.prefix_tuning import Prefix
from sapwood.methods.reft import Reft
from sapwood.methods.together import Together, parse
from sapwood.testing import check_method, run_tiny, tiny_net

LORA, ADAPTER = Lora(rank=2), Adapter(width=8)


def shake(net):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in weights(net).values():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)


def test_the_order_does_not_change_what_three_methods_do():
    outs = []
    for methods in ((LORA, ADAPTER, Ia3()), (LORA, Ia3(), ADAPTER)):
        net = Together(methods=methods).attach(tiny_net("llama"))
        with torch.no_grad():
            for name, tensor in weights(net).items():
                seed = sum(map(ord, name))
                noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
                tensor.copy_(tensor.mean() + 0.1 * noise)
        outs.append({name: t.shape for name, t in stored(net).items()})
    assert outs[0] == outs[1]


def test_each_acts_as_it_does_alone():
    """LoRA on queries and ReFT on the last block, attached in one or one by one."""
    lora, reft = Lora(rank=2, targets=("query",)), Reft(rank=2, layers=(1,))
    both = Together(methods=(lora, reft)).attach(tiny_net("llama"))
    shake(both)
    one = tiny_net("llama")
    lora.attach(one)
    reft.attach(one)
    own = weights(both)
    with torch.no_grad():
        for name, tensor in weights(one).items():
            tensor.copy_(own[name])
    assert torch.equal(run_tiny(both), run_tiny(one))


def test_mam_is_a_prefix_and_a_parallel_adapter():
    mam = Together(methods=(Prefix(tokens=3), Adapter(width=8, placement="parallel")))
    net = tiny_net("llama")
    before = run_tiny(net)
    mam.attach(net, seed=1)
    assert mam.describe().endswith("parallel adapter, width 8")
    shake(net)
    run_tiny(net).square().mean().backward()
    assert all(tensor.grad.abs().max() > 0 for tensor in weights(net).values())
    assert torch.equal(run_tiny(detach(net)), before)


def test_what_cannot_be_attached_leaves_the_net_as_it_was():
    net = tiny_net("llama")
    LayerNorm().attach(net)
    kept = [path for path, _ in parts(net)]
    with pytest.raises(ConfigError, match="has no biases"):
        Together(methods=(LORA, BitFit())).attach(net)
    assert [path for path, _ in parts(net)] == kept
    with pytest.raises(ConfigError) as caught:
        Together(methods=(ADAPTER, Adapter(width=16))).attach(net)
    assert caught.value.code == "E-CONFIG-024"
    assert [path for path, _ in parts(net)] == kept


def test_gates_start_open_and_close():
    method = Together(methods=(LORA, ADAPTER), gated=True)
    net = method.attach(tiny_net("llama"))
    shake(net)
    gates = {name: t for name, t in weights(net).items() if "_gate." in name}
    assert len(gates) == 2 * (14 + 2)  # every linear layer and every block's adapter
    plain = tiny_net("llama")
    base = run_tiny(plain)
    Together(methods=(LORA, ADAPTER)).attach(plain)
    own = weights(net)
    with torch.no_grad():
        for name, tensor in weights(plain).items():
            tensor.copy_(own[name])
        for name, tensor in gates.items():
            tensor.fill_(4.0 if name.endswith("bias") else 0.0)
    change = (run_tiny(plain) - base).abs().max()
    assert (run_tiny(net) - run_tiny(plain)).abs().max() < 0.2 * change
    with torch.no_grad():
        for name, tensor in gates.items():
            tensor.fill_(40.0 if name.endswith("bias") else 0.0)
    torch.testing.assert_close(run_tiny(net), run_tiny(plain), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        for name, tensor in gates.items():
            tensor.fill_(-40.0 if name.endswith("bias") else 0.0)
    torch.testing.assert_close(run_tiny(net), base, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError) as caught:
        method.merge(net)
    assert caught.value.code == "E-CONFIG-023"


@pytest.mark.parametrize(
    ("methods", "why"),
    [((Ia3(),), "no LoRA branch and no adapter"), ((Dora(rank=2),), "scales the whole output")],
)
def test_what_cannot_be_gated_is_refused(methods, why):
    net = tiny_net("llama")
    with pytest.raises(ConfigError, match=why):
        Together(methods=methods, gated=True).attach(net)
    assert not list(parts(net))


def test_settings_round_trip_through_json():
    method = Together(methods=(Lora(rank=3, plus=4.0, alpha_pattern={"q_proj": 2.0}), Ia3()))
    again = Together.from_settings(json.loads(json.dumps(method.to_settings())))
    assert again == method
    assert again.rate("x.lora_B.weight") == 4.0 and again.rate("x.ia3_l") == 1.0
    assert again.kept().methods[0].plus == 1.0


def test_a_line_names_methods_and_settings():
    made = parse("lora(rank=4, targets=(query, value), rslora=True) + ia3")
    assert made == Together(methods=(Lora(rank=4, targets=("query", "value"), rslora=True), Ia3()))
    assert parse("lora(alpha=8)") == Lora(alpha=8.0)
    assert parse("ia3(targets='attention-out')").targets == ("attention-out",)
    gated = parse("gated(lora+adapter(placement=houlsby))")
    assert gated.gated and gated.describe() == "lora r=8 + houlsby adapter, width 48, gated"
    assert parse("prefix(tokens=5)+adapter(placement=parallel)").methods[0].tokens == 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lora(rnk=4, alpha='x')+ia3", ["no setting 'rnk'. Did you mean 'rank'?", "type float"]),
        ("lora(4)", ["'4' has no name; write setting=value"]),
        ("lora(rank=attention-out)", ["quote it"]),
        ("lora-ia3", ["'lora - ia3' is no method"]),
        ("lora(", ["was never closed"]),
        ("gated(lora, ia3)", ["gated takes methods joined by +"]),
        ("lora+lora", ["lora is given twice"]),
        ("lorra+ia3", ["Unknown method 'lorra'. Did you mean 'lora'?"]),
        ("together+lora", ["join methods by +"]),
        ("lora(rank=0)", ["rank must be 1 or more"]),
    ],
)
def test_a_wrong_line_says_all_that_is_wrong(line, words):
    with pytest.raises(ConfigError) as caught:
        parse(line)
    for said in words:
        assert said in str(caught.value)


def test_no_methods_and_nested_ones_are_refused():
    with pytest.raises(ConfigError, match="at least one method"):
        Together(methods=())
    with pytest.raises(ConfigError, match="cannot be nested"):
        Together(methods=(Together(methods=(LORA,)),))


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "bert", "t5"])
def test_three_at_once_keep_their_promises(kind):
    check_method(Together(methods=(LORA, ADAPTER, Ia3())), tiny_net(kind), run_tiny)
