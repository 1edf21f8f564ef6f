"""What development rows decide: temperature, thresholds and rows outside, in a whole run."""

import json
import random

import numpy as np
import pytest

from sapwood.adaptation import load
from sapwood.evaluation import Bases, Predictor
from sapwood.launch import Runtime
from sapwood.readouts.decision import Decision
from sapwood.testing import tiny_net

KNOWN = {
    "play": ["music", "song", "tune", "album"], "stop": ["halt", "end", "quit", "cease"],
    "call": ["ring", "phone", "dial", "mother"],
}  # fmt: skip
STRANGE = [
    f"{a}{b}" for a in ("zor", "qua", "vix", "jul", "hep") for b in ("ba", "mi", "tok", "ud")
]
FILL = ["please", "now", "the", "a", "my", "can", "you", "will"]


def rows_of(count, seed, outside):
    """Return rows of three intents, some with words of two, and a share from outside of them."""
    rng = random.Random(seed)
    for _ in range(count):
        label = rng.choice(sorted(KNOWN))
        words = [rng.choice(KNOWN[label]), *rng.sample(FILL, 3)]
        if rng.random() < 0.3:
            words[1] = rng.choice(KNOWN[rng.choice(sorted({*KNOWN} - {label}))])
        if rng.random() < outside:
            label, words = "out_of_scope", [*rng.sample(STRANGE, 2), *rng.sample(FILL, 2)]
        rng.shuffle(words)
        yield {"text": f"{' '.join(words)} {rng.randrange(10**6)}", "label": label}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    tiny_net("bert").save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intents")
    for name, count, share in (("train", 200, 0.1), ("dev", 120, 0.3), ("test", 300, 0.3)):
        rows = rows_of(count, len(name), share)
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


@pytest.fixture
def tune(sapwood, data, encoder, tmp_path):
    def run(*arguments):
        return sapwood(
            "tune", data, "--model", encoder, "--method", "ia3", "--encoder", "none", "--epochs",
            "1", "--out", tmp_path / "run", "--device", "cpu", "--dtype", "float32", *arguments,
        )  # fmt: skip

    return run


def test_a_run_says_what_its_confidence_is_good_for(tune, tmp_path):
    ran = tune()
    assert ran.code == 0, ran.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["recommended"] == "tf-idf"
    rows = report["splits"]["test"]
    found = report["coverage"]
    assert found["area_at_best"] <= found["area"] < found["area_by_chance"]
    assert [row["wanted"] for row in found["at"]] == [0.8, 0.9, 0.95]
    assert found["at"][0]["threshold"] >= found["at"][1]["threshold"]
    assert all(abs(row["coverage"] - row["wanted"]) < 0.12 for row in found["at"])
    assert found["at"][0]["accuracy"] > report["test_accuracy"]
    outside = report["outside"]
    assert outside["label"] == "out_of_scope"
    assert outside["rows"] + outside["inside_rows"] == rows
    assert report["macro_f1"]["low"] < report["macro_f1"]["value"] < report["macro_f1"]["high"]
    text = " ".join(ran.out.split())
    for piece in (
        "Macro F1",
        "Answering only where sure:",
        "'out_of_scope', as it answers: recall",
    ):
        assert piece in text
    html = (tmp_path / "run" / "report.html").read_text()
    for piece in ('id="coverage"', "Rows outside all labels: out_of_scope", "macro F1"):
        assert piece in html


def test_the_temperature_is_part_of_the_adaptation(tune, tmp_path):
    assert tune().code == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    made = load(tmp_path / "run" / "adaptation")
    assert made.decision is not None and len(made.decision.quantiles) == 101
    told = report["temperature"]
    assert told["value"] == made.decision.temperature and len(told["losses"]) == 2
    if told["value"] != 1:
        assert told["losses"][1] < told["losses"][0]
        assert f"temperature {told['value']:.2f}" in made.parts()["readout"]
    kept = np.load(
        tmp_path / "run/run/candidates" / report["recommended"] / "dev/probabilities.npy"
    )
    assert kept.shape == (report["splits"]["dev"], 4)
    np.testing.assert_allclose(kept.sum(1), 1)


def test_probabilities_are_told_at_the_temperature(data):
    from sapwood.adaptation import Adaptation
    from sapwood.readouts.tfidf import TfIdf

    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    labels = tuple(sorted({row["label"] for row in rows}))
    texts = [row["text"] for row in rows]
    readout = TfIdf.fit(texts, [row["label"] for row in rows], labels=labels)
    plain = Adaptation(labels=labels, readout_name="tf-idf", readout=readout)
    decision = Decision(temperature=3.0)
    warm = Adaptation(labels=labels, readout_name="tf-idf", readout=readout, decision=decision)
    bases = Bases(Runtime(device="cpu", dtype="float32", threads=1))
    with Predictor(plain, bases) as one, Predictor(warm, bases) as other:
        found = other.probabilities(texts[:9])
        np.testing.assert_allclose(found, decision.apply(one.probabilities(texts[:9])))
    assert found.max() < one.probabilities(texts[:9]).max()


def test_the_label_outside_can_be_named_and_changes_the_report_alone(tune, tmp_path):
    assert tune().code == 0
    before = json.loads((tmp_path / "run" / "report.json").read_text())
    ran = tune("--oos", "stop")
    assert ran.code == 0 and "done before" in ran.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["outside"]["label"] == "stop"
    scores = [[c["test"] for c in one["candidates"]] for one in (before, report)]
    assert scores[0] == scores[1]
    wrong = tune("--oos", "stopp")
    assert wrong.code == 2 and "No row has the label 'stopp'. Did you mean 'stop'?" in wrong.err


def test_pairs_of_texts_are_read_as_pairs_when_predicted_and_scored(sapwood, encoder, tmp_path):
    rng = random.Random(5)
    rows = []
    for number in range(160):
        intent = rng.choice(sorted(KNOWN))
        same = number % 2 == 0
        other = intent if same else rng.choice([k for k in sorted(KNOWN) if k != intent])
        texts = [f"{rng.choice(KNOWN[k])} {rng.choice(FILL)} {number}" for k in (intent, other)]
        told = "sameword" if same else "otherword"  # what tells stands in the second text alone
        rows.append(
            {
                "sentence1": texts[0],
                "sentence2": f"{texts[1]} {told}",
                "label": "yes" if same else "no",
            }
        )
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    out = tmp_path / "run"
    ran = sapwood("tune", data, "--task", "classification", "--model", encoder, "--method", "ia3",
                  "--encoder", "none", "--epochs", "1", "--out", out, "--device", "cpu", "--dtype",
                  "float32")  # fmt: skip
    assert ran.code == 0, ran.err
    assert json.loads((out / "report.json").read_text())["recommended"] == "tf-idf"
    scored = sapwood("eval", out, "--data", data, "--json", "--device", "cpu", "--dtype", "float32")
    assert json.loads(scored.out)["accuracy"]["value"] == 1.0
    said = sapwood(
        "predict", out, "--data", data, "--json", "--device", "cpu", "--dtype", "float32"
    )
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["label"] for line in lines] == [row["label"] for row in rows]
    assert lines[0]["text"] == f"{rows[0]['sentence1']}\n{rows[0]['sentence2']}"
