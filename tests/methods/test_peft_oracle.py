"""PEFT as the reference: its folders read here and ours read there, to the same tensors and logits.

Every trained tensor is filled from its name, so that a swapped, transposed or dropped one shows.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.adapter import Adapter
from sapwood.methods.bitfit import LayerNorm
from sapwood.methods.dora import Dora
from sapwood.methods.folder import load_trained, write_method
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.parts import parts, stored, transposed, weights
from sapwood.methods.peft_folder import CONFIG, TENSORS, export_peft, read_peft
from sapwood.methods.prefix import StoredPrefix, read_prefix, write_prefix
from sapwood.methods.prompt import Prompt, virtual_ids
from sapwood.methods.vera import Vera
from sapwood.models.decoder import Decoder, Prefix
from sapwood.models.layout import Row
from sapwood.testing import tiny_net

peft = pytest.importorskip("peft", reason="peft comes with the dev extra")
pytestmark = [  # what peft itself warns of
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

IDS = torch.tensor([[23, 41, 7, 260, 99, 12, 181, 64], [5, 88, 131, 19, 240, 77, 3, 150]])
DECODERS = ("llama", "qwen2", "gemma3_text", "gpt2")
KINDS = (*DECODERS, "bert", "t5")
_LLAMA = {"attention": ["q_proj", "v_proj"], "one": "v_proj", "ff": "down_proj", "list": "layers"}
NAMES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "qwen2", "gemma3_text"), _LLAMA),
    "gpt2": {"attention": ["c_attn", "attn.c_proj"], "one": "c_attn", "ff": "c_fc", "list": "h"},
    "bert": {
        "attention": ["query", "value"], "one": "value", "ff": "intermediate.dense",
        "list": "layer",
    },
    "t5": {"attention": ["q", "v"], "one": "v", "ff": "wo", "list": "block"},
}  # fmt: skip
NORMS = {"bert": ["LayerNorm"]}  # the kinds for which PEFT has no list of its own
BASE = "base_model.model."


def net(kind: str) -> Any:
    if kind != "t5":
        return tiny_net(kind)
    from transformers import AutoModelForSeq2SeqLM, T5Config

    config = T5Config(
        vocab_size=300, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = AutoModelForSeq2SeqLM.from_config(config)
        for name, parameter in made.named_parameters():
            if "layer_norm" not in name:
                torch.nn.init.normal_(parameter, std=0.2)
    return made.eval().requires_grad_(False)


@torch.no_grad()
def logits(model: Any, kind: str, ids: torch.Tensor = IDS) -> torch.Tensor:
    if kind == "t5":
        return model(input_ids=ids, decoder_input_ids=ids.flip(1)).logits
    out = model(input_ids=ids)
    return out.last_hidden_state if kind == "bert" else out.logits


def filled(name: str, shape: Any) -> torch.Tensor:
    """Return values that depend on nothing but the name of a tensor in PEFT's file."""
    generator = torch.Generator().manual_seed(int(sha256(name.encode()).hexdigest()[:12], 16))
    noise = torch.randn(tuple(shape), generator=generator)
    around_one = name.endswith(("ia3_l", "magnitude_vector", "ln_tuning_layers.weight"))
    return 1 + 0.3 * noise if around_one else 0.2 * noise


def fill_theirs(model: Any) -> None:
    with torch.no_grad():
        for name, tensor in peft.get_peft_model_state_dict(model).items():
            if not name.startswith("base_model.vera_"):
                tensor.copy_(filled(name, tensor.shape))


def fill_ours(model: Any) -> None:
    """Fill trained tensors as `fill_theirs` does; differences get what makes the whole tensor."""
    with torch.no_grad():
        for name, tensor in weights(model).items():
            path, _, end = name.rpartition(".")
            if not end.startswith("delta_"):
                tensor.copy_(filled(BASE + name, tensor.shape))
                continue
            whole = end.removeprefix("delta_")
            wanted = filled(f"{BASE}{path}.ln_tuning_layers.{whole}", tensor.shape)
            tensor.copy_(wanted - model.get_submodule(path).base_layer.get_parameter(whole))


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    config: Any
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}-{self.kind}"


def theirs() -> list[Case]:
    """Return the cases that begin in PEFT."""
    made: list[Case] = []

    def add(name: str, kinds: Any, config: Any, **settings: Any) -> None:
        for kind in kinds:
            ready = {k: v(NAMES[kind]) if callable(v) else v for k, v in settings.items()}
            made.append(Case(name, kind, config, ready))

    lora, attention = peft.LoraConfig, {"target_modules": lambda n: n["attention"]}
    both = {"target_modules": lambda n: [*n["attention"], n["ff"]]}
    add("lora", KINDS, lora, r=3, lora_alpha=7, **both)
    add("lora-all-linear", KINDS, lora, r=2, target_modules="all-linear")
    add("rslora", ("llama", "gpt2", "t5"), lora, r=4, lora_alpha=3, use_rslora=True, **both)
    add(
        "patterns", KINDS, lora, r=4, lora_alpha=5, **both,
        rank_pattern=lambda n: {n["one"]: 2, rf".*\.0\..*{n['ff']}": 6},
        alpha_pattern=lambda n: {rf"{n['list']}\.1\..*": 11, n["ff"]: 2.5},
    )  # fmt: skip
    add(
        "whole-path-pattern", ("llama", "gpt2"), lora, r=4, **attention,
        rank_pattern=lambda n: {rf"^(model|transformer)\.{n['list']}\.1\..*": 7},
    )  # fmt: skip
    add("regex", KINDS, lora, r=3, target_modules=lambda n: rf".*\.1\..*{n['one']}")
    add("exclude-names", ("llama", "bert"), lora, r=3, target_modules=lambda n: [*n["attention"]],
        exclude_modules=lambda n: n["attention"][:1])  # fmt: skip
    add("exclude-regex", ("gpt2", "qwen2"), lora, r=3, exclude_modules=r".*\.0\..*", **both)
    add("exclude-of-all-linear", ("llama", "t5"), lora, r=2, target_modules="all-linear",
        exclude_modules=lambda n: [n["ff"]])  # fmt: skip
    add("one-layer", ("llama", "gpt2", "bert"), lora, r=3, layers_to_transform=1, **both)
    add("layers", ("gemma3_text", "t5"), lora, r=3, layers_to_transform=[0, 1],
        layers_pattern=lambda n: n["list"], **both)  # fmt: skip
    for start in ("gaussian", "orthogonal", "pissa", False):
        add(f"start-{start}", ("llama", "gpt2"), lora, r=4, init_lora_weights=start, **both)
    add("dora", KINDS, lora, r=3, lora_alpha=5, use_dora=True, **both)
    add("dora-patterns", ("llama", "gpt2"), lora, r=3, use_dora=True, use_rslora=True, **both,
        rank_pattern=lambda n: {rf".*{n['ff']}": 2})  # fmt: skip

    ia3 = {"feedforward_modules": lambda n: [n["ff"]], **both}
    add("ia3", KINDS, peft.IA3Config, **ia3)
    add("ia3-outputs-only", ("llama", "gpt2"), peft.IA3Config, feedforward_modules=[], **attention)
    add("ia3-inputs-only", ("llama", "t5"), peft.IA3Config, target_modules=lambda n: [n["ff"]],
        feedforward_modules=lambda n: [n["ff"]])  # fmt: skip
    add("ia3-regex", ("llama", "gpt2", "bert"), peft.IA3Config,
        target_modules=lambda n: rf".*\.1\..*({n['one']}|{n['ff']})",
        feedforward_modules=lambda n: rf".*{n['ff']}")  # fmt: skip
    add("ia3-exclude", ("qwen2",), peft.IA3Config, exclude_modules=r".*layers\.0.*", **ia3)

    add("vera", KINDS, peft.VeraConfig, r=6, d_initial=0.3, projection_prng_key=7, **both)
    add("vera-regenerated", ("llama", "gpt2", "t5"), peft.VeraConfig, r=6, save_projection=False,
        projection_prng_key=3, target_modules="all-linear")  # fmt: skip
    add("vera-layers", ("llama",), peft.VeraConfig, r=5, layers_to_transform=[1], **both)

    for kind in KINDS:
        chosen = {"target_modules": NORMS[kind]} if kind in NORMS else {}
        add("norms", (kind,), peft.LNTuningConfig, **chosen)
    add("norms-regex", ("llama",), peft.LNTuningConfig, target_modules=r".*\.1\..*layernorm")
    return made


def ours() -> list[Any]:
    """Return the cases that begin here: (kind, method, whether the net is there to write it)."""
    alike = {
        "all-linear": Lora(rank=3),
        "dora": Dora(rank=2, alpha=5, rslora=True, targets=("query", "ff-in")),
        "roles": Lora(rank=3, targets=("query", "value", "attention-out", "ff-out")),
        "pissa": Lora(rank=2, start="pissa", targets=("query", "ff-in")),
        "ia3": Ia3(),
        "vera": Vera(rank=5, start=0.4, projection_seed=11, targets=("value", "ff-out")),
        "norms": LayerNorm(),
    }
    cases: list[tuple[str, str, Any]] = [(name, k, m) for name, m in alike.items() for k in KINDS]
    # PEFT sorts the patterns' names, and a dot in one stands for any character.
    tables = {"mlp.up_proj": 5, "layers.0.mlp.up_proj": 2, "up_proj": 4, "layers.1.mlp.up_proj": 9}
    cases.append(("patterns", "llama", Lora(rank_pattern=tables, alpha_pattern={"q_proj": 3})))
    tables = {"layers.1.self_attn.q_proj": 5, "q_proj": 3, "never": 2}
    cases.append(("ordered-patterns", "llama", Dora(rank=2, rank_pattern=tables)))
    for kind in DECODERS:
        cases.append(("one-path", kind, Lora(targets=(_last_path(kind),), rslora=True)))
    return [
        pytest.param(kind, method, with_net, id=f"{name}-{kind}-{how}")
        for name, kind, method in cases
        for how, with_net in (("exported", True), ("saved", False))
        if with_net or name != "norms"  # PEFT keeps whole tensors, which only the net knows
    ]


def _last_path(kind: str) -> str:
    return [n for n, _ in net(kind).named_modules() if n.endswith(NAMES[kind]["one"])][-1]


def loaded_by_peft(folder: Path, kind: str) -> Any:
    """Return what PEFT makes of a folder; a key that is missing or left over fails the test."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(net(kind), str(folder)).eval()
        result = peft.set_peft_model_state_dict(model, peft.load_peft_weights(str(folder)))
    about = [str(w.message) for w in said]
    assert not [
        m for m in about if re.search(r"missing|unexpected|fan_in_fan_out|unknown", m, re.I)
    ]
    assert result.unexpected_keys == []
    return model


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (CONFIG, TENSORS)}


def check_tensors(model: Any, path: Path) -> None:
    """Every tensor that PEFT wrote arrived, under its own name, with its own values."""
    written = {
        n: t for n, t in load_file(path / TENSORS).items() if ".vera_" not in n or ".model." in n
    }
    own = {f"{BASE}{name}": tensor for name, tensor in weights(model).items()}
    for name, tensor in written.items():
        if ".ln_tuning_layers." in name:
            where, _, end = name.removeprefix(BASE).partition(".ln_tuning_layers.")
            part = model.get_submodule(where)
            torch.testing.assert_close(part.changed()[end], tensor, rtol=0, atol=1e-6)
        else:
            assert torch.equal(own.pop(name), tensor), name
    assert all("delta_" in name for name in own)


@pytest.mark.parametrize("case", theirs(), ids=str)
def test_what_peft_writes_is_read_and_written_again(case: Case, tmp_path: Path) -> None:
    model = peft.get_peft_model(net(case.kind), case.config(**case.settings))
    fill_theirs(model)
    expected = logits(model.eval(), case.kind)
    assert (expected - logits(net(case.kind), case.kind)).abs().max() > 1e-2
    model.save_pretrained(str(tmp_path / "theirs"))
    if "patterns" in case.name:  # PEFT sorts them when it saves: the folder says other than the net
        expected = logits(loaded_by_peft(tmp_path / "theirs", case.kind), case.kind)

    fresh = net(case.kind)
    method = load_trained(fresh, tmp_path / "theirs")
    check_tensors(fresh, tmp_path / "theirs")
    torch.testing.assert_close(logits(fresh, case.kind), expected, rtol=0, atol=1e-4)

    export_peft(fresh, method, tmp_path / "ours", base="tiny")
    back = loaded_by_peft(tmp_path / "ours", case.kind)
    torch.testing.assert_close(logits(back, case.kind), expected, rtol=0, atol=1e-4)
    if "pissa" not in case.name:  # that one becomes a plain LoRA of twice the rank
        first, again = (load_file(tmp_path / f / TENSORS) for f in ("theirs", "ours"))
        assert {*again} - {*first} <= {"base_model.vera_A", "base_model.vera_B"}
        for name, tensor in first.items():
            torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-6)

    second = net(case.kind)
    method = load_trained(second, tmp_path / "ours")
    export_peft(second, method, tmp_path / "again", base="tiny")
    assert folder_bytes(tmp_path / "again") == folder_bytes(tmp_path / "ours")


@pytest.mark.parametrize(("kind", "method", "with_net"), ours())
def test_what_sapwood_writes_is_read_by_peft(
    kind: str, method: Any, with_net: bool, tmp_path: Path
) -> None:
    attached = net(kind)
    method.attach(attached)
    if getattr(method, "start", None) != "pissa":
        fill_ours(attached)
    else:
        with torch.no_grad():
            for key, tensor in weights(attached).items():
                tensor += filled(BASE + key, tensor.shape)
    expected = logits(attached, kind)
    assert (expected - logits(net(kind), kind)).abs().max() > 1e-2
    if with_net:
        export_peft(attached, method, tmp_path / "ours", base="tiny")
    else:
        write_method(
            stored(attached), method, tmp_path / "ours", base="t", transposed=transposed(attached)
        )
    model = loaded_by_peft(tmp_path / "ours", kind)
    torch.testing.assert_close(logits(model, kind), expected, rtol=0, atol=1e-4)
    model.save_pretrained(str(tmp_path / "theirs"))
    fresh = net(kind)
    load_trained(fresh, tmp_path / "theirs")
    torch.testing.assert_close(logits(fresh, kind), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("config", [peft.PromptTuningConfig, peft.PromptEncoderConfig])
def test_prompts_go_both_ways(config: Any, kind: str, tmp_path: Path) -> None:
    sizes = {} if config is peft.PromptTuningConfig else {"encoder_hidden_size": 16}
    made = config(task_type="CAUSAL_LM", num_virtual_tokens=5, **sizes)
    model = peft.get_peft_model(net(kind), made).eval()
    for name, tensor in model.named_parameters():
        if tensor.requires_grad:
            tensor.data = filled(name, tensor.shape)
    expected = logits(model, kind)[:, 5:]
    model.save_pretrained(str(tmp_path / "theirs"))
    fresh = net(kind)
    method = load_trained(fresh, tmp_path / "theirs")
    assert method == Prompt(tokens=5, start="random")
    front = torch.tensor([virtual_ids(fresh)] * len(IDS))
    torch.testing.assert_close(
        logits(fresh, kind, torch.cat((front, IDS), 1))[:, 5:], expected, rtol=0, atol=1e-4
    )
    export_peft(fresh, method, tmp_path / "ours", base="tiny")
    back = peft.PeftModel.from_pretrained(net(kind), str(tmp_path / "ours")).eval()
    torch.testing.assert_close(logits(back, kind)[:, 5:], expected, rtol=0, atol=1e-4)
    first, again = (load_file(tmp_path / f / TENSORS) for f in ("theirs", "ours"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("kind", DECODERS)
def test_prefixes_go_both_ways(kind: str, tmp_path: Path) -> None:
    made = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model = peft.get_peft_model(net(kind), made).eval()
    table = model.prompt_encoder["default"].embedding.weight
    table.data = filled("prompt_embeddings", table.shape)
    expected = logits(model, kind)[0]
    model.save_pretrained(str(tmp_path / "theirs"))
    tensor = read_prefix(tmp_path / "theirs")
    decoder = Decoder(net(kind))
    layers = StoredPrefix(tensor=tensor, origin="PEFT", trained=True).layers(
        torch.float32, torch.device("cpu")
    )
    row = Row(ids=IDS[0].tolist(), wanted=range(IDS.shape[1]))
    ((_, states),) = decoder.hidden([row], Prefix(ids=(0,) * 5, layers=layers))
    found = decoder.net.get_output_embeddings()(states)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    write_prefix(tensor, tmp_path / "ours", base="tiny")
    back = peft.PeftModel.from_pretrained(net(kind), str(tmp_path / "ours")).eval()
    torch.testing.assert_close(logits(back, kind)[0], expected, rtol=0, atol=1e-4)
    fresh = net(kind)
    method = load_trained(fresh, tmp_path / "theirs")
    torch.testing.assert_close(logits(fresh, kind)[0], expected, rtol=0, atol=1e-4)
    export_peft(fresh, method, tmp_path / "exported", base="tiny")
    assert folder_bytes(tmp_path / "exported") == folder_bytes(tmp_path / "ours")


def saved(tmp_path: Path, config: Any, kind: str = "llama") -> Path:
    model = peft.get_peft_model(net(kind), config)
    fill_theirs(model)
    model.save_pretrained(str(tmp_path))
    return tmp_path


def test_swapped_tensors_would_show(tmp_path: Path) -> None:
    """The oracle itself: two layers' tensors of one shape, changed over, move the logits."""
    folder = saved(tmp_path, peft.LoraConfig(r=3, target_modules=["v_proj"]))
    right = net("llama")
    load_trained(right, folder)
    tensors = load_file(folder / TENSORS)
    one, other = (f"{BASE}model.layers.{n}.self_attn.v_proj.lora_A.weight" for n in (0, 1))
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, folder / TENSORS)
    wrong = net("llama")
    load_trained(wrong, folder)
    assert (logits(wrong, "llama") - logits(right, "llama")).abs().max() > 1e-2


@pytest.mark.parametrize("start", ["olora", "pissa_niter_4"])
def test_starts_that_move_the_base_are_refused_with_the_cure(start: str, tmp_path: Path) -> None:
    folder = saved(
        tmp_path, peft.LoraConfig(r=3, init_lora_weights=start, target_modules=["v_proj"])
    )
    with pytest.raises(ModelError, match=f"'{start}' moved the base's.*path_initial_model"):
        load_trained(net("llama"), folder)


def test_all_that_cannot_be_read_is_named_at_once(tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=3, target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head", "norm"],
        bias="lora_only", trainable_token_indices=None, lora_bias=False,
    )  # fmt: skip
    folder = saved(tmp_path, config)
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(content | {"use_qalora": True, "of_tomorrow": 3}))
    with pytest.raises(ModelError) as caught:
        read_peft(folder)
    assert caught.value.code == "E-MODEL-022"
    said = "\n".join(caught.value.details)
    for part in (
        "modules_to_save: lm_head, norm were trained whole beside it",
        "use_qalora = True is not supported",
        "of_tomorrow = 3 is not supported",
        "bias = 'lora_only' is not supported",
        "embed_tokens.lora_embedding_A",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_modules": "["}, "is no regular expression"),
        ({"r": "eight"}, "a setting has another type"),
        ({"peft_type": "BONE"}, "peft_type is 'BONE'; Sapwood reads LORA, IA3, VERA"),
        ({"target_modules": None}, "target_modules is missing"),
    ],
)
def test_broken_configurations_are_named(change: Any, message: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, peft.LoraConfig(r=3, target_modules=["q_proj"]))
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(content | change))
    with pytest.raises(ModelError) as caught:
        load_trained(net("llama"), folder)
    assert message in str(caught.value)


def test_a_target_without_tensors_stops_the_load(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=3, target_modules=r".*(q|v)_proj")
    folder = saved(tmp_path, config)
    tensors = load_file(folder / TENSORS)
    save_file(
        {n: t for n, t in tensors.items() if "layers.1.self_attn.v" not in n}, folder / TENSORS
    )
    fresh = net("llama")
    with pytest.raises(ModelError) as caught:
        load_trained(fresh, folder)
    assert "model.layers.1.self_attn.v_proj is targeted, but not in the file" in str(caught.value)
    assert not list(parts(fresh))


def test_random_matrices_of_another_generator_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, peft.VeraConfig(r=4, target_modules=["q_proj"]))
    tensors = load_file(folder / TENSORS)
    tensors["base_model.vera_A"] = torch.randn_like(tensors["base_model.vera_A"])
    save_file(tensors, folder / TENSORS)
    fresh = net("llama")
    with pytest.raises(ModelError, match="not the matrices that projection_prng_key gives"):
        load_trained(fresh, folder)
    assert not list(parts(fresh))


def test_what_peft_has_no_words_for_is_named(tmp_path: Path) -> None:
    attached = net("llama")
    adapter = Adapter()
    adapter.attach(attached)
    with pytest.raises(ConfigError, match="PEFT has no method like adapter") as caught:
        export_peft(attached, adapter, tmp_path, base="tiny")
    assert caught.value.code == "E-CONFIG-028"
    attached = net("llama")
    Lora(rank=4).attach(attached)
    Ia3().attach(attached)
    with pytest.raises(ConfigError) as caught:
        export_peft(attached, Lora(rank=3), tmp_path, base="tiny")
    said = "\n".join(caught.value.details)
    assert "down_proj.ia3_l belongs to no part of it" in said
    assert "model.layers.0.mlp.down_proj has rank 4, the method says 3" in said
    assert not list(tmp_path.iterdir())


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    folder = saved(tmp_path, peft.LoraConfig(r=3, target_modules=["q_proj"]))
    (folder / TENSORS).rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.bin is a pickle"):
        load_trained(net("llama"), folder)
