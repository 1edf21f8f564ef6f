"""Several labels a text, on a tiny random BERT: tried, saved, read again, reported, predicted."""

import json
import random

import pytest

from sapwood.adaptation import load
from sapwood.evaluation import Bases, asked_safely
from sapwood.launch import Runtime
from sapwood.search.job import Job, Tuning, read_material
from sapwood.search.ladder import climb, ladder
from sapwood.search.workbench import Workbench
from sapwood.tasks.scoring import tally
from sapwood.testing import tiny_net

RUNTIME = Runtime(device="cpu", dtype="float32", threads=1)
# Types of entities in the sentences of a CoNLL file, each with words that show it.
SHOWN = {
    "PER": ["li met", "an said"], "LOC": ["in oslo", "near rome"], "ORG": ["the eu", "un men"],
}  # fmt: skip
REST = ["it was so", "rain on the sea", "all is well", "one more time"]


def rows_of(count, seed=0):
    """Return rows of a file: sentences with the types of the entities that they hold, or none."""
    rng = random.Random(seed)
    for _ in range(count):
        types = sorted(t for t in SHOWN if rng.random() < 0.4)
        parts = [rng.choice(SHOWN[t]) for t in types] + [rng.choice(REST)]
        rng.shuffle(parts)
        yield {"text": f"{' '.join(parts)} {rng.randrange(1000)}", "labels": types}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    net = tiny_net("bert")
    for name, tensor in net.named_parameters():
        if "LayerNorm" in name:
            tensor.data.fill_(float(name.endswith("weight")))
    net.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "types.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows_of(300)))
    return path


@pytest.fixture(scope="module")
def bases():
    return Bases(RUNTIME)


@pytest.fixture
def bench(encoder, bases, data, tmp_path):
    def make(*only, model=encoder, beside=None):
        job = Job(
            data=str(data), out=tmp_path / "out", model=str(model), seconds=600.0, encoder=beside,
            task="multi-label", only=("tf-idf", *only) if only else (),
            tuning=Tuning(epochs=3.0, learning_rate=1e-2),
        )  # fmt: skip
        folder = job.out / "run"
        folder.mkdir(parents=True, exist_ok=True)
        return Workbench(job, read_material(job), bases, folder)

    return make


def run(bench):
    for _ in climb(bench):
        pass
    return bench.results


def test_an_encoder_alone_and_beside_a_decoder(bench, encoder, small_base):
    assert [c.name for c in ladder(bench())] == ["tf-idf", "probe", "lora"]
    assert [c.name for c in ladder(bench("head", "ia3"))] == ["tf-idf", "head", "ia3"]
    names = [c.name for c in ladder(bench(model=small_base, beside=encoder))]
    assert names[:3] == ["tf-idf", "probe-tiny-bert", "encoder-lora"]
    assert {"zero-shot", "few-shot-4", "lora"} <= set(names)
    alone = [c.name for c in ladder(bench(model=small_base))]
    assert alone[:3] == ["tf-idf", "lora+unmasked", "zero-shot"]


@pytest.mark.parametrize("name", ["tf-idf", "probe", "head", "lora"])
def test_what_was_made_is_read_again_and_scores_as_on_its_development_rows(bench, bases, name):
    made = bench(name)
    result = run(made)[name]
    assert result["status"] == "finished", result["why"]
    adaptation = load(made.candidate_folder(name) / "adaptation")
    assert adaptation.task == "multi-label" and adaptation.labels == ("LOC", "ORG", "PER")
    with asked_safely(adaptation, bases) as asked:
        said = asked.said(made.splits.dev)
    found = tally("multi-label", made.splits.dev, said).value
    # thresholds chosen on these very rows do at least about as well as those of other rows
    assert found >= result["dev"]["value"] - 0.03
    assert set(result["notes"]["thresholds"]) == {"own", "from", "to"}
    assert "threshold" in result["parts"]["readout"]
    assert found > (0.95 if name == "tf-idf" else 0.6)
    if name != "tf-idf":
        assert asked.tokens > 0 and result["trainable_parameters"] >= 3 * 33


def test_adapt_reports_and_predict_and_eval_answer(sapwood, encoder, data, tmp_path):
    out = tmp_path / "run"
    ran = sapwood(
        "adapt", data, "--task", "multi-label", "--model", encoder, "--encoder", "none", "--epochs",
        "2", "--out", out, "--device", "cpu", "--dtype", "float32", "--budget", "10m",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads((out / "report.json").read_text())
    assert report["metric"] == "micro_f1" and report["recommended"] == "tf-idf"
    for candidate in report["candidates"]:
        test = candidate["test"]
        assert test["low"] <= test["value"] <= test["high"] and 0 <= test["macro_f1"] <= 1
    panel = report["panel"]
    assert panel["macro"]["low"] <= panel["macro"]["f1"] <= panel["macro"]["high"]
    assert {row["label"] for row in panel["by_type"]} == {"LOC", "ORG", "PER"}  # none is no label
    said = sapwood("predict", out, "li met all is well in oslo", "it was so", "--json",
                   "--device", "cpu", "--dtype", "float32")  # fmt: skip
    first, second = (json.loads(line) for line in said.out.splitlines())
    assert first["answer"] == "LOC; PER" and [f["label"] for f in first["frames"]] == ["LOC", "PER"]
    assert second["answer"] == "none" and "frames" not in second
    scored = sapwood("eval", out, "--data", data, "--json", "--device", "cpu", "--dtype", "float32")
    assert json.loads(scored.out)["micro_f1"]["value"] > 0.95
    refused = sapwood("predict", out, "it was so", "--abstain", "0.5")
    assert refused.code == 2 and "E-CONFIG-164" in refused.err
