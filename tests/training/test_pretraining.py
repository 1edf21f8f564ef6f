"""A pretraining run: an ordinary checkpoint at its end, the same bytes however it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import transformers

from sapwood.errors import ConfigError, DataError, ModelError, ResourceError
from sapwood.launch import Runtime
from sapwood.models.pair import loaded_pair
from sapwood.testing.corpora import tiny_corpus
from sapwood.training import plan as planning
from sapwood.training.plan import Plan, planned, read_plan, revised, write_plan
from sapwood.training.pretraining import History, pretrain
from sapwood.training.pretraining_job import Job
from sapwood.training.pretraining_setup import RATE, prepared

# What stands around a text as the net was trained: 2 [CLS], 3 [SEP], 6 <eos>.
FRAMES = {
    "bert-tiny": ([2], [3]), "albert-tiny": ([2], [3]), "encoder-tiny": ([2], [3]),
    "electra-tiny": ([2], [3]), "xlnet-tiny": ([], [3, 2]), "t5-tiny": ([], [6]),
}  # fmt: skip
CPU = Runtime(device="cpu", dtype="float32", threads=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "tiny", count=60, held=12)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("other") / "tiny", count=40, held=12, seed=9)


def job(corpus: Path, out: Path, **given: Any) -> Job:
    settings = {"model": "gpt-tiny", "steps": 6, "length": 32, "batch_size": 4} | given
    return Job(corpus=corpus, out=out, **settings)


def ran(job: Job) -> dict[str, Any]:
    """Run to the end and return the evidence."""
    events = pretrain(job, CPU)
    while True:
        try:
            next(events)
        except StopIteration as end:
            found: dict[str, Any] = end.value
            return found


def weights(out: Path) -> str:
    return sha256((out / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "optimiser", "share"), [("nsp", "adamw", 0.25), ("mlm+nsp", "muon", 1.0)]
)
def test_pairs_alone_take_adamw_and_a_low_rate(
    corpus: Path, tmp_path: Path, line: str, optimiser: str, share: float
) -> None:
    setup = prepared(job(corpus, tmp_path, model="bert-tiny", objective=line), CPU)
    assert setup.facts["optimiser"] == optimiser
    assert setup.recipe.learning_rate == pytest.approx(share * RATE)


@pytest.mark.parametrize(
    ("net", "line", "kind"),
    [
        ("bert-tiny", "mlm", "BertForMaskedLM"),
        ("bert-tiny", "mlm+nsp", "BertForPreTraining"),
        ("albert-tiny", "mlm+sop", "AlbertForPreTraining"),
        ("encoder-tiny", "mlm", "ModernBertForMaskedLM"),
        ("electra-tiny", "rtd", "ElectraForPreTraining"),
        ("xlnet-tiny", "plm", "XLNetLMHeadModel"),
        ("t5-tiny", "span", "T5ForConditionalGeneration"),
        ("gpt-tiny", "clm", "GPT2LMHeadModel"),
        ("decoder-tiny", "fim", "Qwen3ForCausalLM"),
    ],
)
def test_the_result_is_an_ordinary_checkpoint(
    corpus: Path, tmp_path: Path, net: str, line: str, kind: str
) -> None:
    out = tmp_path / "out"
    evidence = ran(job(corpus, out, model=net, objective=line, steps=2))
    made: Any = getattr(transformers, kind)
    _, notes = made.from_pretrained(str(out), output_loading_info=True)
    assert not notes["missing_keys"] and not notes["unexpected_keys"]
    assert not notes["mismatched_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(out))
    words = tokenizer.convert_tokens_to_ids(["the", "old", "cow"])
    before, after = FRAMES.get(net, ([], []))
    assert tokenizer("the old cow")["input_ids"] == [*before, *words, *after]
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == [kind]
    assert (config["bos_token_id"], config["eos_token_id"]) == (5, 6)
    assert json.loads((out / "pretraining.json").read_text())["objective"] == line
    assert evidence["cost"]["tokens"] > 0 and evidence["plan"]["steps"] == 2
    assert not list((out / "run").glob("checkpoint-*"))
    card = (out / "README.md").read_text()
    assert f"# {net}, pretrained" in card and evidence["corpora"]["held"]["sha256"] in card


def test_pairs_stand_as_they_were_trained(corpus: Path, tmp_path: Path) -> None:
    ran(job(corpus, tmp_path, model="bert-tiny", objective="nsp", steps=1))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    given = tokenizer("the cow", "the hen", return_token_type_ids=True)
    assert tokenizer.convert_ids_to_tokens(given["input_ids"]) == [
        "[CLS]", "the", "cow", "[SEP]", "the", "hen", "[SEP]",
    ]  # fmt: skip
    assert given["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_the_generator_is_kept_beside(corpus: Path, tmp_path: Path) -> None:
    ran(job(corpus, tmp_path, model="electra-tiny", steps=2))
    pair = loaded_pair(tmp_path)
    assert pair.generator.config.hidden_size == 32
    going = tmp_path / "on"
    evidence = ran(job(corpus, going, model="", base=str(tmp_path), steps=2))
    assert evidence["objective"] == "rtd" and (going / "generator" / "config.json").exists()


@pytest.mark.parametrize(
    ("net", "dropout"), [("gpt-tiny", 0.0), ("electra-tiny", 0.0), ("gpt-tiny", 0.2),
                         ("lstm-tiny", 0.4)],
)  # fmt: skip
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_run_ends_with_the_same_bytes(
    corpus: Path, tmp_path: Path, net: str, dropout: float, stop: int
) -> None:
    whole, cut = (
        job(corpus, tmp_path / name, model=net, dropout=dropout) for name in ("whole", "cut")
    )
    wanted = ran(whole)
    events = pretrain(cut, CPU)
    for event in events:
        if event.kind == "progress" and event.done == stop:
            events.close()
    assert not (cut.out / "pretraining.json").exists()
    found = ran(cut)
    assert weights(cut.out) == weights(whole.out)
    assert found["curve"]["loss"] == wanted["curve"]["loss"]
    assert [h["step"] for h in found["held_curve"]] == [h["step"] for h in wanted["held_curve"]]
    assert found["held_out"] == wanted["held_out"]


def test_a_finished_run_is_not_run_again(corpus: Path, tmp_path: Path) -> None:
    first = job(corpus, tmp_path / "out", steps=2)
    evidence = ran(first)
    stamp = (first.out / "model.safetensors").stat().st_mtime_ns
    assert ran(first) == json.loads(json.dumps(evidence))
    assert (first.out / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_decoder_has_no_dropout(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="have no dropout") as caught:
        ran(job(corpus, tmp_path, model="decoder-tiny", dropout=0.1))
    assert caught.value.code == "E-CONFIG-248"


def test_another_run_in_the_folder_is_refused(corpus: Path, tmp_path: Path) -> None:
    first = job(corpus, tmp_path / "out", steps=2)
    ran(first)
    with pytest.raises(ConfigError) as caught:
        ran(replace(first, learning_rate=0.5))
    assert caught.value.code == "E-CONFIG-243"
    assert caught.value.what == (
        f"{first.out} holds a run with other settings, another corpus or another budget."
    )


def test_a_budget_is_planned_once_and_kept(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = job(corpus, tmp_path / "timed", steps=0, seconds=600.0)
    monkeypatch.setattr("sapwood.training.pretraining.measured", lambda *_: 600 / 12)
    monkeypatch.setattr("sapwood.training.pretraining.revised", lambda plan, *_: plan)
    events = pretrain(timed, CPU)
    next(event for event in events if event.kind == "progress")
    events.close()
    kept = json.loads((timed.out / "run" / "plan.json").read_text())
    assert kept["steps"] == 10 and kept["seconds"] == 600.0 and kept["step_seconds"] == 50.0
    monkeypatch.setattr("sapwood.training.pretraining.measured", lambda *_: pytest.fail("again"))
    evidence = ran(timed)
    assert evidence["plan"]["steps"] == 10 == len(evidence["curve"]["loss"])
    ran(job(corpus, tmp_path / "steps", steps=10))
    assert weights(timed.out) == weights(tmp_path / "steps")


def test_measuring_leaves_no_trace(corpus: Path, tmp_path: Path) -> None:
    """The trial steps of a budget do not change what is trained."""
    from sapwood.training.optimisers import pretraining_optimiser
    from sapwood.training.pretraining_setup import prepared
    from sapwood.training.readings import Pretraining

    setup = prepared(job(corpus, tmp_path), CPU)
    before = {name: w.detach().clone() for name, w in setup.net.named_parameters()}
    optimiser, named = pretraining_optimiser(setup.net, setup.recipe, "muon")
    supervised = Pretraining(setup.reading, setup.examples)
    took = planning.measured(supervised, lambda: optimiser, named, setup.recipe, 1.0)
    assert 0 < took < 30
    for name, weight in setup.net.named_parameters():
        assert (weight == before[name]).all() and weight.grad is None


@pytest.mark.parametrize(
    ("losses", "said"), [((3.0, 2.0, 1.5), False), ((3.0, 1.5, 1.52), False), ((), False),
                         ((3.0, 1.5, 1.9), True)],
)  # fmt: skip
def test_text_learnt_by_heart_is_told(losses: tuple[float, ...], said: bool) -> None:
    history = History()
    history.held = [
        {"step": 10 * n, "loss": loss, "words": f"{loss:.1f} bits a byte"}
        for n, loss in enumerate(losses, 1)
    ]
    words = history.rote()
    assert bool(words) == said
    if said:
        assert "1.5 bits a byte at step 20 and is 1.9 bits a byte at step 30" in words
        assert "--dropout" in words


def test_a_plan_is_revised_while_the_rate_is_constant() -> None:
    plan = Plan.of(100, 0.05, seconds=100.0, step_seconds=0.8)
    assert revised(plan, 50, 0.88, 50.0, 0.2) is plan  # as planned
    slow = revised(plan, 40, 2.0, 40.0, 0.2)
    assert slow.steps == 57 and slow.revised == (100,) and slow.warm == plan.warm
    assert revised(plan, 80, 9.0, 1.0, 0.2) is plan  # the rate falls already
    assert revised(plan, 5, 9.0, 1.0, 0.2) is plan  # it is still warming up
    assert revised(Plan.of(100, 0.05), 40, 9.0, 1.0, 0.2).steps == 100
    late = revised(plan, 60, 9.0, 1.0, 0.2)  # what is over at least falls before it ends
    assert late.steps == 77
    assert round(late.steps * 0.8) >= 60


def test_a_budget_without_room_is_refused() -> None:
    with pytest.raises(ResourceError) as caught:
        planned(2.0, 10.0, 20.0, 0.05)
    assert caught.value.what == "A step takes 2 s here, so 4 fit into what is left of 20 s."


def test_plans_are_read_as_written(tmp_path: Path) -> None:
    plan = Plan.of(10, 0.1, seconds=5.0, revised=(20, 30))
    assert read_plan(tmp_path, "a") is None
    write_plan(tmp_path, "a", plan)
    assert read_plan(tmp_path, "a") == plan


def test_a_base_goes_on_with_replay(corpus: Path, other: Path, tmp_path: Path) -> None:
    ran(job(corpus, tmp_path / "base", steps=30, batch_size=8))
    evidence = ran(
        job(other, tmp_path / "on", model="", base=str(tmp_path / "base"), steps=30, batch_size=8,
            replay=corpus, share=0.25)
    )  # fmt: skip
    assert evidence["objective"] == "clm" and evidence["replay_share"] == 0.25
    assert set(evidence["before"]) == set(evidence["held_out"]) == {"held", "replay"}
    before, after = evidence["before"]["held"], evidence["held_out"]["held"]
    assert after["bits_per_byte"] < before["bits_per_byte"]
    card = (tmp_path / "on" / "README.md").read_text()
    assert f"| old | {evidence['before']['replay']['words']} |" in card


def test_a_base_with_other_words_is_refused(
    corpus: Path, tmp_path: Path, tiny_checkpoint: Any
) -> None:
    with pytest.raises(DataError) as caught:
        ran(job(corpus, tmp_path, model="", base=str(tiny_checkpoint("llama"))))
    assert caught.value.code == "E-DATA-240"
    assert "--tokenizer" in caught.value.fix


def test_a_long_row_is_refused(corpus: Path, tmp_path: Path) -> None:
    ran(job(corpus, tmp_path / "base", steps=1))
    with pytest.raises(ConfigError) as caught:
        ran(job(corpus, tmp_path / "on", model="", base=str(tmp_path / "base"), length=64))
    assert caught.value.code == "E-CONFIG-246" and caught.value.fix == "--length 32"


def test_divergence_is_told_with_step_rate_and_cure(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        ran(job(corpus, tmp_path, steps=40, learning_rate=1e4, optimiser="adamw"))
    assert caught.value.code == "E-MODEL-032"
    assert "of 40" in caught.value.what and "learning rate" in caught.value.what
    assert caught.value.fix == "lower the rate: --learning-rate 3e+03"


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Job(corpus=tmp_path, out=tmp_path, length=4, optimiser="sgd")
    assert caught.value.code == "E-CONFIG-244"
    assert caught.value.details == (
        "name either a new net (--model) or a base to go on with (--from)",
        "give a budget of time (--budget 10m) or of steps (--steps 1000)",
        "the optimiser must be auto or one of muon, adamw",
        "rows of 4 tokens are too short: 8 at least",
    )


def test_a_decoder_writes_samples(corpus: Path, tmp_path: Path) -> None:
    evidence = ran(job(corpus, tmp_path, steps=40, batch_size=8, learning_rate=5e-3))
    assert len(evidence["samples"]) == 3
    assert all(sample["prompt"] and sample["text"] for sample in evidence["samples"])
    assert evidence["held_out"]["held"]["bits_per_byte"] < 1.0
