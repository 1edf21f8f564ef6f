"""`sapwood pretrain`: from a corpus to a base that the other commands take, killed or not."""

from __future__ import annotations

import json
import signal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sapwood.testing.corpora import TOPICS, tiny_corpus

RUN = "from sapwood.cli import main; import sys; main(sys.argv[1:])"
QUICK = ("--length", "32", "--batch-size", "4", "--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "tiny", count=60, held=12)


def weights(out: Path) -> str:
    return sha256((out / "model.safetensors").read_bytes()).hexdigest()


def test_a_net_from_nothing(corpus: Path, tmp_path: Path, sapwood: Any) -> None:
    out = tmp_path / "out"
    ran = sapwood(
        "pretrain", corpus, "--model", "bert-tiny", "--objective", "mlm+nsp", "--steps", "3",
        "--out", out, *QUICK,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.out.startswith("bert-tiny · mlm+nsp · held-out mlm ")
    assert "3 steps of 4 rows of 32 tokens" in " ".join(ran.err.split())
    assert "learnt from " in ran.err and f"Next: sapwood adapt DATA --model {out}" in ran.err
    again = sapwood(
        "pretrain", corpus, "--model", "bert-tiny", "--objective", "mlm+nsp", "--steps", "3",
        "--out", out, *QUICK, "--json",
    )  # fmt: skip
    assert json.loads(again.out)["schema"] == "sapwood.pretraining/1"


def test_the_usual_objective_is_the_default(corpus: Path, tmp_path: Path, sapwood: Any) -> None:
    ran = sapwood("pretrain", corpus, "--model", "xlnet-tiny", "--steps", "1", "--out",
                  tmp_path / "out", *QUICK, "--json")  # fmt: skip
    assert json.loads(ran.out)["objective"] == "plm"


def test_a_wrong_pair_is_refused_before_anything_is_written(
    corpus: Path, tmp_path: Path, sapwood: Any
) -> None:
    out = tmp_path / "out"
    ran = sapwood("pretrain", corpus, "--model", "t5-tiny", "--objective", "mlm", "--steps", "1",
                  "--out", out, *QUICK)  # fmt: skip
    assert ran.code == 2 and "E-CONFIG-241" in ran.err
    assert "--objective span, or --model bert-tiny or --model albert-tiny" in ran.err
    assert not out.exists()


def test_two_lengths_of_a_run_are_refused(corpus: Path, sapwood: Any) -> None:
    ran = sapwood("pretrain", corpus, "--model", "gpt-tiny", "--steps", "1", "--budget", "1m")
    assert ran.code == 2 and "--budget and --steps both say how long to train." in ran.err


def test_nets_are_listed(sapwood: Any) -> None:
    ran = sapwood("pretrain", "--models")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert any(line.split()[:1] == ["bert-base"] and "mlm, nsp, sop" in line for line in lines)
    assert any(line.split()[:1] == ["ngram-5"] for line in lines)


def test_counting_is_pretraining_too(corpus: Path, tmp_path: Path, sapwood: Any) -> None:
    out = tmp_path / "out"
    ran = sapwood("pretrain", corpus, "--model", "ngram-3", "--out", out, "--json")
    assert ran.code == 0, ran.err
    evidence = json.loads(ran.out)
    assert 0.1 < evidence["held_out"]["held"]["bits_per_byte"] < 1.5
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "sapwood_ngram" and config["order"] == 3
    assert (out / "tokenizer.json").exists() and (out / "README.md").exists()
    ran = sapwood("pretrain", corpus, "--model", "ngram-3", "--objective", "mlm", "--out", out)
    assert ran.code == 2 and "E-CONFIG-241" in ran.err


def test_killed_anywhere_it_ends_with_the_same_bytes(
    corpus: Path, tmp_path: Path, live: Any
) -> None:
    code = f"import sapwood.training.course as c; c.CHECKPOINT_SECONDS = 0.0; {RUN}"
    quick = ("pretrain", corpus, "--model", "gpt-tiny", "--steps", "12", *QUICK, "--out")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert live(code, *quick, whole).code == 0
    marks = ("run/plan.json", "run/checkpoint-3", "run/checkpoint-8", "run/checkpoint-12", ".made")
    for mark in marks:
        ended = live(code, *quick, cut, signal=signal.SIGKILL, when=str(cut / mark))
        assert ended.code in (-signal.SIGKILL, 0), ended.text
    assert live(code, *quick, cut).code == 0
    assert weights(cut) == weights(whole)
    for name in ("config.json", "tokenizer.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(p.name for p in cut.iterdir()) == sorted(p.name for p in whole.iterdir())


@pytest.mark.parametrize("net", ["bert-tiny", "decoder-tiny"])
def test_the_result_is_a_base_like_any_other(
    corpus: Path, tmp_path: Path, sapwood: Any, write_rows: Any, net: str
) -> None:
    base = tmp_path / "base"
    ran = sapwood("pretrain", corpus, "--model", net, "--steps", "30", "--out", base,
                  "--length", "256", "--batch-size", "2", "--dtype", "float32")  # fmt: skip
    assert ran.code == 0, ran.err
    rows = [
        (f"the old {word} sees", label)
        for _ in range(12)
        for label, topic in (("farm", TOPICS[0]), ("sea", TOPICS[1]))
        for word in topic[1:]
    ]
    data = write_rows(tmp_path / "topics.csv", rows)
    given = ("--model", base, "--encoder", "none", "--epochs", "1", "--device", "cpu",
             "--dtype", "float32")  # fmt: skip
    out = tmp_path / "run"
    ran = sapwood("tune", data, *given, "--out", out,
                  *(("--method", "head") if net == "bert-tiny" else ()))  # fmt: skip
    assert ran.code == 0, ran.err
    scored = sapwood("eval", out / "adaptation", "--data", data, "--json")
    assert scored.code == 0, scored.err
    if net == "decoder-tiny":
        assert sapwood("prompt", data, *given, "--out", tmp_path / "prompted").code == 0
