"""LoRA: gradients, memory, exact unmerge, strict targets, and PEFT's folder layout."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.folder import load_trained
from sapwood.methods.lora import Lora, LoraLayer
from sapwood.methods.parts import detach, disabled, parts, transposed, weights, weights_key
from sapwood.methods.peft_folder import write_peft
from sapwood.models.decoder import Decoder
from sapwood.models.layout import Row, build_pack
from sapwood.testing import KINDS, tiny_net

IDS = torch.arange(20, 32)[None]


def shake(net) -> None:
    """Move every branch away from zero."""
    torch.manual_seed(1)
    for tensor in weights(net).values():
        nn.init.normal_(tensor, std=0.1)


def write(net, method: Lora, folder) -> None:
    write_peft(weights(net), method, folder, base="tiny", transposed=transposed(net))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_equal_the_plain_formula(dropout):
    torch.manual_seed(0)
    base = nn.Linear(10, 7)
    layer = LoraLayer(base.requires_grad_(False), rank=3, scale=0.5, dropout=dropout).double()
    nn.init.normal_(layer.lora_B)
    x = torch.randn(2, 5, 10, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(7)
    out = layer.train()(x)
    torch.manual_seed(7)
    seed = int(torch.randint(1 << 62, ()))
    mask = layer.dropped(x.flatten(0, 1), seed)
    dropped = x if mask is None else x * mask.view_as(x)
    plain = base(x) + 0.5 * (dropped @ layer.lora_A.t()) @ layer.lora_B.t()
    torch.testing.assert_close(out, plain)
    upstream = torch.randn_like(out)
    leaves = [x, layer.lora_A, layer.lora_B]
    found = torch.autograd.grad(out, leaves, upstream)
    expected = torch.autograd.grad(plain, leaves, upstream)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)
    if dropout:
        assert 0.5 < float((mask == 0).double().mean()) / dropout < 1.5


def test_q_k_v_save_their_shared_input_once():
    """pain: activation memory doubles (peft#2196); PEFT's default saves 6 to 12 times the input."""
    torch.manual_seed(0)
    layers = [
        LoraLayer(nn.Linear(1024, 1024, bias=False).bfloat16(), rank=16, scale=1.0, dropout=0.05)
        for _ in range(3)
    ]
    for layer in layers:
        layer.base_layer.requires_grad_(False)
    x = torch.randn(512, 1024, dtype=torch.bfloat16, requires_grad=True)
    saved: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outs = [layer.train()(x) for layer in layers]
    assert sum(saved.values()) <= 1.1 * x.numel() * x.element_size()
    sum(out.sum() for out in outs).backward()
    assert all(layer.lora_B.grad is not None for layer in layers)


@pytest.mark.parametrize("kind", KINDS)
def test_starts_unchanged_trains_only_its_weights_and_reaches_the_output(kind):
    net = tiny_net(kind)
    before = net(IDS).logits
    names = set(dict(net.named_parameters()))
    Lora(rank=4).attach(net)
    torch.testing.assert_close(net(IDS).logits, before, rtol=0, atol=1e-5)
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert trained == {n for n in dict(net.named_parameters()) if "lora_" in n}
    assert {n.replace(".base_layer", "") for n, p in net.named_parameters()} - trained == names
    shake(net)
    net(IDS).logits.square().sum().backward()
    assert all(t.grad is not None and t.grad.abs().max() > 0 for t in weights(net).values())
    assert (net(IDS).logits - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_merged_equals_attached_and_unmerge_restores_the_bits(kind):
    net = tiny_net(kind)
    originals = {n: p.clone() for n, p in net.named_parameters()}
    method = Lora(rank=4, alpha=3, rslora=True)
    method.attach(net)
    shake(net)
    attached = net(IDS).logits.detach()
    for _ in range(3):  # pain: repeated merging drifts (trl#6688)
        for _, layer in parts(net):
            layer.merge()
        torch.testing.assert_close(net(IDS).logits, attached, rtol=0, atol=2e-4)
        for _, layer in parts(net):
            layer.unmerge()
    for name, parameter in net.named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, originals[name.replace(".base_layer", "")])
    method.merge(net)
    assert set(dict(net.named_parameters())) == set(originals)
    torch.testing.assert_close(net(IDS).logits, attached, rtol=0, atol=2e-4)


def test_detach_gives_the_base_back():
    net = tiny_net("qwen3")
    before = net(IDS).logits
    Lora().attach(net)
    shake(net)
    assert torch.equal(detach(net)(IDS).logits, before)


def test_disabled_runs_the_plain_base():
    net = tiny_net("llama")
    before = net(IDS).logits
    Lora().attach(net)
    shake(net)
    key = weights_key(net)
    with disabled(net):
        assert torch.equal(net(IDS).logits, before)
        assert weights_key(net) != key
    assert weights_key(net) == key


def test_packed_gradients_with_a_shared_prefix_equal_padded_rows():
    rows = [[30, 31, 32, 33], [40, 41, 42], [50, 51, 52, 53, 54, 55]]
    context = [20, 21, 22, 23, 24]
    gradients = []
    for packed in (True, False):
        net = tiny_net("qwen2")
        Lora(rank=4).attach(net, seed=3)
        shake(net)
        if packed:
            pack = build_pack([Row(ids=r, wanted=[len(r) - 1]) for r in rows], shared=context)
            states = Decoder(net).run(pack)
        else:
            states = torch.stack(
                [net.model(torch.tensor([[*context, *r]])).last_hidden_state[0, -1] for r in rows]
            )
        loss = states.square().sum()
        loss.backward()
        gradients.append((loss.detach(), [t.grad for t in weights(net).values()]))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=1e-4, atol=1e-4)
    for one, other in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_every_target_must_take_effect():
    """pain: unmatched targets are skipped in silence (peft#1959)."""
    with pytest.raises(ConfigError) as caught:
        Lora(targets=("q_proj", "v_prj")).attach(tiny_net("llama"))
    assert "'v_prj' matches no linear layer. Did you mean 'v_proj'?" in str(caught.value)


def test_bad_settings_are_all_named():
    with pytest.raises(ConfigError) as caught:
        Lora(rank=0, dropout=1.0)
    rank, dropout = caught.value.details
    assert rank == "rank must be 1 or more, got 0" and dropout.startswith("dropout must be in")


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_give_the_same_logits(kind, tmp_path):
    net = tiny_net(kind)
    method = Lora(rank=4, alpha_pattern={"mlp.c_fc" if kind == "gpt2" else "mlp.up_proj": 5.0})
    method.attach(net)
    shake(net)
    expected = net(IDS).logits
    write(net, method, tmp_path)
    fresh = tiny_net(kind)
    loaded = load_trained(fresh, tmp_path)
    assert loaded.alpha_pattern == method.alpha_pattern
    assert torch.equal(fresh(IDS).logits, expected)


def test_a_tensor_that_does_not_map_stops_the_load(tmp_path):
    """pain: an adapter loads and does nothing (peft#2566)."""
    net = tiny_net("llama")
    method = Lora()
    method.attach(net)
    write(net, method, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors["base_model.model.elsewhere.lora_A.weight"] = tensors.pop(name)
    save_file(tensors, file)
    fresh = tiny_net("llama")
    with pytest.raises(ModelError) as caught:
        load_trained(fresh, tmp_path)
    assert "elsewhere.lora_A.weight has no place in this base" in str(caught.value)
    assert f"{name.removeprefix('base_model.model.')} is not in the file" in str(caught.value)
    assert not list(parts(fresh))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "lora_magnitude_vector is not in the file"),
        ({"use_qalora": True}, "use_qalora = True is not supported"),
        ({"peft_type": "IA3"}, "it has no tensor ia3_l"),
        ({"r": None}, "r is missing"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_settings_that_cannot_be_reproduced_are_refused(change, message, tmp_path):
    net = tiny_net("llama")
    Lora().attach(net)
    write(net, Lora(), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        load_trained(tiny_net("llama"), tmp_path)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # peft's own
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_our_folder_with_equal_logits_and_we_load_theirs(kind, tmp_path):
    peft = pytest.importorskip("peft", reason="peft comes with the dev extra")
    net = tiny_net(kind)
    method = Lora(rank=4)
    method.attach(net)
    shake(net)
    write(net, method, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(tiny_net(kind), tmp_path / "ours")
    torch.testing.assert_close(theirs(IDS).logits, net(IDS).logits, rtol=0, atol=1e-4)
    config = peft.LoraConfig(r=3, target_modules="all-linear", use_rslora=True)
    theirs = peft.get_peft_model(tiny_net(kind), config)
    for name, tensor in theirs.named_parameters():
        if "lora_" in name:
            nn.init.normal_(tensor, std=0.1)
    theirs.save_pretrained(tmp_path / "theirs")
    fresh = tiny_net(kind)
    load_trained(fresh, tmp_path / "theirs")
    torch.testing.assert_close(fresh(IDS).logits, theirs.eval()(IDS).logits, rtol=0, atol=1e-4)
