"""LoRA that starts from its inputs (EVA): the directions are those of the training rows."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch

from sapwood.errors import ConfigError
from sapwood.methods import parts
from sapwood.methods.folder import load_trained, write_method
from sapwood.methods.lora import Lora, LoraLayer, spread_ranks
from sapwood.methods.together import parse
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.testing import tiny_net
from sapwood.training import Recipe, Supervision, fit, make_optimiser, started, target
from sapwood.training.start import as_trained


def supervision(net) -> Supervision:
    trie = build_trie([[10, 11], [20]])
    targets = [target([5 + n, 7, 9, 30 + n], n % 2, trie) for n in range(24)]
    return Supervision(Decoder(net), targets, trie)


def test_a_starts_in_the_directions_of_its_inputs_and_nothing_moves():
    net = tiny_net("llama")
    Lora(rank=4, start="eva").attach(net)
    lossy = supervision(net)
    before = [float(part.detach()) for part, _ in lossy.losses(range(24), 4096)]
    drawn = {name: tensor.clone() for name, tensor in parts.weights(net).items()}
    seen = {}
    layer = net.model.layers[1].self_attn.q_proj
    hook = layer.register_forward_pre_hook(lambda _, given: seen.update(x=given[0].detach()))
    started(net, lossy)
    hook.remove()
    assert [float(part.detach()) for part, _ in lossy.losses(range(24), 4096)] == before
    _, _, right = torch.linalg.svd(seen["x"].flatten(0, -2), full_matrices=False)
    found = layer.lora_A
    torch.testing.assert_close(found @ found.t(), torch.eye(4), rtol=0, atol=1e-5)
    overlap = torch.linalg.svdvals(found @ right[:4].t())
    torch.testing.assert_close(overlap, torch.ones(4), rtol=0, atol=1e-3)
    for name, tensor in parts.weights(net).items():
        assert torch.equal(tensor, drawn[name]) == name.endswith("lora_B.weight")


def test_other_starts_look_at_nothing():
    net = tiny_net("llama")
    Lora(rank=4).attach(net)
    lossy = supervision(net)
    drawn = {name: tensor.clone() for name, tensor in parts.weights(net).items()}
    tokens = lossy.decoder.tokens_run
    started(net, lossy)
    assert lossy.decoder.tokens_run == tokens
    assert all(torch.equal(t, drawn[n]) for n, t in parts.weights(net).items())


def ranks_of(net) -> dict[str, int]:
    return {path: part.rank for path, part in parts.parts(net) if isinstance(part, LoraLayer)}


def fill(net) -> None:
    with torch.no_grad():
        for tensor in parts.weights(net).values():
            torch.nn.init.normal_(tensor, std=0.2)


def test_ranks_go_where_directions_explain_most():
    """Against the singular values of all inputs, and the same total (EVA's second step)."""
    net = tiny_net("llama")
    plain = Lora(rank=4, start="eva").attach(copy.deepcopy(net))
    method = Lora(rank=4, alpha=3.0, start="eva", rho=2.0)
    method.attach(net)
    before = [float(part.detach()) for part, _ in supervision(net).losses(range(24), 4096)]
    wanted, seen = parts.weights(net), {}
    hooks = [
        part.register_forward_pre_hook(lambda _, given, path=path: seen.update({path: given[0]}))
        for path, part in parts.parts(net)
    ]
    supervised = supervision(net)
    started(net, supervised)
    for hook in hooks:
        hook.remove()
    found = ranks_of(net)
    assert sum(found.values()) == sum(ranks_of(plain).values()) == 4 * 14
    assert len(set(found.values())) > 2
    assert max(found.values()) <= 8
    shares = {}
    for path, x in seen.items():
        squares = torch.linalg.svdvals(x.detach().flatten(0, -2)).square()
        shares[path] = (squares / squares.sum()).tolist()[:8]
    least = min(share for path, rank in found.items() for share in shares[path][:rank])
    left = max(share for path, own in shares.items() for share in own[found.get(path, 0) :])
    assert least >= left * (1 - 1e-3)
    assert all(part.scale == pytest.approx(0.75) for _, part in parts.parts(net))
    after = [float(part.detach()) for part, _ in supervision(net).losses(range(24), 4096)]
    assert after == before
    for name, tensor in parts.weights(net).items():  # an optimiser may hold them already
        assert tensor is wanted[name]


def test_the_first_step_alone_keeps_every_rank():
    net = tiny_net("llama")
    Lora(rank=4, start="eva", rank_pattern={"v_proj": 2}).attach(net)
    before = ranks_of(net)
    started(net, supervision(net))
    assert ranks_of(net) == before


@pytest.mark.parametrize(
    "method",
    [
        Lora(rank=4, alpha=3.0, start="eva", rho=2.0),
        Lora(rank=3, start="eva", rho=3.0, rslora=True, layers=(1,), targets=("query", "ff-out")),
        Lora(rank=4, start="eva", rho=1.7, rank_pattern={"k_proj": 2}, alpha_pattern={"q_proj": 5}),
        Lora(rank=1, start="eva", rho=8.0),
        parse("lora(rank=2, start=eva, rho=4)+adapter(width=3)"),
    ],
    ids=str,
)
def test_moved_ranks_are_saved_and_answer_the_same(method, tmp_path):
    net, ids = tiny_net("llama"), torch.arange(20, 32)[None]
    method.attach(net)
    started(net, supervision(net))
    fill(net)
    made = as_trained(net, method)
    assert as_trained(tiny_net("llama"), Lora(rank=2)) == Lora(rank=2)
    write_method(parts.stored(net), made, tmp_path, base="tiny", transposed=False)
    other = tiny_net("llama")
    assert load_trained(other, tmp_path)
    assert ranks_of(other) == ranks_of(net)
    assert torch.equal(other(ids).logits, net(ids).logits)
    same = made.attach(tiny_net("llama"))
    assert parts.weights(same).keys() == parts.weights(net).keys()


def test_a_layer_without_a_rank_is_the_base_s_again():
    net = tiny_net("llama")
    Lora(rank=1, start="eva", rho=8.0).attach(net)
    held = parts.weights(net)
    started(net, supervision(net))
    assert 0 < len(ranks_of(net)) < 14
    assert sum(ranks_of(net).values()) == 14
    recipe = Recipe(learning_rate=1e-2, batch_size=8, epochs=1.0)
    list(fit(supervision(net), make_optimiser([*held.values()], recipe), recipe, total=3))
    gone = set(held) - set(parts.weights(net))
    assert all(held[name].numel() == 0 and not held[name].requires_grad for name in gone)


def test_peft_reads_moved_ranks(tmp_path):
    peft = pytest.importorskip("peft", reason="peft comes with the dev extra")
    net, ids = tiny_net("llama"), torch.arange(20, 32)[None]
    method = Lora(rank=1, alpha=3.0, start="eva", rho=6.0)
    method.attach(net)
    started(net, supervision(net))
    fill(net)
    write_method(
        parts.stored(net), as_trained(net, method), tmp_path, base="tiny", transposed=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(tiny_net("llama"), str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, net(ids).logits, rtol=1e-4, atol=1e-4)


def test_rho_wants_inputs_and_moves_ranks_upwards():
    with pytest.raises(ConfigError, match=r"rho must be 1 or more, got 0.5"):
        Lora(start="eva", rho=0.5)
    with pytest.raises(ConfigError, match="needs start=eva"):
        Lora(rho=2.0)
    assert spread_ranks([[0.5, 0.2], [0.5, 0.2], [0.1, 0.1]], 3) == [2, 1, 0]


def test_moved_ranks_from_the_command_line(sapwood, small_base, write_rows, tmp_path, monkeypatch):
    """The adaptation is checked against its golden probe as it is opened."""
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    data, method = write_rows(tmp_path / "d.csv"), "lora(rank=2,start=eva,rho=3)"
    ran = sapwood(
        "tune", data, "--model", small_base, "--encoder", "none", "--epochs", "0.5", "--method",
        method, "--device", "cpu", "--dtype", "float32", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    folder = tmp_path / "out" / "run" / "candidates" / method / "adaptation"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert set(config["rank_pattern"].values()) > {1}
    done = sapwood("predict", folder, "--data", data, "--json", "--device", "cpu",
                   "--dtype", "float32")  # fmt: skip
    assert done.code == 0, done.err
