"""What a method starts from: the words of the task, the same in every run of a job."""

import pytest
import torch

from sapwood.adaptation import load
from sapwood.evaluation import Bases, Predictor, check_golden
from sapwood.launch import Runtime
from sapwood.methods.ia3 import Ia3
from sapwood.methods.keys_values import stack_layers
from sapwood.methods.prefix_tuning import Prefix
from sapwood.methods.prompt import Prompt
from sapwood.methods.together import Together
from sapwood.models.decoder import Decoder
from sapwood.search import tuning
from sapwood.search.job import Job, Tuning, read_material
from sapwood.search.ladder import climb
from sapwood.search.workbench import Workbench

RUNTIME = Runtime(device="cpu", dtype="float32", threads=1)
TEXT = "prefix(tokens=6,start=text)"


@pytest.fixture(scope="module")
def bases():
    return Bases(RUNTIME)


@pytest.fixture
def bench(small_base, bases, write_rows, tmp_path):
    """Maker of workbenches over one data file."""
    data = write_rows(tmp_path / "reviews.csv")

    def make(*only, out="out", model=small_base, **settings):
        job = Job(
            data=str(data), out=tmp_path / out, model=str(model), seconds=600.0, only=only,
            tuning=Tuning(epochs=1.0), **settings,
        )  # fmt: skip
        folder = job.out / "run"
        folder.mkdir(parents=True, exist_ok=True)
        return Workbench(job, read_material(job), bases, folder)

    return make


def run(bench):
    for _ in climb(bench):
        pass
    return bench.results


def weights_of(bench, name):
    folder = bench.candidate_folder(name) / "adaptation"
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}


def test_a_text_is_the_instruction_and_demonstrations_of_training_rows(bench):
    made = bench(TEXT, instruction="Say how it is.")
    method = tuning.worded(made, Prefix(start="text"), made.job.model)
    words = made.bases.get(made.job.model).tokenizer.decode(method.text_ids)
    assert words.startswith("Say how it is.\n\n")
    shown = words.split("\n\n")[1:]
    assert len(shown) == tuning.FALLBACK_SHOTS
    known = {made.template.demonstration(e) for e in made.splits.train}
    assert set(shown) <= known
    again = tuning.worded(bench(TEXT, instruction="Say how it is."), Prefix(start="text"),
                          made.job.model)  # fmt: skip
    assert again == method
    other = tuning.worded(bench(TEXT, seed=1), Prefix(start="text"), made.job.model)
    assert other.text_ids != method.text_ids


def test_only_a_text_that_is_wanted_is_filled_in(bench):
    made = bench()
    base = made.job.model
    for method in (Ia3(), Prefix(), Prompt(start="text", text_ids=(7, 8))):
        assert tuning.worded(made, method, base) is method
    both = tuning.worded(made, Together(methods=(Ia3(), Prompt(start="text"))), base)
    assert both.methods[0] == Ia3() and len(both.methods[1].text_ids) > 20


def test_an_encoder_starts_from_words_without_special_tokens(bench, tiny_checkpoint):
    made = bench(model=tiny_checkpoint("bert"))
    method = tuning.worded(made, Prompt(start="text"), made.job.model)
    special = set(made.bases.get(made.job.model).tokenizer.all_special_ids)
    assert method.text_ids and not special & set(method.text_ids)


def test_the_first_keys_and_values_are_those_of_the_words(bench):
    made = bench(TEXT)
    method = tuning.worded(made, tuning.asked_for(made, TEXT), made.job.model)
    decoder = made.bases.decoder(made.job.model)
    with tuning.attached(made, method) as net:
        table = net.trained_prefix.table().detach().clone()
    expected = stack_layers(Decoder(decoder.net).encode(method.text_ids[:6]).layers)
    torch.testing.assert_close(table, expected, atol=1e-5, rtol=0)


def test_a_stopped_run_from_words_ends_as_an_undisturbed_one_and_loads_alone(bench, bases):
    quiet = bench(TEXT, out="quiet")
    assert run(quiet)[TEXT]["status"] == "finished"
    first = bench(TEXT, out="loud")
    events = climb(first)
    for event in events:
        if (event.kind, event.candidate, event.done) == ("progress", TEXT, 2):
            events.close()
    assert list(first.candidate_folder(TEXT).glob("checkpoint-2"))
    second = bench(TEXT, out="loud")
    run(second)
    assert weights_of(second, TEXT) == weights_of(quiet, TEXT)
    kept = load(second.candidate_folder(TEXT) / "adaptation")
    assert kept.method == Prefix(tokens=6, start="random")  # its tensor says the rest
    with Predictor(kept, bases) as predictor:
        check_golden(predictor)
