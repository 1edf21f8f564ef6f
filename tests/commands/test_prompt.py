"""`sapwood prompt`: the half of `adapt` that trains nothing."""

import json
import re

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
