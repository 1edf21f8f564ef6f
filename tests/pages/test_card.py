"""The model card: front matter that parses, a licence that is never assumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sapwood.pages.card import model_card

RUNS = Path(__file__).parent / "runs"


def run(name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((RUNS / f"{name}.json").read_text("utf-8"))
    return report


def front(card: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    assert card.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_front_matter_holds_what_the_hub_reads() -> None:
    found = front(model_card(run("sentiment")))
    assert found["base_model"] == ["smollm2-135m", "minilm-l6"]
    assert found["language"] == ["en"]
    assert found["library_name"] == "sapwood"
    assert found["pipeline_tag"] == "text-classification"
    assert found["metrics"] == ["accuracy"]
    assert found["tags"] == ["sapwood", "tune", "lora", "peft"]
    result = found["model-index"][0]["results"][0]
    assert result["dataset"] == {"name": "reviews.csv", "type": "local", "split": "test"}
    assert result["metrics"][0] == {"type": "accuracy", "value": 0.8925}


@pytest.mark.parametrize(
    ("bases", "data", "licence"),
    [
        (["apache-2.0"], "apache-2.0", "apache-2.0"),
        (["Apache-2.0"], "apache-2.0", "apache-2.0"),
        (["apache-2.0"], None, "other"),
        (["apache-2.0"], "unknown", "other"),
        (["unknown"], "apache-2.0", "other"),
        ([], "apache-2.0", "other"),
        (["gemma"], "cc-by-4.0", "other"),
    ],
)
def test_the_licence_is_inherited_never_assumed(
    bases: list[str], data: str | None, licence: str
) -> None:
    report = run("sentiment")
    report["environment"]["bases"] = [{"name": f"b{i}", "license": x} for i, x in enumerate(bases)]
    report["data"]["license"] = data
    card = model_card(report)
    assert front(card)["license"] == licence
    known = all(x not in (None, "unknown") for x in (*bases, data)) and bool(bases)
    assert ("the licence of this adaptation is unknown" in card) == (not known)


def test_a_baseline_inherits_from_the_data_alone() -> None:
    report = run("sentiment")
    report["recommended"] = "tf-idf"
    report["data"]["license"] = "mit"
    found = front(model_card(report))
    assert found["license"] == "mit"
    assert "base_model" not in found


def test_the_evidence_is_told() -> None:
    card = model_card(run("sentiment"))
    for piece in (
        "Tune it: LoRA reaches 89.2 % accuracy",
        "| **LoRA** |",
        "- against TF-IDF: +15.3 points (11.0 to 19.6)",
        "- weights trained: 2,442,240",
        "- dropped: 7 (exact duplicate)",
        "- test rows also in train: 0 exactly, 1 nearly",
        "sapwood adapt reviews.csv --budget 15m",
        "- seed: `0`",
        'sapwood predict . "a text"',
    ):
        assert piece in card, piece


def test_odd_names_break_neither_yaml_nor_the_table() -> None:
    report = run("sentiment")
    report["data"]["path"] = 'a: "b" | #c.csv'
    report["candidates"][0]["why"] = "a | b\nc"
    card = model_card(report)
    assert front(card)["model-index"][0]["results"][0]["dataset"]["name"] == 'a: "b" | #c.csv'
    assert "a \\| b c |" in card


@pytest.mark.parametrize("name", ["chinese", "intents", "troubled", "empty"])
def test_every_run_has_a_card(name: str) -> None:
    card = model_card(run(name))
    assert front(card)["license"] == "other"
    assert "None" not in card
