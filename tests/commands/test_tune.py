"""`sapwood tune`: the half of `adapt` that trains."""

import json
import shutil

import pytest

from sapwood.methods import METHODS


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
    assert len(curve["step"]) == round(0.5 * report["splits"]["train"] / 4)
    assert f"lora r={rank}" in next(
        c["parts"]["method"] for c in report["candidates"] if c["name"] == "lora"
    )


def test_methods_are_listed_where_one_is_unknown(sapwood):
    ran = sapwood("tune", "d.csv", "--method", "prefex")
    assert ran.code == 2
    assert all(name in ran.err for name in METHODS)


TRAINED = (
    "dora", "vera(rank=8)", "ia3", "adapter(width=4)", "adapter(placement=parallel)",
    "compacter(width=4)", "reft", "layernorm", "full", "prompt(tokens=4)", "p_tuning(tokens=4)",
    "prefix(tokens=4)", "prefix(tokens=4)+context", "prefix(tokens=4,start=text)",
    "prompt(start=text)+context", "lora(rank=2)+p_tuning(tokens=4,start=text)",
    "lora(rank=2)+ia3", "gated(lora+adapter)", "lora(start=pissa)+context",
    "lora(start=eva)", "compressed",
)  # fmt: skip


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_trains_is_kept_and_answers_the_same(
    sapwood, small_base, write_rows, tmp_path, monkeypatch, method
):
    """The golden probe is checked when the adaptation is opened: what was kept is what trained."""
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    data = write_rows(tmp_path / "d.csv")
    ran = sapwood(
        "tune", data, "--model", small_base, "--encoder", "none", "--epochs", "0.5",
        "--method", method, "--device", "cpu", "--dtype", "float32", "--out", tmp_path / "out",
        "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    (made,) = [c for c in report["candidates"] if c["name"] == method]
    assert made["status"] == "finished", made["why"]
    assert made["cost"]["trainable_parameters"] > 0
    folder = next((tmp_path / "out" / "run" / "candidates").glob(f"{method}/adaptation"))
    done = sapwood("predict", folder, "--data", data, "--json", "--device", "cpu",
                   "--dtype", "float32")  # fmt: skip
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) > 10


def test_the_methods_are_listed_with_their_settings(sapwood):
    ran = sapwood("tune", "--methods")
    assert ran.code == 0
    listed = ran.out
    assert all(f"{name}(" in listed for name in METHODS if name != "together")


def test_an_encoder_is_tuned_and_then_predicts_and_is_scored(
    sapwood, tiny_checkpoint, write_rows, tmp_path, monkeypatch
):
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    data = write_rows(tmp_path / "d.csv")
    ran = sapwood(
        "tune", data, "--model", tiny_checkpoint("bert"), "--method", "lora", "--encoder", "none",
        "--epochs", "1", "--device", "cpu", "--dtype", "float32", "--out", tmp_path / "out",
        "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    by_name = {c["name"]: c for c in report["candidates"]}
    assert list(by_name) == ["majority", "tf-idf", "lora"]
    assert by_name["lora"]["status"] == "finished", by_name["lora"]["why"]
    assert by_name["lora"]["parts"]["readout"] == "head" and by_name["lora"]["test"] is not None
    assert report["curves"]["lora"]["dev"]
    folder = tmp_path / "out" / "run" / "candidates" / "lora" / "adaptation"
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    exact = ("--device", "cpu", "--dtype", "float32", "--json")
    ran = sapwood("predict", folder, "a lovely film set in town", *exact)
    assert ran.code == 0, ran.err
    assert sum(json.loads(ran.out)["probabilities"].values()) == pytest.approx(1)
    ran = sapwood("eval", folder, "--data", data, *exact)
    assert ran.code == 0, ran.err
    assert 0 <= json.loads(ran.out)["accuracy"]["value"] <= 1


def test_trials_come_first_and_are_told(sapwood, small_base, write_rows, tmp_path, monkeypatch):
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    ran = sapwood(
        "tune", write_rows(tmp_path / "d.csv"), "--model", small_base, "--encoder", "none",
        "--epochs", "0.5", "--trials", 2, "--device", "cpu", "--dtype", "float32",
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    (made,) = [c for c in json.loads(ran.out)["candidates"] if c["name"] == "lora"]
    assert made["status"] == "finished", made["why"]
    tried = made["notes"]["trials"]
    assert len(tried) == 2 and all({"factor", "rank"} == set(t["params"]) for t in tried)
    best = min(tried, key=lambda t: t["loss"])
    assert f"lora r={best['params']['rank']}" in made["parts"]["method"]
    assert made["notes"]["learning_rate"] == pytest.approx(5e-4 * best["params"]["factor"])
    kept = [p.name for p in (tmp_path / "out" / "run" / "candidates").iterdir()]
    assert not [name for name in kept if "trial" in name]


@pytest.mark.parametrize("method", ["lora", "prompt(start=text)", "lora+context"])
def test_a_kind_it_cannot_train_is_refused_in_one_sentence_with_what_to_do(
    sapwood, tiny_checkpoint, write_rows, tmp_path, method
):
    """It is told as soon as the base is opened, whatever is to train."""
    kind, base = "bart", shutil.copytree(tiny_checkpoint("llama"), tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | {"model_type": kind}
    (base / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}))
    ran = sapwood(
        "tune", write_rows(tmp_path / "d.csv"), "--model", base, "--method",
        method, "--encoder", "none", "--device", "cpu", "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 5 and "Traceback" not in ran.err
    said = ran.err.splitlines()
    (place,) = [n for n, line in enumerate(said) if line.startswith("E-MODEL-009")]
    assert "does not adapt yet" in said[place] and kind in said[place]
    assert said[place + 1].startswith("  Fix: use a decoder or an encoder")
    assert len(said) == place + 2
    assert not (tmp_path / "out" / "adaptation").exists() and not ran.out


def test_xlnet_is_tuned_as_an_encoder(sapwood, tiny_checkpoint, write_rows, tmp_path, monkeypatch):
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    exact = ("--device", "cpu", "--dtype", "float32", "--json")
    ran = sapwood(
        "tune", write_rows(tmp_path / "d.csv"), "--model", tiny_checkpoint("xlnet"), "--epochs",
        "0.5", "--encoder", "none", "--out", tmp_path / "out", *exact,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    made = next(c for c in json.loads(ran.out)["candidates"] if c["name"] == "lora")
    assert made["status"] == "finished", made["why"]
    assert made["parts"]["method"] == "lora r=8" and made["parts"]["readout"] == "head"
    folder = tmp_path / "out" / "run" / "candidates" / "lora" / "adaptation"
    ran = sapwood("predict", folder, "a lovely film set in town", *exact)
    assert ran.code == 0, ran.err


def test_an_encoder_decoder_is_not_tuned_under_demonstrations(
    sapwood, tiny_checkpoint, write_rows, tmp_path
):
    ran = sapwood(
        "tune", write_rows(tmp_path / "d.csv"), "--model", tiny_checkpoint("t5"), "--method",
        "lora+context", "--encoder", "none", "--device", "cpu", "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 5 and "E-MODEL-161" in ran.err and "no lora+context" in ran.err
    assert "tune it on one label a text" in ran.err
    assert not (tmp_path / "out" / "adaptation").exists() and not ran.out
