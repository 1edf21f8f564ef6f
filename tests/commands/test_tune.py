"""`sapwood tune`: the half of `adapt` that trains."""

import json

import pytest

from sapwood.commands.tune import METHODS


@pytest.mark.parametrize("rank", [1, 3])
def test_rank_and_rate_reach_the_weights(
    sapwood, small_base, write_rows, tmp_path, monkeypatch, rank
):
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    ran = sapwood(
        "tune", write_rows(tmp_path / "d.csv"), "--model", small_base, "--encoder", "none",
        "--rank", rank, "--epochs", "0.5", "--learning-rate", "1e-3", "--device", "cpu",
        "--dtype", "float32", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    report = json.loads(ran.out)
    folder = tmp_path / "out" / "run" / "candidates" / "lora" / "adaptation"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (rank, 2 * rank)
    curve = report["curves"]["lora"]
    assert max(curve["lr"]) == pytest.approx(1e-3)
    assert len(curve["step"]) == round(0.5 * report["splits"]["train"] / 16)
    assert f"lora r={rank}" in next(
        c["parts"]["method"] for c in report["candidates"] if c["name"] == "lora"
    )


def test_methods_are_listed_where_one_is_unknown(sapwood):
    ran = sapwood("tune", "d.csv", "--method", "prefex")
    assert ran.code == 2
    assert all(name in ran.err for name in METHODS)
