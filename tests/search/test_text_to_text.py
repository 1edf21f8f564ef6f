"""An encoder-decoder as the base: tuned, learnt, saved, read again, refused where it cannot."""

import json

import numpy as np
import pytest

from sapwood.adaptation import load
from sapwood.errors import ModelError
from sapwood.evaluation import Bases, Predictor, check_golden
from sapwood.evaluation.text_to_text import TextToTextReader
from sapwood.launch import Runtime
from sapwood.methods import parts
from sapwood.models.load import resolve_base
from sapwood.search.job import Job, Prompting, Tuning, read_material
from sapwood.search.ladder import climb, ladder
from sapwood.search.text_to_text import check_wanted
from sapwood.search.workbench import Workbench
from sapwood.testing import tiny_net

RUNTIME = Runtime(device="cpu", dtype="float32", threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer):
    """A tiny random T5 on disk."""
    path = tmp_path_factory.mktemp("t5") / "tiny-t5"
    tiny_net("t5").save_pretrained(path)
    tiny_tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def bases():
    return Bases(RUNTIME)


@pytest.fixture
def bench(folder, bases, write_rows, tmp_path):
    data = write_rows(tmp_path / "reviews.csv", count=240)

    def make(*only, out="out", **tuning):
        job = Job(
            data=str(data), out=tmp_path / out, model=folder, seconds=600.0,
            only=("majority", *only) if only else (), tuning=Tuning(**{"epochs": 1.0, **tuning}),
        )  # fmt: skip
        place = job.out / "run"
        place.mkdir(parents=True, exist_ok=True)
        return Workbench(job, read_material(job), bases, place)

    return make


def run(bench):
    for _ in climb(bench):
        pass
    return bench.results


def test_the_folder_is_known_for_what_it_is(folder, bases):
    assert resolve_base(folder).kind == "text-to-text"
    assert type(bases.get(folder).net).__name__ == "T5ForConditionalGeneration"


def test_the_ladder_asks_and_tunes(bench):
    assert [c.name for c in ladder(bench())] == ["majority", "tf-idf", "zero-shot", "lora"]
    assert [c.name for c in ladder(bench("adapter", "ia3"))] == ["majority", "adapter", "ia3"]


@pytest.mark.parametrize("name", ["zero-shot", "lora", "adapter", "prompt(tokens=4)"])
def test_what_was_made_is_read_again_as_it_was_scored(bench, bases, folder, name):
    made = bench(name, learning_rate=None if name == "zero-shot" else 1e-2)
    result = run(made)[name]
    assert result["status"] == "finished", result["why"]
    place = made.candidate_folder(name)
    adaptation = load(place / "adaptation")
    assert (adaptation.base.kind, adaptation.readout_name) == ("text-to-text", "verbalizer")
    scored = np.load(place / "dev" / "probabilities.npy")
    with Predictor(adaptation, bases) as predictor:
        check_golden(predictor)
        found = predictor.probabilities([e.text for e in made.splits.dev])
        assert predictor.tokens > 0
    np.testing.assert_allclose(found, scored, atol=1e-4)
    assert not list(parts.parts(bases.get(folder).net))
    assert (result["trainable_parameters"] > 0) == (name != "zero-shot")


def test_tuning_learns_which_word_decides(bench):
    made = bench("full", epochs=8.0, learning_rate=3e-3)
    result = run(made)["full"]
    assert result["status"] == "finished", result["why"]
    assert result["dev"]["low"] > 0.75  # the two labels are even
    assert result["curve"]["loss"][-1] < 0.5 * result["curve"]["loss"][0]


def test_a_run_from_the_command_line(sapwood, folder, write_rows, tmp_path):
    data = write_rows(tmp_path / "reviews.csv")
    out = tmp_path / "run"
    ran = sapwood("tune", data, "-m", folder, "--method", "lora", "--encoder", "none", "--epochs",
                  "1", "--out", out, "--device", "cpu", "--dtype", "float32")  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads((out / "report.json").read_text())
    assert {c["name"] for c in report["candidates"]} == {"majority", "tf-idf", "lora"}
    said = sapwood("predict", out / "run" / "candidates" / "lora" / "adaptation", "a great film",
                   "--json", "--device", "cpu", "--dtype", "float32")  # fmt: skip
    assert sum(json.loads(said.out)["probabilities"].values()) == pytest.approx(1)


def test_what_it_cannot_do_is_refused(tmp_path):
    def job(**settings):
        return Job(data="d.csv", out=tmp_path, model="t5", seconds=60.0, **settings)

    check_wanted(job())
    check_wanted(job(only=("majority", "tf-idf", "lora")))
    check_wanted(job(only=("zero-shot", "few-shot", "knn")))  # of `prompt`: what can be asked is
    for wrong, told in (
        (job(only=("lora+context", "probe")), r"tuned: no lora\+context, probe"),
        (job(task="entities"), "tuned: no the task entities"),
        (job(prompting=Prompting(shots=(4,))), "tuned: no demonstrations"),
    ):
        with pytest.raises(ModelError, match=told) as caught:
            check_wanted(wrong)
        assert caught.value.code == "E-MODEL-161"


def test_label_words_of_the_same_tokens_are_refused(folder, bases, bench):
    made = bench()
    words = {"negative": "no", "positive": " no"}
    context = made.context()
    object.__setattr__(context.template, "words", words)
    with pytest.raises(
        ModelError, match="cannot tell the label words of 'negative' and 'positive'"
    ):
        TextToTextReader(bases, folder, context, ("negative", "positive"))
