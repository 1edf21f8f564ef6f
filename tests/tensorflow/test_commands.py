"""The commands with `--engine tensorflow`: the same files, which both engines and PEFT read."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from sapwood.tensorflow.arrival import tensorflow
from sapwood.tensorflow.supervision import padded

METHODS = ["lora(rank=4)", "adapter(width=8)", "prefix(tokens=4,start=random)"]


def tuned(sapwood, data, base, out, method, engine, *more):
    """Tune a tiny base and return the report."""
    ran = sapwood(
        "tune", data, "--method", method, "--model", base, "--encoder", "none", "--epochs", "2",
        "--device", "cpu", "--dtype", "float32", "--engine", engine, "--out", out, "--json", *more,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def losses(report):
    (curve,) = report["curves"].values()
    return curve["loss"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_a_run_is_that_of_torch(
    kind, method, sapwood, write_rows, tiny_checkpoint, small_base, tmp_path
):
    data = write_rows(tmp_path / "reviews.csv")
    base = small_base if kind == "llama" else tiny_checkpoint(kind)
    made = {
        engine: tuned(sapwood, data, base, tmp_path / engine, method, engine)
        for engine in ("torch", "tensorflow")
    }
    wanted, found = losses(made["torch"]), losses(made["tensorflow"])
    assert len(found) >= 20 and found == pytest.approx(wanted, rel=5e-3, abs=5e-3)
    assert made["tensorflow"]["environment"]["engine"] == "tensorflow"
    scores = [
        next(c["dev"]["value"] for c in report["candidates"] if c["name"] == method)
        for report in made.values()
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
    kept = [
        {
            path.name: load_file(path)
            for path in (tmp_path / engine / "run" / "candidates" / method).glob("*/*.safetensors")
        }
        for engine in made
    ]
    assert kept[0].keys() == kept[1].keys() and "readout.safetensors" in kept[0]
    for file, arrays in kept[0].items():
        assert arrays.keys() == kept[1][file].keys()
        for key, wanted in arrays.items():
            assert np.abs(kept[1][file][key] - wanted).max() < 0.05


def test_a_stopped_run_goes_on_to_the_same_end(sapwood, write_rows, tiny_checkpoint, tmp_path):
    from sapwood.launch import Runtime
    from sapwood.report import model_card
    from sapwood.search.adapt import adapt
    from sapwood.search.job import Job, Tuning

    data = write_rows(tmp_path / "reviews.csv")

    def job(out):
        return Job(
            data=str(data), out=tmp_path / out, model=str(tiny_checkpoint("bert")), seconds=600.0,
            only=("lora",), tuning=Tuning(epochs=1.0, engine="tensorflow"),
        )  # fmt: skip

    runtime = Runtime(device="cpu", dtype="float32", threads=1)
    for _ in adapt(job("whole"), runtime, card=model_card):
        pass
    events = adapt(job("cut"), runtime, card=model_card)
    for event in events:
        if event.kind == "progress" and event.done == 5 and event.candidate == "lora":
            events.close()
    for _ in adapt(job("cut"), runtime, card=model_card):
        pass
    files = [
        tmp_path / out / "adaptation" / "adapter_model.safetensors" for out in ("whole", "cut")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_was_tuned_answers_under_either_engine(sapwood, write_rows, tiny_checkpoint, tmp_path):
    data = write_rows(tmp_path / "reviews.csv")
    tuned(sapwood, data, tiny_checkpoint("bert"), tmp_path / "out", "lora", "tensorflow")
    made = tmp_path / "out" / "run" / "candidates" / "lora"
    ran = sapwood("predict", made, "--data", data, "--device", "cpu", "--dtype", "float32")
    assert ran.code == 0, ran.err
    assert len(ran.out.splitlines()) == 120


def test_an_encoder_becomes_a_saved_model(sapwood, write_rows, tiny_checkpoint, tmp_path):
    data = write_rows(tmp_path / "reviews.csv")
    tuned(sapwood, data, tiny_checkpoint("bert"), tmp_path / "out", "lora", "torch")
    made = tmp_path / "out" / "run" / "candidates" / "lora"
    ran = sapwood("export", made, "--to", "saved-model", "--out", tmp_path / "saved", "--json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    assert said["output"] == "probabilities" and said["difference"] < 1e-5
    tf = tensorflow()
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    rows = {name: tf.constant(array) for name, array in padded([[2, 9, 10, 3], [2, 9, 3]]).items()}
    probabilities = serve(**rows)["probabilities"].numpy()
    assert probabilities.shape == (2, 2) and np.allclose(probabilities.sum(1), 1)
    assert (tmp_path / "saved" / "tokenizer" / "tokenizer.json").is_file()


def test_a_checkpoint_becomes_a_saved_model(sapwood, tiny_checkpoint, tmp_path):
    ran = sapwood("export", tiny_checkpoint("gpt2"), "--to", "saved-model", "--out",
                  tmp_path / "saved")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "next_token_scores" in ran.out
    again = sapwood("export", tiny_checkpoint("gpt2"), "--to", "saved-model", "--out",
                    tmp_path / "saved")  # fmt: skip
    assert again.code == 2 and "exists already" in again.err


def test_what_a_net_alone_cannot_answer_is_no_saved_model(
    sapwood, write_rows, small_base, tmp_path
):
    data = write_rows(tmp_path / "reviews.csv")
    ran = sapwood(
        "prompt", data, "--model", small_base, "--shots", "4", "--device", "cpu", "--dtype",
        "float32", "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    chosen = json.loads((tmp_path / "out" / "report.json").read_text())["recommended"]
    ran = sapwood("export", tmp_path / "out", "--to", "saved-model", "--out", tmp_path / "saved")
    assert ran.code == 2 and "cannot be a SavedModel" in ran.err, chosen
    assert not (tmp_path / "saved").exists()


def test_pretraining_goes_the_same_way(sapwood, tmp_path):
    from sapwood.testing.corpora import tiny_corpus

    corpus = tiny_corpus(tmp_path / "corpus", count=60, held=12)
    found = {}
    for engine in ("torch", "tensorflow"):
        ran = sapwood(
            "pretrain", corpus, "--model", "bert-tiny", "--objective", "mlm+nsp", "--steps", "20",
            "--length", "64", "--batch-size", "8", "--device", "cpu", "--engine", engine,
            "--dtype", "float32", "--out", tmp_path / engine, "--json",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        found[engine] = json.loads(ran.out)
    assert found["tensorflow"]["engine"] == "tensorflow"
    curves = [found[engine]["curve"]["loss"] for engine in ("torch", "tensorflow")]
    assert curves[1] == pytest.approx(curves[0], abs=1e-2)
    held = [found[engine]["held_out"]["held"]["loss"] for engine in ("torch", "tensorflow")]
    assert held[1] == pytest.approx(held[0], abs=1e-2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "entities"), "the task is 'entities'"),
        (("--checkpointing",), "--checkpointing is asked for"),
        (("--method", "dora"), "trains lora, adapter, prefix"),
    ],
)
def test_what_it_cannot_do_is_told(words, said, sapwood, write_rows, small_base, tmp_path):
    data = write_rows(tmp_path / "reviews.csv")
    if "entities" in words:
        rows = {"tokens": ["Ann", "sings"], "ner_tags": ["B-PER", "O"]}
        data = tmp_path / "rows.jsonl"
        texts = [{**rows, "tokens": [f"Ann{n}", "sings", str(n)], "ner_tags": ["B-PER", "O", "O"]}
                 for n in range(60)]  # fmt: skip
        data.write_text("".join(json.dumps(row) + "\n" for row in texts))
    ran = sapwood("tune", data, "--model", small_base, "--encoder", "none", "--engine",
                  "tensorflow", "--epochs", "0.2", "--out", tmp_path / "out", *words)  # fmt: skip
    assert said in ran.err + ran.out


def test_importing_sapwood_never_imports_tensorflow():
    code = (
        "import sys, sapwood, sapwood.cli, sapwood.search.adapt, sapwood.training.pretraining\n"
        "import sapwood.tensorflow, sapwood.tensorflow.reading, sapwood.tensorflow.saved_model\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_the_import_says_nothing_on_the_terminal():
    code = "from sapwood.tensorflow.arrival import tensorflow; print(tensorflow().__version__)"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stderr == "" and ran.stdout.startswith("2.")
