"""The verdict: a table of cases, in both languages."""

from __future__ import annotations

from typing import Any

import pytest

from sapwood.pages.verdict import verdict

BASE = {"name": "tf-idf", "parts": {"readout": "logistic regression"}}
PARTS: dict[str, dict[str, str]] = {
    "lora": {"method": "lora r=8", "readout": "verbalizer"},
    "prefix-20": {"prefix": "20 vectors"},
    "few-shot-16": {"context": "16 demonstrations"},
    "lora+few-shot-16": {"context": "16 demonstrations", "method": "lora"},
    "probe": {"readout": "linear probe"},
    "zero-shot": {"readout": "verbalizer"},
    "majority": {},
    "tf-idf": {"readout": "logistic regression"},
}


def candidate(name: str, test: float | None = None, **more: Any) -> dict[str, Any]:
    score = {"metric": "accuracy", "value": test, "low": 0.7, "high": 0.95}
    found = {
        "name": name,
        "parts": PARTS[name],
        "status": "finished",
        "dev": {**score, "value": 0.8},
        "test": score if test is not None else None,
        "cost": {"fit_seconds": 210, "ms_per_query": 35.0},
    }
    return {**found, **more}


def report(
    winner: str, difference: tuple[float, float, float] | None = None, **more: Any
) -> dict[str, Any]:
    """A run of `winner` against TF-IDF, with its paired test difference."""
    cheap = {"fit_seconds": 1.3, "ms_per_query": 0.09}
    candidates = [candidate("tf-idf", 0.739, cost=cheap), candidate(winner, 0.892)]
    comparisons = []
    if difference:
        mean, low, high = difference
        pair = {"candidate": winner, "against": "tf-idf", "split": "test"}
        comparisons.append({**pair, "difference": mean, "low": low, "high": high})
    found = {
        "splits": {"train": 850, "dev": 150, "test": 400},
        "candidates": candidates,
        "comparisons": comparisons,
        "recommended": winner,
    }
    return {**found, **more}


AHEAD = (0.153, 0.11, 0.196)
SCORE = "reaches 89.2 % accuracy (95 % interval 70.0 to 95.0) on 400 test rows"


@pytest.mark.parametrize(
    ("winner", "lead"),
    [
        ("lora", "Tune it: LoRA"),
        ("prefix-20", "Tune it: prefix-20"),
        ("few-shot-16", "Prompt it: few-shot-16"),
        ("lora+few-shot-16", "Prompt and tune it: LoRA+few-shot-16"),
        ("probe", "Read frozen features: probe"),
        ("zero-shot", "Prompt it: zero-shot"),
    ],
)
def test_a_separable_winner_is_named_by_what_it_does(winner: str, lead: str) -> None:
    sentence, separable = verdict(report(winner, AHEAD))
    assert separable
    assert sentence == (
        f"{lead} {SCORE}, 15.3 points above TF-IDF (11.0 to 19.6); "
        "it costs 210 s to fit and 35 ms a query."
    )


def test_an_interval_that_includes_zero_is_not_separable() -> None:
    sentence, separable = verdict(report("lora", (0.02, -0.01, 0.05)))
    assert not separable
    assert sentence == (
        f"Not separable at this size: LoRA {SCORE}; it costs 210 s to fit and 35 ms a query; "
        "its difference from TF-IDF, 2.0 points (−1.0 to 5.0), is within chance: "
        "take the cheaper, TF-IDF."
    )


def test_an_interval_that_starts_at_zero_is_not_separable() -> None:
    assert not verdict(report("lora", (0.02, 0.0, 0.05)))[1]


def test_a_winner_below_the_baseline_is_said_to_be() -> None:
    sentence, separable = verdict(report("lora", (-0.04, -0.07, -0.01)))
    assert not separable
    assert sentence.startswith("The baseline is better: LoRA")
    assert "4.0 points below TF-IDF (1.0 to 7.0)" in sentence


def test_a_comparison_written_the_other_way_round_counts() -> None:
    found = report("lora")
    row = {"candidate": "tf-idf", "against": "lora", "split": "test"}
    found["comparisons"] = [{**row, "difference": -0.153, "low": -0.196, "high": -0.11}]
    sentence, separable = verdict(found)
    assert separable
    assert "15.3 points above TF-IDF (11.0 to 19.6)" in sentence


def test_without_a_comparison_nothing_is_claimed() -> None:
    sentence, separable = verdict(report("lora"))
    assert not separable
    assert sentence.startswith("Not compared: LoRA")
    assert "was not compared with TF-IDF row by row" in sentence


def test_a_dev_comparison_does_not_separate_test_scores() -> None:
    found = report("lora", AHEAD)
    found["comparisons"][0]["split"] = "dev"
    assert verdict(found)[0].startswith("Not compared: ")
    assert not verdict(found)[1]


def test_without_any_baseline_nothing_is_claimed() -> None:
    found = report("lora", AHEAD, candidates=[candidate("lora", 0.892)])
    sentence, separable = verdict(found)
    assert not separable
    assert "no cheap baseline was run" in sentence


def test_majority_is_the_baseline_where_tf_idf_has_no_score() -> None:
    found = report("lora")
    found["candidates"] = [candidate("majority", 0.5), candidate("lora", 0.892)]
    row = {"candidate": "lora", "against": "majority", "split": "test"}
    found["comparisons"] = [{**row, "difference": 0.392, "low": 0.3, "high": 0.45}]
    sentence, separable = verdict(found)
    assert separable
    assert "39.2 points above majority (30.0 to 45.0)" in sentence


def recommended_baseline(low: float) -> dict[str, Any]:
    found = report("tf-idf")
    found["candidates"] = [candidate("tf-idf", 0.892), candidate("lora", 0.9)]
    row = {"candidate": "lora", "against": "tf-idf", "split": "test"}
    found["comparisons"] = [{**row, "difference": 0.03, "low": low, "high": 0.06}]
    return found


def test_a_recommended_baseline_that_nothing_beats() -> None:
    sentence, separable = verdict(recommended_baseline(-0.01))
    assert not separable
    assert sentence.startswith(f"Keep the baseline: TF-IDF {SCORE}")
    assert sentence.endswith(
        "nothing is better beyond chance (nearest: LoRA, 3.0 points, −1.0 to 6.0)."
    )


def test_a_recommended_baseline_that_test_rows_contradict() -> None:
    sentence, separable = verdict(recommended_baseline(0.01))
    assert not separable
    assert sentence.startswith("The dev rows chose the baseline: TF-IDF")
    assert "on test LoRA is 3.0 points above it (1.0 to 6.0), for 210 s to fit" in sentence


def test_without_test_rows_the_dev_score_is_called_what_it_is() -> None:
    found = report("lora", splits={"train": 850, "dev": 150, "test": 0})
    found["candidates"] = [candidate("tf-idf"), candidate("lora")]
    sentence, separable = verdict(found)
    assert not separable
    assert sentence.startswith("Not tested yet: LoRA reaches 80.0 % accuracy")
    assert "on 150 dev rows" in sentence
    assert sentence.endswith("the dev rows chose it, so expect less on new data.")


def test_unfinished_candidates_are_named() -> None:
    found = report("probe", AHEAD)
    found["candidates"] += [
        candidate("lora", status="stopped"),
        candidate("prefix-20", status="stopped"),
        candidate("few-shot-16", status="failed"),
    ]
    sentence, separable = verdict(found)
    assert separable
    assert sentence.endswith(
        " Stopped early, for the reasons in the table: LoRA, prefix-20. Failed: few-shot-16."
    )


@pytest.mark.parametrize("name", [None, "gone"])
def test_without_a_winner_there_is_no_answer(name: str | None) -> None:
    found = report("lora", AHEAD, recommended=name)
    assert verdict(found) == ("No answer: no candidate finished with a score.", False)
    assert verdict({}) == ("No answer: no candidate finished with a score.", False)


def test_a_winner_without_a_score_is_no_answer() -> None:
    found = report("lora", candidates=[candidate("lora", dev=None)])
    sentence, separable = verdict(found)
    assert sentence == "No answer: LoRA is recommended, but no score of it was recorded."
    assert not separable


def test_chinese_sentences() -> None:
    sentence, separable = verdict(report("lora", AHEAD), "zh")
    assert separable
    assert sentence == (
        "建议微调：LoRA 在 400 行测试数据上达到 89.2% 的准确率（95% 置信区间 70.0 至 95.0），"
        "比 TF-IDF 高 15.3 个百分点（11.0 至 19.6）；训练 210 秒，每次查询 35 毫秒。"
    )
    unsure = verdict(report("few-shot-16", (0.02, -0.01, 0.05)), "zh-CN")
    assert unsure[0].startswith("以现有数据量无法区分：few-shot-16")
    assert unsure[0].endswith("在偶然误差之内：选更便宜的 TF-IDF。")
    assert not unsure[1]
