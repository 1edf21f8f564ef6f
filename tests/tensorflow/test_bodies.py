"""Both engines compute the same: hidden states of every kind with every method, in float32."""

import json

import numpy as np
import pytest
import torch

from sapwood.errors import ConfigError, ModelError
from sapwood.methods import parts
from sapwood.methods.together import parse
from sapwood.tensorflow.arrays import check, load
from sapwood.tensorflow.attached import weights_of
from sapwood.tensorflow.bodies import Rows, states

KINDS = ("bert", "gpt2", "llama", "qwen2", "qwen3", "mistral")
METHODS = (
    "", "lora(rank=4)", "lora(rank=4, rslora=True)", "lora(rank=4, start=pissa)",
    "lora(rank=4, layers=(1,))", "adapter(width=8)",
    "adapter(width=8, placement=houlsby)", "adapter(width=8, placement=parallel)",
    "adapter(width=8, activation=gelu)", "prefix(tokens=4, start=random)",
    "prefix(tokens=4, start=random)+lora(rank=4)",
)  # fmt: skip


def made(tiny_net, kind, method=""):
    """Return a tiny net with a method whose tensors are far from their start."""
    net = tiny_net(kind).float()
    if method:
        parse(method).attach(net)
        for number, tensor in enumerate(parts.weights(net).values()):
            noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
            tensor.data += 0.1 * noise
    return net.eval()


def some_rows():
    """Return ids and mask of three rows of different lengths, padded."""
    ids = torch.randint(5, 100, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:], mask[2, 3:] = 0, 0
    return ids, mask


def differs(net, weights, **more):
    """Return the largest difference between the engines' states, as a share of the largest."""
    ids, mask = some_rows()
    with torch.no_grad():
        out = net(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    wanted = out.last_hidden_state if "last_hidden_state" in out else out.hidden_states[-1]
    given = Rows(ids=ids.int().numpy(), mask=mask.int().numpy(), **more)
    found = states(weights, given).numpy()
    real = mask.bool().numpy()
    return np.abs(found - wanted.numpy())[real].max() / max(1.0, np.abs(wanted.numpy())[real].max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_torch(kind, method, tiny_net):
    net = made(tiny_net, kind, method)
    weights, trained = weights_of(net)
    assert differs(net, weights) < 1e-5
    assert set(trained) <= set(weights.variables)
    assert len(trained) == len(parts.weights(net))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_read_as_it_is(kind, tiny_checkpoint, tiny_net):
    weights = load(tiny_checkpoint(kind))
    assert differs(tiny_net(kind).float().eval(), weights) < 1e-5


def test_segments_are_added(tiny_net):
    net = made(tiny_net, "bert")
    ids, mask = some_rows()
    types = torch.zeros_like(ids)
    types[:, 2:] = 1
    with torch.no_grad():
        wanted = net(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    given = Rows(ids=ids.int().numpy(), mask=mask.int().numpy(), types=types.int().numpy())
    found = states(weights_of(net)[0], given).numpy()
    assert np.abs(found - wanted.numpy())[mask.bool().numpy()].max() < 1e-5


@pytest.mark.parametrize(
    "method", ["dora(rank=4)", "lora(rank=4, dropout=0.1)", "ia3", "lora(rank=4)+adapter(width=8)",
               "prefix(tokens=4, start=random, width=8)", "gated(lora(rank=4)+adapter(width=8))"]
)  # fmt: skip
def test_what_it_does_not_compute_is_refused(method, tiny_net):
    with pytest.raises(ConfigError, match="trains lora, adapter, prefix") as caught:
        weights_of(made(tiny_net, "llama", method))
    assert caught.value.code == "E-CONFIG-261" and "--engine torch" in caught.value.fix


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_type"),
        ("mistral", {"sliding_window": 64}, "slides over 64"),
        ("llama", {"hidden_act": "relu6"}, "activation"),
        ("bert", {"is_decoder": True}, "decoder"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(kind, changed, said, tiny_net):
    config = tiny_net(kind).config
    for name, value in changed.items():
        setattr(config, name, value)
    with pytest.raises(ModelError, match="would not compute") as caught:
        check(config)
    assert any(said in line for line in caught.value.details)


def test_an_unknown_kind_is_refused(tiny_net, tmp_path):
    with pytest.raises(ModelError, match="does not know the kind 't5'"):
        check(tiny_net("t5").config)
    with pytest.raises(ModelError, match="has no config"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    tiny_net("t5").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="does not know the kind"):
        load(tmp_path)
