"""Entities, relations and events on a tiny random BERT: tried, saved, read again, reported."""

from __future__ import annotations

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
PEOPLE, PLACES = ("ann", "ted", "lee roe"), ("the inn", "rio", "the old den")


def sentence(rng, number):
    """Return (text, person, verb, place), each by its characters."""
    who, verb, where = rng.choice(PEOPLE), rng.choice(("sold", "has")), rng.choice(PLACES)
    words = [who, verb, where, rng.choice(("today", "again", "so")), str(number)]
    text = " ".join(words)
    places, at = [], 0
    for word in words[:3]:
        at = text.index(word, at)
        places.append((at, at + len(word)))
        at += len(word)
    return text, *places, verb


def rows_of(task, count=240):
    rng = random.Random(0)
    for number in range(count):
        text, who, verb, where, word = sentence(rng, number)
        spans = [
            {"start": who[0], "end": who[1], "type": "PER"},
            {"start": where[0], "end": where[1], "type": "LOC"},
        ]
        if task == "entities":
            yield {"text": text, "entities": spans}
        elif task == "relations":
            relation = {"head": 0, "tail": 1, "type": word}
            yield {"text": text, "entities": spans, "relations": [relation]}
        else:
            arguments = [[*who, "who"], [*where, "what"]]
            event = {"type": word, "trigger": list(verb), "arguments": arguments}
            yield {"text": text, "events": [event]}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tiny_wordpieces):
    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    net = tiny_net("bert")
    for name, tensor in net.named_parameters():
        if "LayerNorm" in name:
            tensor.data.fill_(float(name.endswith("weight")))
    net.save_pretrained(folder)
    tiny_wordpieces.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def bases():
    return Bases(RUNTIME)


@pytest.fixture
def bench(encoder, bases, tmp_path):
    def make(task, *only):
        data = tmp_path / f"{task}.jsonl"
        data.write_text("\n".join(json.dumps(row) for row in rows_of(task)))
        job = Job(
            data=str(data), out=tmp_path / "out", model=encoder, seconds=600.0, task=task,
            only=only, max_length=96, tuning=Tuning(epochs=6.0, learning_rate=2e-2),
        )  # fmt: skip
        folder = job.out / "run"
        folder.mkdir(parents=True, exist_ok=True)
        return Workbench(job, read_material(job), bases, folder)

    return make


def test_what_is_tried(bench):
    assert [c.name for c in ladder(bench("entities"))] == ["dictionary", "head", "lora"]
    only = ladder(bench("events", "dictionary", "head", "adapter"))
    assert [c.name for c in only] == ["dictionary", "head", "adapter"]


@pytest.mark.parametrize("task", ["entities", "relations", "events"])
def test_what_was_made_is_read_again_and_finds_the_same(bench, bases, task):
    made = bench(task, "head", "lora")
    for _ in climb(made):
        pass
    for name in ("head", "lora"):
        result = made.results[name]
        assert result["status"] == "finished", result["why"]
        adaptation = load(made.candidate_folder(name) / "adaptation")
        assert adaptation.task == task
        with asked_safely(adaptation, bases) as asked:
            said = asked.said(made.splits.dev)
        found = tally(task, made.splits.dev, said).value
        assert found == pytest.approx(result["dev"]["value"], abs=1e-6)
        for row, answer in zip(made.splits.dev, said, strict=True):
            for frame in answer.frames:
                for span in (frame.head, *frame.arguments):
                    assert span is None or row.text[span.start : span.end].strip()
    assert made.results["lora"]["dev"]["value"] > (0.8 if task == "entities" else 0.3)


def test_adapt_reports_and_predict_answers(sapwood, encoder, tmp_path):
    data, out = tmp_path / "names.jsonl", tmp_path / "run"
    data.write_text("\n".join(json.dumps(row) for row in rows_of("entities")))
    ran = sapwood(
        "adapt", data, "--task", "ner", "--model", encoder, "--encoder", "none", "--epochs", "2",
        "--out", out, "--device", "cpu", "--dtype", "float32", "--budget", "10m",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads((out / "report.json").read_text())
    assert report["metric"] == "span_f1"
    assert {c["name"] for c in report["candidates"]} == {"dictionary", "head", "lora"}
    panel = report["panel"]
    assert {"strict", "partial", "untyped", "macro", "by_type", "errors"} <= set(panel)
    assert all("partial" in row for row in panel["by_type"])
    page = (out / "report.html").read_text()
    assert 'class="marked"' in page
    ran = sapwood("predict", out, "--data", data, "--device", "cpu", "--dtype", "float32")
    assert ran.code == 0, ran.err
    assert len(ran.out.splitlines()) >= 240
