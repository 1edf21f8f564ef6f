"""Names become frozen nets; every broken checkpoint is refused in one sentence."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sapwood.errors import ConfigError, ModelError, ResourceError
from sapwood.launch import Runtime, bfloat16_speedup, choose_runtime, raise_malloc_thresholds
from sapwood.models.encoder import Encoder
from sapwood.models.load import load_base, resolve_base
from sapwood.models.weights import read_tensors, weights_hash
from sapwood.testing import KINDS, tiny_net

FLOAT32 = Runtime(device="cpu", dtype="float32", threads=1)
Checkpoints = Callable[[str], Path]


@pytest.fixture
def broken(tiny_checkpoint: Checkpoints, tmp_path: Path) -> Path:
    """A copy of a whole Llama checkpoint, to be broken."""
    return Path(shutil.copytree(tiny_checkpoint("llama"), tmp_path / "checkpoint"))


@pytest.mark.parametrize("kind", [*KINDS, "bert"])
def test_a_folder_of_each_kind_loads_frozen(kind: str, tiny_checkpoint: Checkpoints) -> None:
    base = load_base(str(tiny_checkpoint(kind)), FLOAT32)
    assert base.kind == ("encoder" if kind == "bert" else "decoder")
    assert base.model_type == kind
    assert base.max_length == 512
    assert not base.net.training
    assert not any(p.requires_grad for p in base.net.parameters())
    assert base.tokenizer.pad_token_id is not None
    ids = torch.tensor([base.tokenizer("the sea")["input_ids"]])
    with torch.no_grad():
        loaded, original = base.net(ids)[0], tiny_net(kind)(ids)[0]
    assert torch.equal(loaded, original)


def test_the_runtime_decides_the_number_format(tiny_checkpoint: Checkpoints) -> None:
    half = Runtime(device="cpu", dtype="bfloat16", threads=1)
    base = load_base(str(tiny_checkpoint("llama")), half)
    assert {p.dtype for p in base.net.parameters()} == {torch.bfloat16}


def test_loading_says_nothing(
    tiny_checkpoint: Checkpoints, capfd: pytest.CaptureFixture[str]
) -> None:
    load_base(str(tiny_checkpoint("bert")), FLOAT32)
    assert capfd.readouterr() == ("", "")


def test_unknown_names_get_a_suggestion_and_the_list() -> None:
    with pytest.raises(ModelError) as caught:
        resolve_base("smolm2-135m")
    assert str(caught.value) == (
        "E-MODEL-001  Unknown base 'smolm2-135m'. Did you mean 'smollm2-135m'?\n"
        "  Fix: use smollm2-135m, gemma3-270m, minilm-l6, a hub id (owner/name), a folder or a "
        ".gguf file"
    )


def test_a_missing_path_is_named() -> None:
    with pytest.raises(ModelError, match=r"There is no folder or file 'nowhere/model\.gguf'"):
        resolve_base("nowhere/model.gguf")


def test_a_hub_id_offline_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ResourceError) as caught:
        resolve_base("nobody/no-such-model")
    assert "E-RESOURCE-013" in str(caught.value)
    assert "HF_HUB_OFFLINE is set" in str(caught.value)


def test_truncated_weights(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError) as caught:
        resolve_base(str(broken))
    assert caught.value.code == "E-MODEL-005"
    assert "damaged or cut short" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\xff" * 64, (8).to_bytes(8, "little") + b"not json"]
)
def test_weights_that_are_not_safetensors(broken: Path, content: bytes) -> None:
    (broken / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="damaged or cut short"):
        resolve_base(str(broken))


def test_missing_tokenizer(broken: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).unlink()
    with pytest.raises(ModelError, match="has no tokenizer") as caught:
        resolve_base(str(broken))
    assert caught.value.code == "E-MODEL-006"


def test_missing_config(broken: Path) -> None:
    (broken / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json") as caught:
        resolve_base(str(broken))
    assert caught.value.code == "E-MODEL-003"


def test_an_adapter_is_not_a_base(broken: Path) -> None:
    (broken / "config.json").rename(broken / "adapter_config.json")
    with pytest.raises(ModelError, match="it is an adapter") as caught:
        resolve_base(str(broken))
    assert caught.value.fix == "name the base it was trained on"


def test_pickles_are_refused_with_the_reason(broken: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(ModelError) as caught:
        resolve_base(str(broken))
    assert caught.value.code == "E-MODEL-004"
    assert "only pickled weights (pytorch_model.bin), and a pickle can run any code" in str(
        caught.value
    )


def test_a_missing_tensor_is_not_made_up(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_base(str(broken), FLOAT32)
    assert caught.value.code == "E-MODEL-008"
    assert "missing: model.layers.1.mlp.up_proj.weight" in str(caught.value)


def test_config_and_weights_of_different_models(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(ModelError, match=r"do not load as its config\.json says"):
        load_base(str(broken), FLOAT32)


def test_remote_code_must_be_asked_for_by_name(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoModelForCausalLM": "x.StrangeModel"}}
    (broken / "config.json").write_text(json.dumps(config))
    for trusted in ("", "another/model"):
        with pytest.raises(ModelError) as caught:
            resolve_base(str(broken), trust_remote_code=trusted)
        assert caught.value.code == "E-MODEL-007"
    assert resolve_base(str(broken), trust_remote_code=str(broken)).kind == "decoder"


def test_an_encoder_decoder_is_refused(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config |= {"model_type": "bart", "is_encoder_decoder": True}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="of the kind 'bart', which Sapwood does not adapt"):
        resolve_base(str(broken))


def test_a_t5_without_its_decoder_is_refused_by_its_name(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config |= {"model_type": "t5", "architectures": ["T5EncoderModel"]}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="of the kind 't5', which Sapwood does not adapt"):
        resolve_base(str(broken))


def test_xlnet_is_read_as_an_encoder_that_has_no_longest_text(
    tiny_checkpoint: Checkpoints,
) -> None:
    base = load_base(str(tiny_checkpoint("xlnet")), FLOAT32)
    assert (base.kind, base.max_length) == ("encoder", 512)
    rows = [[5, 6, 7, 8, 9], [7, 5]]
    encoder = Encoder(base.net)
    encoder.check_length([[5] * 600])
    for row, states in zip(rows, encoder.states(rows), strict=True):
        alone = base.net(input_ids=torch.tensor([row])).last_hidden_state[0]
        torch.testing.assert_close(states, alone, atol=1e-5, rtol=1e-5)


def test_xlnet_stays_in_single_precision(tiny_checkpoint: Checkpoints) -> None:
    """transformers' XLNet cannot multiply in half precision; a probe on one failed by it."""
    half = Runtime(device="cpu", dtype="bfloat16", threads=1)
    net = load_base(str(tiny_checkpoint("xlnet")), half).net
    assert net.dtype == torch.float32
    assert torch.isfinite(net(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state).all()
    assert load_base(str(tiny_checkpoint("bert")), half).net.dtype == torch.bfloat16


def test_the_hash_ignores_how_files_are_split(broken: Path) -> None:
    whole = weights_hash(broken)
    tensors = load_file(broken / "model.safetensors")
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({n: tensors[n] for n in part}, broken / f"part-{number}.safetensors")
    (broken / "model.safetensors").unlink()
    assert weights_hash(broken) == whole


def test_the_hash_sees_one_changed_value(broken: Path) -> None:
    before = weights_hash(broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-6
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert weights_hash(broken) != before


def test_the_hash_is_kept_until_a_file_changes(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = weights_hash(broken)
    monkeypatch.setattr("sapwood.models.weights.hash_tensors", lambda _: "recomputed")
    assert weights_hash(broken) == first
    (broken / "model.safetensors").touch()
    assert weights_hash(broken) == "recomputed"


def test_tensor_places_cover_the_file(broken: Path) -> None:
    file = broken / "model.safetensors"
    places = sorted(read_tensors(file).values(), key=lambda p: p.start)
    assert all(a.end == b.start for a, b in itertools.pairwise(places))
    assert places[-1].end == file.stat().st_size


def test_runtime_by_hand_and_by_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapwood.launch.bfloat16_speedup", lambda: 4.6)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert choose_runtime().describe() == (
        "cpu, 2 threads, bfloat16 (4.6x faster than float32 here)"
    )
    assert choose_runtime("cpu", "float32").describe() == "cpu, 2 threads, float32"
    monkeypatch.setattr("sapwood.launch.bfloat16_speedup", lambda: 0.8)
    assert choose_runtime().dtype == "float32"


def test_the_measurement_is_kept_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAPWOOD_HOME", str(tmp_path))
    first = bfloat16_speedup()
    assert first > 0
    monkeypatch.setattr("sapwood.launch._seconds", lambda _: 1.0)
    assert bfloat16_speedup() == pytest.approx(first, abs=1e-3)
    assert bfloat16_speedup(afresh=True) == 1.0
    kept = json.loads((tmp_path / "machine.json").read_text())
    kept["machine"]["torch"] = "another"
    (tmp_path / "machine.json").write_text(json.dumps(kept))
    monkeypatch.setattr("sapwood.launch._seconds", lambda d: 3.0 if d == "float32" else 1.0)
    assert bfloat16_speedup() == 3.0


def test_words_that_name_no_device_or_format() -> None:
    with pytest.raises(ConfigError, match="Unknown number format 'int3'"):
        choose_runtime("cpu", "int3")
    with pytest.raises(ConfigError, match="Unknown device 'gpu!'"):
        choose_runtime("gpu!")
    with pytest.raises(ResourceError, match="There is no device 'cuda:99' here"):
        choose_runtime("cuda:99", "float32")


def test_malloc_thresholds_are_accepted_or_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(raise_malloc_thresholds(), bool)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert raise_malloc_thresholds() is False
