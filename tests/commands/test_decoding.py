"""How answers are written, from the command line: `predict`, `eval` and `chat` ask alike."""

from __future__ import annotations

import json
import math

import pytest

from sapwood.commands.decoding import sampling
from sapwood.errors import ConfigError
from sapwood.models.choosing import Sampling

CPU = ("--device", "cpu", "--dtype", "float32")
USUAL = Sampling(tokens=32)


def chosen(usual=USUAL, **given):
    return sampling(given, usual)


def test_options_imply_a_way_and_its_usual_settings():
    assert chosen() == USUAL
    assert chosen(temperature=0.5).way == "sample" and chosen(temperature=0.5).top_p == 0.9
    assert chosen(decoding="sample") == Sampling(tokens=32, temperature=0.7, top_p=0.9)
    assert chosen(decoding="beam") == Sampling(tokens=32, beams=4)
    assert chosen(beams=3, samples=2) == Sampling(tokens=32, beams=3, samples=2)
    assert chosen(decoding="contrastive") == Sampling(tokens=32, contrast=0.6, top_k=5)
    assert chosen(contrast=0.3, top_k=8) == Sampling(tokens=32, contrast=0.3, top_k=8)
    assert chosen(samples=3).way == "sample"
    given = {"stops": ("x",), "max_tokens": 5, "no_repeat": 2, "repetition_penalty": 1.2}
    assert chosen(**given) == Sampling(tokens=5, stops=("x",), no_repeat=2, repetition_penalty=1.2)
    assert chosen(min_tokens=40).tokens == chosen(min_tokens=40).least_tokens == 40


def test_a_chat_that_samples_may_be_told_otherwise():
    usual = Sampling(tokens=32, temperature=0.7, top_p=0.9)
    assert chosen(usual, seed=3) == Sampling(tokens=32, temperature=0.7, top_p=0.9, seed=3)
    assert chosen(usual, temperature=0) == Sampling(tokens=32)
    assert chosen(usual, beams=2) == Sampling(tokens=32, beams=2)
    assert chosen(usual, top_k=3).top_k == 3


@pytest.mark.parametrize(
    ("given", "details"),
    [
        ({"decoding": "greedy", "top_p": 0.3}, ["--top-p is for sample, not for greedy"]),
        ({"beams": 3, "top_k": 3, "seed": 1},
         ["--top-k is for sample and contrastive, not for beam",
          "--seed is for sample, not for beam"]),
        ({"decoding": "sample", "temperature": 0},
         ["--temperature 0 takes the most probable token: that is greedy"]),
        ({"decoding": "contrastive", "samples": 2},
         ["--samples is for sample and beam, not for contrastive"]),
    ],
)  # fmt: skip
def test_options_of_another_way_are_named(given, details):
    with pytest.raises(ConfigError) as caught:
        chosen(**given)
    assert caught.value.code == "E-CONFIG-131" and list(caught.value.details) == details


def lines(ran):
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def test_predict_writes_by_each_way(sapwood, story, stories):
    said = {}
    for way in ("greedy", "sample", "beam", "contrastive"):
        ran = sapwood("predict", story, "--data", stories, "--decoding", way, "--json", *CPU)
        said[way] = [line["answer"] for line in lines(ran)]
        assert len(said[way]) == 5
    plain = sapwood("predict", story, "--data", stories, "--json", *CPU)
    assert [line["answer"] for line in lines(plain)] == said["greedy"]
    assert len(set(map(tuple, said.values()))) == 4


def test_samples_are_all_printed_and_follow_the_seed(sapwood, story, stories):
    given = ("predict", story, "--data", stories, "--temperature", 1, "--samples", 3, *CPU)
    found = lines(sapwood(*given, "--json"))
    for line in found:
        assert len(line["answers"]) == 3 and line["answers"][0]["answer"] == line["answer"]
        assert len({one["answer"] for one in line["answers"]}) > 1
    assert lines(sapwood(*given, "--json", "--seed", 0)) == found
    assert lines(sapwood(*given, "--json", "--seed", 1)) != found
    text = sapwood(*given).out
    assert len(text.splitlines()) == 15 and all("\t" in line for line in text.splitlines())


def test_lengths_and_stops_are_kept(sapwood, story):
    def said(*options):
        return lines(sapwood("predict", story, "a cat", "--json", *options, *CPU))[0]

    long = said("--max-tokens", 24)
    assert len(long["answer"]) > len(said("--max-tokens", 3)["answer"])
    assert long["complete"] is False
    stop = long["answer"][5:7]
    cut = said("--max-tokens", 24, "--stop", stop)
    assert cut["answer"] == long["answer"][: long["answer"].index(stop)].strip()
    assert "complete" not in cut


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_what_chooses_labels_is_not_told_how_to_write(sapwood, small_run, command):
    folder = small_run.out / "run" / "candidates" / "few-shot-4" / "adaptation"
    ran = sapwood(command, folder, "--data", small_run.data, "--beams", 3, "--stop", "x", *CPU)
    assert ran.code == 2
    assert (
        f"E-CONFIG-132  {folder} writes no answers: by 'verbalizer' it chooses among 2" in ran.err
    )
    assert "--beams says how answers are written" in ran.err
    assert "leave out --beams, --stop" in ran.err


def test_eval_gives_likelihoods_and_compares_what_is_written(
    sapwood, story, stories, tiny_tokenizer
):
    given = ("eval", story, "--data", stories, *CPU)
    ran = sapwood(*given, "--write", 4, "--decoding", "beam", "--json")
    assert ran.code == 0, ran.err
    content = json.loads(ran.out)
    details = content["details"]
    assert set(details) >= {
        "bits_a_byte", "perplexity_a_token", "perplexity_a_word", "written"
    }  # fmt: skip
    # both say the same likelihood: nats = bits * ln 2 * bytes = ln(perplexity) * units
    answers = ["then it ran away over the sea", "and he sang a song of the town",
               "so they set it on the road", "the play was cut and the cast went home",
               "it was a plan to see the sea"]  # fmt: skip
    nats = details["bits_a_byte"]["value"] * math.log(2) * sum(map(len, answers))
    words = sum(len(answer.split()) for answer in answers)
    assert math.log(details["perplexity_a_word"]["value"]) * words == pytest.approx(nats)
    tokens = sum(len(tiny_tokenizer(f" {answer}")["input_ids"]) + 1 for answer in answers)
    assert math.log(details["perplexity_a_token"]["value"]) * tokens == pytest.approx(nats)
    written = details["written"]
    assert written["rows"] == 4 and 0 <= written["stopped"] <= 1
    assert {"bleu", "chrf", "rouge_l", "distinct_2", "repetition", "length"} <= set(written)
    assert written["length"]["wanted"] > 0
    shown = sapwood(*given, "--write", 4).out
    assert "perplexity a word" in shown and "written, 4 rows:" in shown
    assert "(wanted " in shown
    assert "written" not in json.loads(sapwood(*given, "--json").out)["details"]


def test_write_is_for_texts(sapwood, small_run):
    folder = small_run.out / "run" / "candidates" / "few-shot-4" / "adaptation"
    ran = sapwood("eval", folder, "--data", small_run.data, "--write", 4, *CPU)
    assert ran.code == 2 and "E-CONFIG-133  --write is for texts" in ran.err


def test_a_dialogue_is_asked_through_the_chat_of_its_base(sapwood, writing):
    """Trained as turns, a text alone is asked as a turn too."""
    folder = writing("dialogue")
    ran = sapwood("predict", folder, "hello", "--json", *CPU)
    turns = [{"role": "user", "content": "hello"}]
    path = folder.parent / "d.jsonl"
    path.write_text(json.dumps({"messages": turns}))
    same = sapwood("predict", folder, "--data", path, "--json", *CPU)
    assert lines(ran)[0]["answer"] == lines(same)[0]["answer"]


RENDERED = "<|start_header_id|>user<|end_header_id|>\n\nhi {}<|eot_id|>"


@pytest.mark.parametrize("command", ["predict", "eval", "tune"])
def test_rows_rendered_for_another_template_are_refused(
    sapwood, writing, small_base, tmp_path, command
):
    rows = [
        {"messages": [{"role": "user", "content": RENDERED.format(n)},
                      {"role": "assistant", "content": f"hello {n}"}]}
        for n in range(12)
    ]  # fmt: skip
    data = tmp_path / "chats.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    if command == "tune":
        given = ("tune", data, "--task", "dialogue", "--model", small_base, "--encoder", "none",
                 "--out", tmp_path / "out")  # fmt: skip
    else:
        given = (command, writing("dialogue"), "--data", data)
    ran = sapwood(*given, *CPU)
    assert ran.code == 3
    assert "E-TPL-001  The texts hold the control tokens of a chat template" in ran.err
    assert "'<|eot_id|>' of Llama 3 is no token of" in ran.err
