"""Answers found or written: what is said beyond spans, the panel, and the page around them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sapwood.pages.answers import answered, answers, statements
from sapwood.pages.card import model_card
from sapwood.pages.comparing import difference
from sapwood.pages.page import page
from sapwood.pages.panel import panel, quantity
from sapwood.pages.sections import order
from sapwood.pages.terminal import terminal_table
from sapwood.pages.verdict import verdict
from sapwood.pages.words import Words

RUNS = Path(__file__).parent / "runs"
FOUND = ("entities", "relations", "events", "labels")
WRITTEN = ("poetry", "dialogue")
EN, ZH = Words(), Words(lang="zh")


def run(name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((RUNS / f"{name}.json").read_text("utf-8"))
    return report


def told(report: dict[str, Any], number: int) -> list[tuple[str, str, str]]:
    rows = statements(report["answers"][number], report["task"])
    flat = [(r["reading"], r["label"], r["words"]) for r in rows]
    return flat + [(m["reading"], m["label"], m["words"]) for r in rows for m in r.get("more", [])]


def test_relations_are_told_by_their_two_ends() -> None:
    rows = statements(run("relations")["answers"][0], "relations")
    assert [(r["reading"], r["label"], r["words"], r["tail"]) for r in rows] == [
        ("right", "born_in", "Ada Lovelace", "London"),
        ("missed", "worked_with", "Ada Lovelace", "Charles Babbage"),
        ("spurious", "born_in", "Charles Babbage", "London"),
    ]


def test_events_are_told_with_their_arguments() -> None:
    assert told(run("events"), 0) == [
        ("right", "组织关系-裁员", "裁员"),
        ("missed", "裁员方", "WeWork"),
        ("spurious", "裁员方", "该公司"),
        ("right", "时间", "本周"),
        ("right", "裁员人数", "2000人"),
    ]
    assert ("missed", "人生-受伤", "砸") in told(run("events"), 2)


def test_events_without_triggers_are_matched_by_type() -> None:
    wanted = {"label": "a", "head": None, "arguments": [{"start": 0, "end": 2, "label": "who"}]}
    row = {"text": "we go", "frames_wanted": [wanted], "frames": [{**wanted, "arguments": []}]}
    found = statements(row, "events")
    assert [(r["reading"], r["words"]) for r in found] == [("right", "")]
    assert [m["reading"] for m in found[0]["more"]] == ["missed"]


def test_several_labels_are_told_one_by_one() -> None:
    assert told(run("labels"), 0) == [
        ("right", "joy", ""), ("missed", "fear", ""), ("right", "surprise", ""),
        ("spurious", "love", ""),
    ]  # fmt: skip


def test_measures_come_in_words_of_both_languages() -> None:
    for name in FOUND:
        for words in (EN, ZH):
            found = panel(run(name), words)
            assert found is not None
            assert found["measures"]
            for row in found["measures"]:
                assert words.known(f"measure_{row['key']}") == row["name"]
                assert row["about"]


def test_errors_are_counted_by_kind() -> None:
    found = panel(run("entities"), EN)
    assert found is not None
    assert {kind["key"]: kind["n"] for kind in found["errors"]["kinds"]} == {
        "boundary": 2, "type": 2, "boundary_and_type": 1, "missed": 2, "spurious": 2,
    }  # fmt: skip
    html = page(run("entities"), "en")
    assert "Boundary: right type, overlapping characters" in html
    assert "Types taken for others" in html


def test_types_come_worst_first_with_support() -> None:
    found = panel(run("events"), EN)
    assert found is not None
    assert [table["key"] for table in found["tables"]] == ["by_type", "by_role"]
    scores = [row["f1"] for row in found["tables"][1]["rows"]]
    assert scores == sorted(scores)
    assert "Partial F1" not in page(run("events"), "en")
    report = run("entities")
    report["panel"]["by_type"][0]["partial"] = 0.875
    assert "87.5" in page(report)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("perplexity_a_token", 0.93, "0.9"),
        ("bits_a_byte", 2.347, "2.35"),
        ("bleu", 0.9, "0.9"),
        ("lines_right", 0.91, "91.0 %"),
        ("distinct_2", 1.0, "100.0 %"),
        ("count", 1240, "1,240"),
        ("ratio", 1.256, "1.26"),
        ("rhyme", None, "—"),
    ],
)
def test_shares_are_percents_and_the_rest_numbers(key: str, value: Any, text: str) -> None:
    assert quantity(key, value, EN) == text


def test_a_measure_that_nobody_named_is_shown_under_its_own_name() -> None:
    report = run("poetry")
    report["panel"] |= {"odd_new_score": 0.25, "more": {"inner": {"value": 3.5}}, "by": "rule"}
    html = page(report, "en")
    assert "Odd new score" in html
    assert "25.0" in html
    assert "Inner" in html
    assert "rule" in html


@pytest.mark.parametrize("name", [*FOUND, *WRITTEN])
def test_sections_are_those_of_the_task(name: str) -> None:
    report = run(name)
    assert answered(report)
    sections = order(report)
    assert "panel" in sections
    assert not {"classes", "calibration", "errors"} & set(sections)
    report["confusion"] = {"labels": ["a"], "counts": [[1]]}
    assert "classes" in order(report)
    del report["panel"], report["answers"]
    html = page(report, "en")
    assert "No answers to the test rows were kept" in html
    assert "No answers to single rows were kept" in html


def test_written_samples_stand_side_by_side() -> None:
    with_base, without = page(run("poetry"), "en"), page(run("dialogue"), "en")
    assert "columns four" in with_base
    assert "Base, untuned" in with_base
    assert "Base, untuned" not in without
    assert '<p dir="auto" lang="zh">春風吹古道' in with_base
    assert "&lt;b&gt;bold&lt;/b&gt;" in without


def test_rows_without_anything_say_so() -> None:
    assert "Nothing was wanted and nothing was answered." in page(run("entities"), "en")
    assert "没有应有的，也没有答出的。" in page(run("entities"), "zh")
    report = run("dialogue")
    report["answers"][0]["words"] = ""
    assert ">nothing</p>" in page(report, "en")


def test_samples_and_errors_are_told_apart() -> None:
    found = answers(run("entities"), EN)
    assert found is not None
    assert (len(found["samples"]), len(found["errors"])) == (6, 2)
    assert found["samples"][3]["right"] is True
    assert answers({"task": "entities"}, EN) is None


def test_rows_and_labels_are_text_never_markup() -> None:
    evil = "<script>alert('x')</script>\"&"
    for name in (*FOUND, *WRITTEN):
        report = run(name)
        for row in report["answers"]:
            row |= {"text": evil + row["text"], "wanted": evil, "words": evil, "base": evil}
            for frame in row["frames"]:
                frame["label"] = evil
        report["panel"] |= {evil: 0.5, "by_type": [{"label": evil, "f1": 0.5}]}
        html = page(report)
        assert "<script" not in html
        assert html.count("&lt;script&gt;") > 3


def test_bits_are_told_beside_the_share_saved() -> None:
    sentence, separable = verdict(run("poetry"), "en")
    assert separable
    assert "LoRA needs 2.15 of the 8 bits of a byte and saves 73.1 %" in sentence
    assert "32.9 points above n-gram (29.0 to 36.6)" in sentence
    assert "对每字节的 8 比特只需 2.15 比特，节省 73.1%" in verdict(run("poetry"), "zh")[0]
    html = page(run("poetry"), "en")
    assert "Bits a byte" in html
    assert "bits saved, test" in html


def test_the_dictionary_is_the_baseline_of_extraction() -> None:
    sentence, separable = verdict(run("entities"), "en")
    assert separable
    assert "73.1 % span F1" in sentence
    assert "32.9 points above dictionary (29.0 to 36.6)" in sentence


def test_the_curve_is_named_after_the_metric() -> None:
    html = page(run("entities"), "en")
    assert "Dev span F1 (%); the ring marks the best" in html
    assert ">span F1 (%)</text>" in html


def test_the_card_tells_scores_and_no_rows() -> None:
    card = model_card(run("entities"))
    for piece in (
        "pipeline_tag: token-classification",
        "metrics:\n- f1\n",
        "- type: span_f1\n",
        "Span F1, with 95 % bootstrap intervals",
        "| Strict: type and both ends exactly right | 58.8 % | 58.8 % | 58.8 % |",
        "| MISC | 33.3 % | 50.0 % | 40.0 % | 2 |",
        "- Missed: wanted, nothing answered there: 2",
        "Labels with an F1 under 50 %: `MISC` (40.0 %)",
    ):
        assert piece in card, piece
    assert "Blackburn" not in card
    poems = model_card(run("poetry"))
    assert "pipeline_tag: text-generation" in poems
    assert "| Distinct-2 | 93.0 % | 89.0 to 97.0 | 97.0 % |" in poems
    assert "not checked for truth or harm" in poems
    assert "春風" not in poems


def test_the_terminal_shows_the_scores_of_the_task() -> None:
    wide = terminal_table(run("entities"), 80, lang="en")
    assert "Strict              58.8 %  58.8 %  58.8 %" in wide
    assert "Boundary 2, Type 2, Boundary and type 1, Missed 2, Spurious 2" in wide
    assert wide.rstrip().endswith("LoRA+context."), "the verdict comes last"
    narrow = terminal_table(run("entities"), 40, lang="en")
    assert "Strict           58.8 %" in narrow
    assert "ROUGE-L" in terminal_table(run("poetry"), 80)


def test_runs_of_written_answers_are_not_compared_by_rows() -> None:
    rows = [{"text": str(n), "label": "a", "predicted": "a" if n < 40 else "b"} for n in range(80)]
    worse = [{**row, "predicted": "b"} for row in rows]
    assert "in accuracy on" in difference(("a", rows), ("b", worse), EN)["sentence"]
    found = difference(("a", rows), ("b", worse), EN, "entities")
    assert "50.0 points in rows answered exactly right on the same 80" in found["sentence"]
    poems = difference(("a", rows), ("b", worse), EN, "poetry")
    assert not poems["comparable"]
    assert "compare the scores in the table" in poems["sentence"]


def test_runs_of_written_answers_are_compared_in_bits_saved() -> None:
    """`compare` said of two story runs, 1.4 points apart, that they were level in accuracy."""
    rows = [{"text": str(n), "label": "a", "predicted": "", "nats": 80.0 + n % 7, "bytes": 90.0}
            for n in range(80)]  # fmt: skip
    better = [{**row, "nats": row["nats"] - 9.0} for row in rows]
    found = difference(("b", better), ("a", rows[::-1]), EN, "story")
    assert found["comparable"] and "in bits saved on the same 80" in found["sentence"]
    wanted = 9.0 / 90.0 / math.log(2) / 8
    assert found["difference"] == pytest.approx(wanted)
    assert found["low"] == pytest.approx(wanted) == found["high"]
