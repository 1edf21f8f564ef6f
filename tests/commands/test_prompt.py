"""`sapwood prompt`: the half of `adapt` that trains nothing."""

import json
import re

import pytest

OWN = {"--shots", "--selector", "--order", "--scorer", "--bias", "--contexts", "--encoding"}


def test_it_has_the_options_of_adapt_and_its_own(sapwood):
    adapt, prompt = sapwood("adapt", "--help").out, sapwood("prompt", "--help").out
    known, found = (
        set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", page, re.M)) for page in (adapt, prompt)
    )
    assert found - known == OWN and known <= found


def test_an_instruction_of_ones_own_reaches_the_model(
    sapwood, small_base, write_rows, tmp_path, monkeypatch
):
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    ran = sapwood(
        "prompt", write_rows(tmp_path / "d.csv"), "--model", small_base, "--encoder", "none",
        "--instruction", "Is it liked?", "--device", "cpu", "--dtype", "float32",
        "--out", tmp_path / "out", "--limit", "40", "--json",
    )  # fmt: skip
    report = json.loads(ran.out)
    assert report["splits"]["train"] == 40
    assert {c["status"] for c in report["candidates"]} == {"finished"}
    folder = tmp_path / "out" / "run" / "candidates" / "few-shot-4" / "adaptation"
    context = json.loads((folder / "context.json").read_text())
    assert context["template"]["instruction"] == "Is it liked?"
    assert len(context["demonstrations"]) == 4
    assert {d["label"] for d in context["demonstrations"]} == {"positive", "negative"}


@pytest.fixture
def prompted(sapwood, small_base, write_rows, tmp_path, monkeypatch):
    """Run `sapwood prompt` with flags on 60 rows; return the report and the folders it made."""
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    monkeypatch.setattr("sapwood.commands.prompt.FAMILIES", ("majority", "few-shot"))

    def run(*flags):
        ran = sapwood(
            "prompt", write_rows(tmp_path / "d.csv"), "--model", small_base, "--encoder", "none",
            "--device", "cpu", "--dtype", "float32", "--out", tmp_path / "out", "--limit", "40",
            "--json", *flags,
        )  # fmt: skip
        return json.loads(ran.out), tmp_path / "out" / "run" / "candidates"

    return run


def part(folder, name):
    return json.loads((folder / "adaptation" / name).read_text())


@pytest.mark.parametrize("selector", ["bm25", "bank", "greedy"])
def test_every_selector_that_needs_no_encoder_can_be_asked_for(prompted, selector):
    report, folder = prompted("--selector", selector, "--shots", "4", "--contexts", "2")
    (made,) = [c for c in report["candidates"] if c["name"] == f"few-shot-4-{selector}"]
    assert made["status"] == "finished", made["why"]
    context = part(folder / made["name"], "context.json")
    assert context["selection"] == selector
    assert context["sharing"] == {"bm25": "query", "bank": "group", "greedy": "all"}[selector]
    if selector == "bank":
        assert len(context["groups"]) == 2 and all(len(g) == 4 for g in context["groups"])
        assert "2 contexts of 4 demonstrations" in made["parts"]["context"]


@pytest.mark.parametrize("rule", ["likelihood", "global-entropy", "mdl", "similar-last"])
def test_a_judged_order_reports_its_spread(prompted, rule):
    report, folder = prompted("--shots", "4", "--order", rule)
    (made,) = [c for c in report["candidates"] if c["name"] == "few-shot-4"]
    assert part(folder / made["name"], "context.json")["order"] == rule
    assert f"ordered by {rule}" in made["parts"]["context"]
    if rule == "similar-last":
        assert "spread" not in made["notes"]
        return
    spread = made["notes"]["spread"]
    assert (spread["orders"], spread["rule"]) == (8, rule)
    low, mean, high = spread["accuracy"]
    assert 0 <= low <= mean <= high <= 1 and low <= spread["chosen"][0] <= high


def test_channel_and_a_named_bias_are_what_the_adaptation_reads_by(prompted):
    report, folder = prompted("--shots", "2", "--scorer", "channel", "--bias", "batch")
    (made,) = [c for c in report["candidates"] if c["name"] == "few-shot-2-channel"]
    settings = part(folder / made["name"], "readout.json")["settings"]
    assert (settings["scorer"], settings["bias"]) == ("channel", "batch")
    assert set(made["notes"]["bias"]) == {"batch"}


def test_an_approximate_encoding_says_so(prompted):
    report, folder = prompted("--shots", "6", "--encoding", "windows")
    (made,) = [c for c in report["candidates"] if c["name"] == "few-shot-6"]
    assert "encoded in windows (approximate)" in made["parts"]["context"]
    assert part(folder / made["name"], "context.json")["encoding"] == "windows"


def test_facts_stand_before_their_query_and_are_told_with_their_source(prompted, sapwood, tmp_path):
    graph = tmp_path / "g.tsv"
    graph.write_text("film\tis_a\twork\nplot\tpart_of\tfilm\n")
    report, folder = prompted("--shots", "2", "--facts", str(graph))
    (made,) = [c for c in report["candidates"] if c["name"] == "few-shot-2"]
    assert "from g.tsv" in made["parts"]["context"]
    graph.unlink()  # the adaptation carries its own copy
    ran = sapwood("predict", folder / "few-shot-2" / "adaptation", "a plot", "nothing known",
                  "--json", "--device", "cpu", "--dtype", "float32")  # fmt: skip
    first, second = (json.loads(line) for line in ran.out.splitlines())
    assert [(f["text"], f["source"]) for f in first["facts"]] == [("plot part of film", "g.tsv:2")]
    assert second["facts"] == []


def test_everything_wrong_with_a_prompt_is_told_at_once(sapwood, write_rows, tmp_path):
    ran = sapwood(
        "prompt", write_rows(tmp_path / "d.csv"), "--selector", "nearst", "--order", "best",
        "--scorer", "chanel", "--bias", "batch,lables", "--shots", "4,many",
    )  # fmt: skip
    assert ran.code == 2
    for words in (
        "nearst",
        "Did you mean 'nearest'",
        "--order best",
        "'channel'",
        "'labels'",
        "many",
    ):
        assert words in ran.err, ran.err
