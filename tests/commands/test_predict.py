"""`sapwood predict`: a line a row, in the order of the rows."""

import json

import pytest

TEXTS = ["a great lovely film", "a dull sour plot", "superb cast"]


@pytest.fixture
def predict(sapwood, small_run):
    def run(*arguments, candidate="lora"):
        folder = small_run.out / "run" / "candidates" / candidate / "adaptation"
        return sapwood("predict", folder, *arguments, "--device", "cpu", "--dtype", "float32")

    return run


@pytest.mark.parametrize("candidate", ["tf-idf", "few-shot-4", "probe", "lora+context"])
def test_json_is_one_object_a_row(predict, candidate):
    ran = predict(*TEXTS, "--json", candidate=candidate)
    assert ran.code == 0
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["text"] for line in lines] == TEXTS
    for line in lines:
        assert set(line) == {"text", "label", "probabilities"}
        assert set(line["probabilities"]) == {"negative", "positive"}
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-9)
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)


def test_plain_lines_have_label_probability_and_text(predict):
    ran = predict(*TEXTS)
    rows = [line.split("\t") for line in ran.out.splitlines()]
    assert [row[2] for row in rows] == TEXTS
    assert all(row[0] in ("negative", "positive") and 0.5 <= float(row[1]) <= 1 for row in rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
def test_files_are_read_in_order_with_or_without_labels(predict, tmp_path, suffix):
    path = tmp_path / f"d.{suffix}"
    if suffix == "csv":
        path.write_text("text\n" + "\n".join(TEXTS) + "\n")
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps({"text": t, "label": "?"}) for t in TEXTS))
    else:
        path.write_text("\n".join(TEXTS) + "\n")
    ran = predict("--data", path, "--json")
    if suffix == "txt" and ran.code:
        assert ran.code == 3 and "txt" in ran.err and "Fix: " in ran.err
        return
    assert [json.loads(line)["text"] for line in ran.out.splitlines()] == TEXTS


def test_more_rows_than_one_chunk_stay_in_order(predict, tmp_path):
    texts = [f"great film number {n}" for n in range(150)]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(json.dumps({"text": t}) for t in texts))
    ran = predict("--data", path, "--json", candidate="zero-shot")
    assert [json.loads(line)["text"] for line in ran.out.splitlines()] == texts


def test_rows_that_cannot_be_predicted_are_named(predict, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(json.dumps({"text": t}) for t in ["fine", "", "dull"]))
    ran = predict("--data", path, "--json", candidate="tf-idf")
    assert len(ran.out.splitlines()) == 2
    assert "not predicted: " in ran.err and "row 2" in ran.err


def test_the_folder_of_the_run_will_do(sapwood, small_run):
    ran = sapwood("predict", small_run.out, "great", "--device", "cpu", "--dtype", "float32")
    assert ran.code == 0


def test_either_texts_or_a_file(predict, tmp_path):
    for arguments in ([], ["text", "--data", tmp_path / "d.csv"]):
        ran = predict(*arguments)
        assert ran.code == 2 and "E-CONFIG-056" in ran.err


def test_rows_below_a_probability_get_no_answer(predict):
    plain = [json.loads(line) for line in predict(*TEXTS, "--json").out.splitlines()]
    sure = sorted(max(line["probabilities"].values()) for line in plain)
    ran = predict(*TEXTS, "--json", "--abstain", f"{(sure[0] + sure[1]) / 2:.9f}")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["label"] is None for line in lines].count(True) == 1
    assert "1 of 3 rows have no answer" in ran.err
    for line, before in zip(lines, plain, strict=True):
        assert line.get("best", line["label"]) == before["label"]
        assert line["probabilities"] == before["probabilities"]
    rows = [line.split("\t")[0] for line in predict(*TEXTS, "--abstain", "1").out.splitlines()]
    assert rows == ["(no answer)"] * 3
    answered = predict(*TEXTS, "--abstain", "0")
    assert "(no answer)" not in answered.out and "no answer" not in answered.err


def test_a_coverage_takes_the_threshold_of_the_development_rows(predict, small_run):
    folder = small_run.out / "run" / "candidates" / "tf-idf" / "adaptation"
    quantiles = json.loads((folder / "adaptation.json").read_text())["decision"]["quantiles"]
    by_share = predict(*TEXTS, "--json", "--coverage", "0.5", candidate="tf-idf")
    by_value = predict(*TEXTS, "--json", "--abstain", str(quantiles[50]), candidate="tf-idf")
    assert by_share.out == by_value.out
    assert "(no answer)" not in predict(*TEXTS, "--coverage", "1", candidate="tf-idf").out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--abstain", "0.5", "--coverage", "0.5"], "E-CONFIG-163", "both say which rows"),
        (["--coverage", "1.5"], "E-CONFIG-160", "The coverage is 1.5; it is the share of rows"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(predict, arguments, code, sentence):
    ran = predict(*TEXTS, *arguments)
    assert ran.code == 2 and code in ran.err and sentence in " ".join(ran.err.split())
