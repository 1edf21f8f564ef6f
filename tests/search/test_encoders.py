"""Candidates that train on an encoder: made, saved, resumed, read again; on a tiny random BERT."""

import json
import shutil

import numpy as np
import pytest
import torch

from sapwood.adaptation import load
from sapwood.errors import ConfigError, ModelError
from sapwood.evaluation import Bases, Predictor, check_golden
from sapwood.launch import Runtime
from sapwood.methods import parts
from sapwood.methods.defaults import learning_rate
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.readouts.head import Head
from sapwood.search import encoders
from sapwood.search.encoders import EncoderTraining
from sapwood.search.job import Job, Tuning, read_material
from sapwood.search.ladder import climb, ladder
from sapwood.search.workbench import Stopped, Workbench
from sapwood.testing import tiny_net

RUNTIME = Runtime(device="cpu", dtype="float32", threads=1)
BASELINES = ("majority", "tf-idf")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tiny_tokenizer):
    """A tiny random BERT on disk whose states differ from text to text."""
    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    net = tiny_net("bert")
    for name, tensor in net.named_parameters():
        if "LayerNorm" in name:
            tensor.data.fill_(float(name.endswith("weight")))
    net.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def bases():
    return Bases(RUNTIME)


@pytest.fixture
def bench(encoder, bases, write_rows, tmp_path):
    """Maker of workbenches over one data file and one folder, as a second start would see them."""
    data = write_rows(tmp_path / "reviews.csv")

    def make(*only, out="out", model=encoder, beside=None, seconds=600.0, limit=256, **tuning):
        tuning = {"epochs": 2.0, **tuning}
        job = Job(
            data=str(data), out=tmp_path / out, model=str(model), seconds=seconds, encoder=beside,
            max_length=limit, only=(*BASELINES, *only) if only else (), tuning=Tuning(**tuning),
        )  # fmt: skip
        folder = job.out / "run"
        folder.mkdir(parents=True, exist_ok=True)
        return Workbench(job, read_material(job), bases, folder)

    return make


def run(bench):
    """Climb the ladder; return the results by name."""
    for _ in climb(bench):
        pass
    return bench.results


def weights_of(bench, name):
    folder = bench.candidate_folder(name) / "adaptation"
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}


def test_an_encoder_gets_readouts_and_lora_and_what_is_named(bench):
    assert [c.name for c in ladder(bench())] == [*BASELINES, "knn", "probe", "lora"]
    named = bench("head", "bitfit", "dora")
    assert [c.name for c in ladder(named)] == [*BASELINES, "head", "bitfit", "dora"]
    both = bench("lora(rank=2)+ia3")
    assert [c.name for c in ladder(both)] == [*BASELINES, "lora(rank=2)+ia3"]


def test_the_rung_beside_a_decoder_needs_an_encoder(bench, small_base, encoder):
    names = [c.name for c in ladder(bench(model=small_base))]
    assert "encoder-lora" not in names
    names = [c.name for c in ladder(bench(model=small_base, beside=encoder))]
    assert names.index("tf-idf") < names.index("encoder-lora") < names.index("zero-shot")
    tuned = [c.name for c in ladder(bench("lora", model=small_base, beside=encoder))]
    assert tuned == [*BASELINES, "lora"]


@pytest.mark.parametrize(
    "method",
    ["lora", "dora", "vera", "ia3", "adapter", "bitfit", "layernorm", "lora(rank=2)+ia3", "head"],
)
def test_what_was_made_is_read_again_as_it_was_scored(bench, bases, method):
    made = bench(method, learning_rate=4e-3)
    result = run(made)[method]
    assert result["status"] == "finished", result["why"]
    folder = made.candidate_folder(method)
    adaptation = load(folder / "adaptation")
    assert (adaptation.base.kind, adaptation.readout_name) == ("encoder", "head")
    assert result["parts"]["readout"] == "head" and result["parts"]["context"] is None
    assert bool(adaptation.weights) == (method != "head")
    labels = len(made.labels)
    assert result["trainable_parameters"] >= labels * 33 + (method != "head")
    texts = [e.text for e in made.splits.dev]
    scored = np.load(folder / "dev" / "probabilities.npy")
    with Predictor(adaptation, bases) as predictor:
        check_golden(predictor)
        np.testing.assert_allclose(predictor.probabilities(texts), scored, atol=1e-5)
    assert not list(parts.parts(bases.get(made.job.model).net))
    if method != "head":
        plain = adaptation.readout.probabilities(bases.embed(made.job.model, texts))
        assert np.abs(plain - scored).max() > 1e-3  # the method has its part in it


def test_the_curves_and_the_plan_are_those_of_the_job(bench):
    made = bench("lora", rank=3)
    result = run(made)["lora"]
    curve = result["curve"]
    steps = round(2 * len(made.splits.train) / 4)  # few rows: fewer a step, more steps
    assert curve["step"] == list(range(1, steps + 1))
    assert max(curve["lr"]) == pytest.approx(learning_rate(Lora(), encoder=True))
    assert curve["dev_step"][-1] == steps and len(curve["dev"]) == len(curve["dev_step"])
    assert result["parts"]["method"] == "lora r=3"
    assert result["tokens_per_query"] > 3


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks what transformers renamed
def test_lora_is_a_peft_folder(bench, bases):
    import peft

    made = bench("lora", learning_rate=4e-3)
    run(made)
    folder = made.candidate_folder("lora") / "adaptation"
    net = tiny_of(made.job.model)
    texts = [e.text for e in made.splits.dev[:4]]
    rows = bases.tokens(made.job.model, texts)
    wrapped = peft.PeftModel.from_pretrained(net, folder)
    with torch.no_grad():
        theirs = [
            wrapped(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in rows
        ]
    adaptation = load(folder)
    with Predictor(adaptation, bases) as predictor:
        ours = predictor.inputs(texts)
    np.testing.assert_allclose(ours, torch.stack(theirs).numpy(), atol=1e-4)
    assert np.abs(ours - bases.embed(made.job.model, texts)).max() > 1e-3


def tiny_of(folder):
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_stopped_run_ends_as_an_undisturbed_one(bench, stop):
    quiet = bench("lora", out="quiet", dropout=0.2)
    expected = run(quiet)["lora"]
    first = bench("lora", out="loud", dropout=0.2)
    events = climb(first)
    for event in events:
        if (event.kind, event.candidate, event.done) == ("progress", "lora", stop):
            events.close()
    torch.manual_seed(99)
    second = bench("lora", out="loud", dropout=0.2)
    assert list(second.candidate_folder("lora").glob(f"checkpoint-{stop}"))
    found = run(second)["lora"]
    assert weights_of(second, "lora") == weights_of(quiet, "lora")
    assert found["curve"]["loss"] == expected["curve"]["loss"]
    assert found["curve"]["dev"] == expected["curve"]["dev"]
    assert not list(second.candidate_folder("lora").glob("checkpoint-*"))


def test_a_killed_run_goes_on_from_its_checkpoint(bench, monkeypatch):
    monkeypatch.setattr("sapwood.search.encoders.CHECKPOINT_SECONDS", 0.0)
    quiet = bench("adapter", out="quiet")
    run(quiet)
    loud = bench("adapter", out="loud")
    copied = loud.job.out.with_name("copied")
    for event in climb(loud):
        if (event.candidate, event.done) == ("adapter", 6):
            shutil.copytree(loud.job.out, copied)  # what a kill would have left
    again = bench("adapter", out="copied")
    result = run(again)["adapter"]
    assert weights_of(again, "adapter") == weights_of(quiet, "adapter")
    assert result["curve"]["step"] == list(range(1, len(result["curve"]["step"]) + 1))


def test_the_encoder_beside_a_decoder_is_tuned_and_read(bench, bases, small_base, encoder):
    made = bench("encoder-lora", model=small_base, beside=encoder)
    result = run(made)["encoder-lora"]
    assert result["status"] == "finished", result["why"]
    assert load(made.candidate_folder("encoder-lora") / "adaptation").base.name == encoder


@pytest.mark.parametrize("name", ["knn", "probe", "head", "lora", "prefix(tokens=4,start=text)"])
def test_no_more_of_a_text_is_read_than_asked_for_nor_when_it_predicts(bench, bases, name):
    made = bench(name, limit=12, learning_rate=4e-3)
    result = run(made)[name]
    assert result["status"] == "finished", result["why"]
    folder = made.candidate_folder(name)
    adaptation = load(folder / "adaptation")
    assert adaptation.max_text_tokens == 12
    assert name in ("knn", "probe") or result["tokens_per_query"] == 12
    texts = [e.text for e in made.splits.dev]
    with Predictor(adaptation, bases) as predictor:
        check_golden(predictor)
        found = predictor.probabilities(texts)
        np.testing.assert_allclose(found, np.load(folder / "dev" / "probabilities.npy"), atol=1e-5)
        others = predictor.probabilities([f"{text} and so on" for text in texts])
        np.testing.assert_allclose(others, found, atol=1e-5)
    whole = bench(name, out="whole", learning_rate=4e-3)
    run(whole)
    other = np.load(whole.candidate_folder(name) / "dev" / "probabilities.npy")
    assert np.abs(other - found).max() > 1e-4


def test_without_time_nothing_is_trained(bench, encoder):
    made = bench("lora")
    made.clock.budget = made.clock.spent + 4.0
    with pytest.raises(Stopped, match="too little time"):
        next(encoders.tuned_encoder(made, "lora", method="lora", encoder=encoder))
    assert not list(made.candidate_folder("lora").iterdir())


def test_beside_a_decoder_training_takes_a_share_of_the_time(bench, small_base, encoder):
    made = bench(model=small_base, beside=encoder, epochs=None)
    (rung,) = [c for c in ladder(made) if c.name == "encoder-lora"]
    for _ in rung.make(made, rung.name):
        pass
    plan = json.loads((made.candidate_folder("encoder-lora") / "plan.json").read_text())
    left = made.clock.left - made.reserve("lora")
    assert plan["forecast"] <= encoders.BESIDE * (left + 60)
    assert plan["total"] <= round(encoders.MOST_EPOCHS * len(made.splits.train) / plan["rows"])


def test_the_users_rate_goes_before_the_usual_one_and_the_head_moves_with_it(bench, encoder):
    usual = learning_rate(Ia3(), encoder=True)
    for given, expected in ((None, usual), (1e-2, 1e-2)):
        made = bench("ia3", learning_rate=given)
        net = Ia3().attach(made.bases.encoder(encoder).net)
        try:
            training = EncoderTraining(made, "ia3", encoder, Head.random(made.labels, 32))
            trained = training.course(Ia3(), 1.0).trained
        finally:
            parts.detach(net)
        assert trained.recipe.learning_rate == pytest.approx(expected)
        factors = {group["times"] for group in trained.optimiser.param_groups}
        assert factors == {1.0, encoders.HEAD_RATE / usual}


def test_what_an_encoder_cannot_do_is_refused(encoder, tmp_path):
    def job(**settings):
        return Job(data="d.csv", out=tmp_path, model="enc", seconds=60.0, **settings)

    encoders.check_wanted(job())
    encoders.check_wanted(job(only=("majority", "tf-idf", "ia3")))
    with pytest.raises(ModelError, match=r"prompted: no zero-shot, lora\+context") as caught:
        encoders.check_wanted(job(only=("majority", "zero-shot", "lora+context")))
    assert "--encoder enc" in caught.value.fix
    with pytest.raises(ConfigError, match="--facts, --instruction would have no effect"):
        encoders.check_wanted(job(facts="f.nt", instruction="Say."))
