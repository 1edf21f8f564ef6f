"""The main job end to end, through the real command line, on a tiny random base."""

import json
import math
import shutil

import numpy as np
import pytest

from sapwood.adaptation import load
from sapwood.evaluation import Bases, Predictor, check_golden
from sapwood.launch import Runtime

NAMES = {
    "majority", "tf-idf", "zero-shot", "knn", "probe", "few-shot-4", "few-shot-16",
    "few-shot-ordered", "channel", "knn-few-shot", "probe-few-shot", "few-shot-64",
    "few-shot-bank", "few-shot-8-bm25", "compressed", "lora", "lora+context",
}  # fmt: skip
RUNTIME = Runtime(device="cpu", dtype="float32", threads=1)
# What a clock or the memory of the process says is never the same twice.
TIMED = (
    "spent",
    "fit_seconds",
    "ms_per_query",
    "read_ms",
    "peak_bytes",
    "seconds",
    "actual_seconds",
)


def timeless(value):
    """Return a report without what the clock decides."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in (*TIMED, "verdict")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


@pytest.fixture
def report(small_run):
    return json.loads((small_run.out / "report.json").read_text())


def test_the_report_has_what_other_programs_rely_on(report):
    assert report["schema"] == "sapwood.report/1"
    assert report["task"] == "classification"
    splits = report["splits"]
    assert (
        splits["train"]
        + splits["dev"]
        + splits["test"]
        + sum(d["count"] for d in splits["dropped"])
        == report["data_card"]["rows"]
        == 120
    )
    assert {c["name"] for c in report["candidates"]} == NAMES
    assert isinstance(report["verdict"], str) and report["verdict"].endswith(".")
    assert isinstance(report["separable"], bool)
    assert report["budget"]["seconds"] == 600.0
    assert 0 < report["budget"]["spent"] < 120
    environment = report["environment"]
    assert {"sapwood", "python", "torch", "transformers", "machine"} <= set(environment)
    assert (environment["threads"] >= 1, environment["dtype"]) == (True, "float32")
    (base,) = environment["bases"]
    assert {"name", "sha256", "license"} <= set(base)
    json.dumps(report, allow_nan=False)


def test_every_candidate_says_how_it_ended_and_what_it_cost(report):
    for candidate in report["candidates"]:
        assert candidate["status"] == "finished", candidate["why"]
        assert set(candidate["parts"]) == {"context", "prefix", "method", "readout"}
        for split in ("dev", "test"):
            score = candidate[split]
            assert score["metric"] == "accuracy"
            assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
        assert 0 <= candidate["test"]["ece"] <= 1
        cost = candidate["cost"]
        assert cost["fit_seconds"] >= 0 and cost["ms_per_query"] > 0
        assert cost["peak_bytes"] > 1 << 20
        assert isinstance(cost["trainable_parameters"], int)
    costs = {c["name"]: c["cost"] for c in report["candidates"]}
    assert costs["lora"]["trainable_parameters"] == costs["lora+context"]["trainable_parameters"]
    assert costs["lora"]["trainable_parameters"] > 0 == costs["few-shot-4"]["trainable_parameters"]
    assert costs["few-shot-16"]["artifact_bytes"] > costs["zero-shot"]["artifact_bytes"]
    parts = {c["name"]: c["parts"] for c in report["candidates"]}
    assert parts["majority"] == {
        "context": None, "prefix": None, "method": None, "readout": "majority"
    }  # fmt: skip
    assert parts["lora+context"]["context"] and parts["lora+context"]["method"]


def test_the_recommended_is_the_best_on_development_rows(report):
    value = {c["name"]: c["dev"]["value"] for c in report["candidates"]}
    assert report["recommended"] == "tf-idf"
    assert value["tf-idf"] == max(value.values())


def test_the_curves_have_a_point_for_every_step(report):
    for name in ("lora", "lora+context"):
        curve = report["curves"][name]
        steps = curve["step"]
        assert steps == list(range(1, len(steps) + 1))
        assert {len(curve[key]) for key in ("loss", "lr", "seconds")} == {len(steps)}
        assert all(math.isfinite(loss) for loss in curve["loss"])
        assert curve["dev_step"][-1] == steps[-1]


def test_every_adaptation_loads_and_reproduces_its_golden_probe(small_run, report):
    bases = Bases(RUNTIME)
    folders = [small_run.out / "adaptation"]
    folders += [small_run.out / "run" / "candidates" / name / "adaptation" for name in NAMES]
    for folder in folders:
        with Predictor(load(folder), bases) as predictor:
            check_golden(predictor)
            found = predictor.probabilities(predictor.adaptation.golden.texts)
        np.testing.assert_allclose(found, predictor.adaptation.golden.probabilities, atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)


def test_every_candidate_predicts_the_test_rows_as_it_was_scored(small_run, report):
    rows = json.loads((small_run.out / "predictions.json").read_text())
    bases = Bases(RUNTIME)
    for name in NAMES:
        folder = small_run.out / "run" / "candidates" / name
        with Predictor(load(folder / "adaptation"), bases) as predictor:
            found = np.concatenate(list(predictor.stream([row["text"] for row in rows])))
        np.testing.assert_allclose(found, np.load(folder / "test.npy"), atol=1e-5)


def test_the_recommended_predicts_what_the_run_predicted(sapwood, small_run, tmp_path):
    rows = json.loads((small_run.out / "predictions.json").read_text())
    data = tmp_path / "test.jsonl"
    data.write_text("\n".join(json.dumps({"text": row["text"]}) for row in rows))
    ran = sapwood("predict", small_run.out, "--data", data, "--json")
    assert ran.code == 0
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["text"] for line in lines] == [row["text"] for row in rows]
    assert [line["label"] for line in lines] == [row["predicted"] for row in rows]


def test_no_test_or_dev_row_is_shown_as_a_demonstration(small_run):
    tested = {r["text"] for r in json.loads((small_run.out / "predictions.json").read_text())}
    for name in ("few-shot-4", "few-shot-16", "few-shot-8-bm25", "lora+context"):
        made = load(small_run.out / "run" / "candidates" / name / "adaptation")
        shown = {d.text for d in made.context.demonstrations}
        assert shown and not shown & tested
        assert not shown & set(made.golden.texts)  # these are development rows


def test_a_second_identical_run_makes_nothing_again(sapwood, small_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(small_run.out, out)
    arguments = [*small_run.arguments[:-1], out]
    candidates = out / "run" / "candidates"
    kept = {
        path: path.stat().st_mtime_ns
        for name in ("result.json", "test.npy", "adaptation.json", "probabilities.npy")
        for path in candidates.rglob(name)
    }
    assert len(kept) == 4 * len(NAMES)
    before = json.loads((out / "report.json").read_text())
    ran = sapwood(*arguments)
    assert ran.code == 0
    assert ran.err.count("done before") == len(NAMES)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    after = json.loads((out / "report.json").read_text())
    before["reproduce"].pop("command"), after["reproduce"].pop("command")
    assert timeless(after) == timeless(before)
    assert after["recommended"] == before["recommended"]


def test_more_budget_resumes_but_other_settings_are_refused(sapwood, small_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(small_run.out, out)
    arguments = [*small_run.arguments[:-1], out]
    ran = sapwood(*arguments, "--budget", "20m")
    assert ran.code == 0 and "done before" in ran.err
    ran = sapwood(*arguments, "--rank", "4")
    assert ran.code == 2
    assert "E-CONFIG-053" in ran.err and "--fresh" in ran.err


def test_json_prints_the_report_and_nothing_else(sapwood, small_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(small_run.out, out)
    ran = sapwood(*small_run.arguments[:-1], out, "--json")
    assert ran.code == 0
    assert json.loads(ran.out) == json.loads((out / "report.json").read_text())


@pytest.fixture
def adapt(sapwood, small_base, tmp_path, monkeypatch):
    def run(data, *arguments, verb="adapt", out="out", page=False):
        if not page:  # drawing takes longer than all the rest
            monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
        ran = sapwood(
            verb, data, "--model", small_base, "--encoder", "none", "--budget", "5m",
            "--epochs", "1", "--device", "cpu", "--dtype", "float32", "--out", tmp_path / out,
            *arguments,
        )  # fmt: skip
        assert "Traceback" not in ran.err
        path = tmp_path / out / "report.json"
        return ran, json.loads(path.read_text()) if path.exists() else None

    return run


def test_limits_on_size_and_speed_exclude_candidates(adapt, write_rows, tmp_path):
    data = write_rows(tmp_path / "d.csv")
    ran, report = adapt(data, "--max-bytes", "10000", verb="tune")
    assert ran.code == 0
    status = {c["name"]: (c["status"], c["why"]) for c in report["candidates"]}
    assert status["lora"][0] == "stopped" and "--max-bytes 10,000" in status["lora"][1]
    assert status["majority"] == ("finished", "")
    assert report["recommended"] in {n for n, (s, _) in status.items() if s == "finished"}
    assert report["budget"]["max_bytes"] == 10000

    ran, report = adapt(data, "--max-ms", "0.000001", verb="tune", out="slow")
    assert ran.code == 4
    assert report["recommended"] is None
    assert all("--max-ms" in c["why"] for c in report["candidates"])
    assert "E-RESOURCE-014" in ran.err and not (tmp_path / "slow" / "adaptation").exists()


def test_chinese_data_gets_a_chinese_report(adapt, write_rows, tmp_path):
    good, bad = ["房间很干净", "服务热情", "早餐丰富"], ["隔音太差", "价格太贵", "态度冷淡"]
    rows = [
        (f"{(good if i % 2 else bad)[i % 3]}，第{i}次入住，{'靠近地铁' * (1 + i % 4)}。",
         ("差评", "好评")[i % 2])
        for i in range(60)
    ]  # fmt: skip
    ran, report = adapt(write_rows(tmp_path / "酒店.csv", rows), page=True)
    assert ran.code == 0, ran.err
    assert report["language"] == "zh"
    assert any("一" <= letter <= "鿿" for letter in report["verdict"])
    assert set(report["data_card"]["labels"]) == {"好评", "差评"}
    assert "好评" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_twelve_labels(adapt, write_rows, tmp_path):
    names = [f"t{n}" for n in range(12)]
    rows = [(f"on {names[i % 12]} item {i * 37}", names[i % 12]) for i in range(120)]
    ran, report = adapt(write_rows(tmp_path / "d.csv", rows))
    assert ran.code == 0, ran.err
    assert len(report["confusion"]["labels"]) == len(report["confusion"]["counts"]) == 12
    finished = {c["name"] for c in report["candidates"] if c["status"] == "finished"}
    assert {"tf-idf", "zero-shot", "lora"} <= finished


def test_labels_that_are_integers(adapt, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(
        "\n".join(
            json.dumps(
                {"text": f"{'up' if i % 3 else 'down'} case {i * 31} of all", "label": i % 3}
            )
            for i in range(90)
        )
    )
    ran, report = adapt(path)
    assert ran.code == 0, ran.err
    assert list(report["data_card"]["labels"]) == ["0", "1", "2"]
    assert load(tmp_path / "out" / "adaptation").labels == ("0", "1", "2")


def test_a_label_that_only_the_test_file_has_counts_as_an_error(adapt, write_rows, tmp_path):
    rows = [(f"{'fine' if i % 2 else 'poor'} thing {i * 17} here", "ab"[i % 2]) for i in range(80)]
    train = write_rows(tmp_path / "train.csv", rows)
    extra = [(f"unseen item {i * 13} there", "c") for i in range(5)]
    extra += [(f"{'fine' if i % 2 else 'poor'} other {i * 7} now", "ab"[i % 2]) for i in range(15)]
    test = write_rows(tmp_path / "test.csv", extra)
    ran, report = adapt(train, "--test", test)
    assert ran.code == 0, ran.err
    assert report["splits"]["test"] == 20
    support = {c["label"]: c["support"] for c in report["per_class"]}
    assert support["c"] == 5
    chosen = next(c for c in report["candidates"] if c["name"] == report["recommended"])
    assert chosen["test"]["value"] <= 15 / 20
    assert load(tmp_path / "out" / "adaptation").labels == ("a", "b")


def test_prompt_and_tune_try_their_families_only(adapt, write_rows, tmp_path):
    data = write_rows(tmp_path / "d.csv", count=60)
    _, report = adapt(data, verb="prompt", out="p")
    assert {c["name"] for c in report["candidates"]} == NAMES - {
        "compressed",
        "lora",
        "lora+context",
    }
    _, report = adapt(data, "--method", "lora+context", "--scope", "all", verb="tune", out="c")
    names = [c["name"] for c in report["candidates"]]
    assert "lora+context" in names and "lora" not in names
    made = load(tmp_path / "c" / "run" / "candidates" / "lora+context" / "adaptation")
    assert made.scope == "all"


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    adapt, write_rows, small_run, tmp_path
):
    data = small_run.data
    inside = "run/candidates/lora/adaptation/adapter_model.safetensors"
    _, report = adapt(data, verb="tune", out="a")
    assert [c["name"] for c in report["candidates"]] == ["majority", "tf-idf", "lora"]
    adapt(data, "--seed", "1", verb="tune", out="b")
    first = (tmp_path / "a" / inside).read_bytes()
    assert first == (small_run.out / inside).read_bytes()
    assert first != (tmp_path / "b" / inside).read_bytes()


def test_a_budget_too_short_for_all_says_what_was_stopped(
    sapwood, small_base, write_rows, tmp_path
):
    ran = sapwood(
        "adapt", write_rows(tmp_path / "d.csv"), "--model", small_base, "--encoder", "none",
        "--budget", "1.2s", "--device", "cpu", "--dtype", "float32", "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.code in (0, 4)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    stopped = [c for c in report["candidates"] if c["status"] == "stopped"]
    assert stopped and all(c["why"] for c in stopped)
