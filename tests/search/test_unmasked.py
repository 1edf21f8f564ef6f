"""A decoder that is read as an encoder: tried where none stands beside it, saved, read again."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from sapwood.adaptation import load
from sapwood.evaluation import Bases, asked_safely
from sapwood.launch import Runtime
from sapwood.search.job import Job, Tuning, read_material
from sapwood.search.ladder import climb, ladder
from sapwood.search.workbench import Workbench
from sapwood.testing import tiny_net

NAME = "lora+unmasked"
WHO, WHERE = ("ann", "ted", "lee roe"), ("the inn", "rio", "the old den")


def rows_of(task, count=240):
    rng = random.Random(0)
    for number in range(count):
        who, verb, where = rng.choice(WHO), rng.choice(("sold", "has")), rng.choice(WHERE)
        text = f"{who} {verb} {where} {number}"
        spans = {"start": 0, "end": len(who)}, {"start": text.index(where), "end": 0}
        spans[1]["end"] = spans[1]["start"] + len(where)
        if task == "entities":
            types = zip(spans, ("PER", "LOC"), strict=True)
            yield {"text": text, "entities": [{**span, "type": kind} for span, kind in types]}
        elif task == "pairs":
            yield {"text": text, "head": spans[0], "tail": spans[1], "relation": verb}
        else:
            yield {"text": text, "labels": [verb, *(["far"] if where == "rio" else [])]}


@pytest.fixture(scope="module")
def bases():
    return Bases(Runtime(device="cpu", dtype="float32", threads=1))


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_tokenizer):
    """A tiny decoder that is lively enough to learn from."""
    folder = tmp_path_factory.mktemp("lively") / "lively"
    net = tiny_net("llama")
    for name, tensor in net.named_parameters():
        if "norm" in name:
            tensor.data.fill_(1.0)
    net.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def bench(base, bases, tmp_path):
    def make(task, *only, encoder=None):
        data = tmp_path / f"{task}.jsonl"
        data.write_text("\n".join(json.dumps(row) for row in rows_of(task)))
        job = Job(
            data=str(data), out=tmp_path / "out", model=base, seconds=600.0, task=task, only=only,
            max_length=96, encoder=encoder, tuning=Tuning(epochs=6.0, learning_rate=2e-2),
        )  # fmt: skip
        folder = job.out / "run"
        folder.mkdir(parents=True, exist_ok=True)
        return Workbench(job, read_material(job), bases, folder)

    return make


@pytest.mark.parametrize("task", ["entities", "pairs", "multi-label"])
def test_tried_where_no_encoder_stands_beside(bench, task):
    assert NAME in [c.name for c in ladder(bench(task))]
    assert NAME not in [c.name for c in ladder(bench(task, encoder="minilm-l6"))]
    assert "dora+unmasked" in [c.name for c in ladder(bench(task, "dora+unmasked"))]


def test_label_words_come_first_where_a_text_has_one_label(bench, write_rows, tmp_path):
    made = bench("pairs")
    made.task = type(made.task)(**{**vars(made.task), "name": "classification"})
    assert NAME not in [c.name for c in ladder(made)]


@pytest.mark.parametrize(
    ("task", "least"), [("entities", 0.8), ("pairs", 0.9), ("multi-label", 0.9)]
)
def test_what_was_made_is_read_again_and_says_the_same(bench, bases, task, least):
    made = bench(task, NAME)
    for _ in climb(made):
        pass
    result = made.results[NAME]
    assert result["status"] == "finished", result["why"]
    assert result["dev"]["value"] > least
    adaptation = load(made.candidate_folder(NAME) / "adaptation")
    assert adaptation.unmasked
    assert "the causal mask left out" in adaptation.parts()["readout"]
    with asked_safely(adaptation, bases) as asked:
        said = asked.said(made.splits.dev)
    if task == "pairs":
        np.testing.assert_allclose(said, made.dev[NAME], atol=1e-5)
    else:
        known = [answer.frames for answer in made.dev[NAME]]
        assert [answer.frames for answer in said] == known


def test_its_decoder_does_not_chat(sapwood, base, tmp_path):
    data, out = tmp_path / "names.jsonl", tmp_path / "run"
    data.write_text("\n".join(json.dumps(row) for row in rows_of("entities")))
    ran = sapwood(
        "tune", data, "--method", NAME, "--task", "ner", "--model", base, "--epochs", "1",
        "--out", out, "--device", "cpu", "--dtype", "float32", "--budget", "10m",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    ran = sapwood("chat", out)
    assert ran.code != 0
    assert "E-MODEL-034" in ran.err
    ran = sapwood("predict", out, "ann has rio", "--device", "cpu", "--dtype", "float32")
    assert ran.code == 0, ran.err


def test_an_encoder_has_no_mask_to_leave_out(sapwood, tmp_path, tiny_wordpieces):
    folder = tmp_path / "bert"
    tiny_net("bert").save_pretrained(folder)
    tiny_wordpieces.save_pretrained(folder)
    data = tmp_path / "names.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows_of("entities")))
    ran = sapwood("tune", data, "--task", "ner", "--model", folder, "--method", NAME)
    assert "E-MODEL-052" in ran.err
