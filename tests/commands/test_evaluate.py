"""`sapwood eval`: the same scores as by hand, labels nobody trained on counted as errors."""

import json

import pytest


@pytest.fixture
def evaluate(sapwood, small_run):
    def run(*arguments, candidate="tf-idf"):
        folder = small_run.out / "run" / "candidates" / candidate / "adaptation"
        return sapwood("eval", folder, *arguments, "--device", "cpu", "--dtype", "float32")

    return run


ROWS = [("great film", "positive"), ("dull film", "negative"), ("superb song", "positive"),
        ("lovely art", "negative")]  # fmt: skip


def test_json_has_scores_with_intervals_and_classes(evaluate, write_rows, tmp_path):
    ran = evaluate("--data", write_rows(tmp_path / "d.csv", ROWS), "--json")
    content = json.loads(ran.out)
    assert ran.code == 0
    assert content["rows"] == 4
    assert content["accuracy"]["value"] == 0.75
    assert content["accuracy"]["low"] <= 0.75 <= content["accuracy"]["high"]
    assert content["per_class"]["positive"] == {
        "precision": pytest.approx(2 / 3), "recall": 1.0, "f1": pytest.approx(0.8), "support": 2
    }  # fmt: skip
    assert 0 <= content["ece"] <= 1


def test_the_test_rows_give_the_score_of_the_report(sapwood, small_run, write_rows, tmp_path):
    rows = json.loads((small_run.out / "predictions.json").read_text())
    data = write_rows(tmp_path / "t.csv", [(r["text"], r["label"]) for r in rows])
    report = json.loads((small_run.out / "report.json").read_text())
    for candidate in report["candidates"]:
        name = candidate["name"]
        folder = small_run.out / "run" / "candidates" / name / "adaptation"
        ran = sapwood("eval", folder, "--data", data, "--json", "--dtype", "float32")
        content = json.loads(ran.out)
        assert content["accuracy"]["value"] == pytest.approx(candidate["test"]["value"]), name
        assert content["ece"] == pytest.approx(candidate["test"]["ece"], abs=1e-4), name


def test_a_label_nobody_trained_on_is_an_error_not_a_crash(evaluate, write_rows, tmp_path):
    ran = evaluate("--data", write_rows(tmp_path / "d.csv", [*ROWS, ("x y", "odd")]), "--json")
    content = json.loads(ran.out)
    assert content["accuracy"]["value"] == 0.6
    assert content["per_class"]["odd"]["recall"] == 0


def test_words_for_people(evaluate, write_rows, tmp_path):
    ran = evaluate("--data", write_rows(tmp_path / "d.csv", ROWS))
    assert "accuracy" in ran.out and "0.750" in ran.out and "positive" in ran.out


def test_a_file_without_labels_is_named(evaluate, tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("text\nx\ny\n")
    ran = evaluate("--data", path)
    assert ran.code == 3 and "E-DATA-" in ran.err and "--label" in ran.err
