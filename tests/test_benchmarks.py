"""The benchmarks start, and their result has the shape that other programs rely on.

The figures themselves are measured by `make bench`, never here: a tiny random net says nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = (
    "corpus", "cost_table", "cuda_tuning", "data_curve", "engines", "extraction", "icl_scoring",
    "icl_table", "joint_training", "long_context", "method_speed", "methods", "ngram",
    "nine_tasks", "poems", "pretraining", "probes", "richer_contexts", "serving", "tuning",
)  # fmt: skip
PEERS = {
    "icl_scoring": ("lm_eval", "datasets"),
    "icl_table": ("numpy",),
    "corpus": ("numpy",),
    "cost_table": ("numpy",),
    "cuda_tuning": ("peft", "accelerate"),
    "data_curve": ("numpy",),
    "engines": ("tensorflow",),
    "extraction": ("numpy",),
    "long_context": ("numpy",),
    "joint_training": ("numpy",),
    "method_speed": ("peft", "accelerate"),
    "methods": ("numpy",),
    "ngram": ("numpy",),
    "nine_tasks": ("numpy",),
    "poems": ("numpy",),
    "pretraining": ("accelerate",),
    "probes": ("numpy",),
    "richer_contexts": ("numpy",),
    "serving": ("peft",),
    "tuning": ("peft", "accelerate"),
}
ICL_RATIOS = {
    "one_token_vs_lm_eval", "many_label_vs_lm_eval",
    "one_token_vs_plain_loop", "many_label_vs_plain_loop",
}  # fmt: skip
TUNING_RATIOS = {"examples_per_second_vs_peft_trainer", "peak_memory_vs_peft_trainer"}


def launch(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / f"{script}.py"), *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=900,
    )


def smoke(script: str, checkpoint: Path, *more: str) -> dict[str, Any]:
    missing = [name for name in PEERS[script] if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -e '.[bench]'")
    flags = ("--smoke", "--json", "--threads", "1", "--model", str(checkpoint), *more)
    done = launch(script, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert {"claim", "machine", "versions", "rows", "ratios"} <= set(found)
    assert found["machine"]["threads"] == 1
    assert found["machine"]["OMP_WAIT_POLICY"]
    assert found["machine"]["load_average"]
    assert {"sapwood", "torch", "transformers", PEERS[script][0]} <= set(found["versions"])
    assert all(isinstance(value, float) and value > 0 for value in found["ratios"].values())
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_peer(script: str) -> None:
    done = launch(script, "--help")
    assert done.returncode == 0
    assert "--quick" in done.stdout
    assert "--json" in done.stdout
    assert "--smoke" not in done.stdout


def test_icl_scoring_shape(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = smoke("icl_scoring", tiny_checkpoint("llama"))
    assert set(found["ratios"]) >= ICL_RATIOS
    sides = {row["side"] for row in found["rows"]}
    assert sides == {"sapwood", "lm_eval", "plain_loop", "sapwood_same_few_queries"}
    for row in found["rows"]:
        assert row["largest_difference_of_log_p"] <= 1e-4
        assert row["predictions_equal"]
    assert {row["scorer"] for row in found["rows"]} == {"direct", "channel"}
    # What was not scored is never passed off as measured.
    sampled = [row for row in found["rows"] if row["labels_scored"] < row["labels"]]
    assert {row["setting"] for row in sampled} == {"clinc150"}
    assert all("labels were scored" in row["extrapolated"] for row in sampled)
    assert "clinc150_vs_lm_eval_extrapolated" in found["ratios"]
    assert "clinc150_vs_lm_eval" not in found["ratios"]


def test_icl_table_collects_once_and_reports(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    cache, words = tmp_path / "cache", tmp_path / "tables.md"
    words.write_text("# Kept\n<!-- icl_table: begin -->old<!-- icl_table: end -->\nend\n")
    flags = ("--cache", str(cache), "--markdown", str(words))
    found = smoke("icl_table", tiny_checkpoint("llama"), *flags)
    assert not found["missing"]
    kinds = {(row["scorer"], row["bias"]) for row in found["rows"]}
    assert {
        ("direct", "none"),
        ("direct-bytes", "labels"),
        ("channel", "batch"),
        ("probe", "none"),
    } <= kinds
    assert {row["shots"] for row in found["rows"]} == {0, 4, 16}
    for row in found["rows"]:
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["worst"] == min(row["per_seed"])
        assert row["seeds"] == 2
    gain = next(r for r in found["summary"] if r["bias"] == "none")["against_none"]
    assert gain["difference"] == gain["low"] == gain["high"] == 0
    written = words.read_text(encoding="utf-8")
    assert "| none |" in written
    assert written.startswith("# Kept\n")
    assert written.endswith("\nend\n")
    assert "old" not in written.split("begin")[1].split("end")[0]
    files = {path: path.stat().st_mtime_ns for path in (cache / "smoke").iterdir()}
    assert len(files) == (3 + 3 + 3 + 1) * 2  # shots of what is scored, features once, times seeds
    again = smoke("icl_table", tiny_checkpoint("llama"), *flags)
    assert again["rows"] == found["rows"]
    assert {path: path.stat().st_mtime_ns for path in (cache / "smoke").iterdir()} == files


def test_corpus_shape(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = smoke("corpus", tiny_checkpoint("llama"))
    assert set(found["ratios"]) == {"growth_time", "growth_memory"}  # no peer was named
    rows = {(row["task"], row["side"]): row for row in found["rows"]}
    assert set(rows) == {
        ("crawl", "sapwood"), ("dump", "sapwood"), ("growth", "once"), ("growth", "2 times"),
    }  # fmt: skip
    assert rows["growth", "once"]["documents"] == 6
    assert rows["growth", "2 times"]["records"] == 12
    assert len({round(row["peak_mb"], 1) for row in rows.values()}) > 1


def test_corpus_volume_shape(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = smoke("corpus", tiny_checkpoint("llama"), "--volume", "0.2")
    (row,) = found["rows"]
    assert row["text_mb"] >= 0.2 and row["counts"]["records"] == row["written"] > 40
    assert row["peak_mb"] > 20  # what Python and its packages take


def test_data_curve_keeps_its_cells(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    flags = ("--cache", str(tmp_path / "cache"), "--seconds", "60")
    found = smoke("data_curve", tiny_checkpoint("llama"), *flags)
    ways = {row["way"] for row in found["rows"]}
    assert {"tf-idf", "zero-shot", "few-shot-16", "knn", "probe", "lora", "lora+context",
            "compressed prefix", "distilled"} == ways  # fmt: skip
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in found["rows"])
    assert all(row["bytes"] > 0 and row["ms_per_query"] > 0 for row in found["rows"])
    assert smoke("data_curve", tiny_checkpoint("llama"), *flags)["rows"] == found["rows"]


def test_nine_tasks_are_read_from_the_reports_that_runs_leave(
    small_base: Path, write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    words, data = tmp_path / "table.md", write_rows(tmp_path / "reviews.csv")
    flags = ("--sets", "sst2_en", "--data", str(data), "--budget", "60s", "--limit", "60",
             "--cache", str(tmp_path / "cache"), "--markdown", str(words))  # fmt: skip
    flags = (*flags, "--smoke", "--json", "--threads", "1", "--model", str(small_base))
    done = launch("nine_tasks", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert row["metric"] == "accuracy" and row["baseline"]["name"] in ("tf-idf", "majority")
    assert row["test"]["low"] <= row["test"]["value"] <= row["test"]["high"]
    assert row["prompted"]["name"].startswith(("zero-shot", "few-shot"))
    line = words.read_text(encoding="utf-8").splitlines()[2]
    assert line.startswith(f"| sst2_en | accuracy | {row['baseline']['name']} ")
    again = launch("nine_tasks", *flags)  # reads the report that is there
    assert json.loads(again.stdout.splitlines()[-1])["rows"] == [row]


def test_poems_are_written_by_every_arm_and_checked(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    words = tmp_path / "poems.md"
    words.write_text("# Kept\n<!-- poems: begin -->old<!-- poems: end -->\nend\n")
    flags = ("--cache", str(tmp_path / "cache"), "--seconds", "60", "--markdown", str(words))
    found = smoke("poems", tiny_checkpoint("llama"), *flags)
    rates = {row["way"]: row["all_right"]["value"] for row in found["rows"]}
    assert all(rates[way] == 1.0 for way in rates if way.endswith("grammar"))
    assert {"before tuning", "few-shot", "tuned", "tuned, grammar", "real poems"} <= set(rates)
    written = words.read_text(encoding="utf-8")
    assert written.startswith("# Kept\n") and written.endswith("\nend\n")
    assert "| tuned, grammar | 4 | 100.0 (51.0 to 100.0) |" in written
    assert smoke("poems", tiny_checkpoint("llama"), *flags)["rows"] == found["rows"]


def test_pretraining_begins_with_equal_losses(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = smoke("pretraining", tiny_checkpoint("llama"))
    names = {"mlm_vs_trainer", "clm_vs_trainer"}
    assert set(found["ratios"]) == names | {f"{name}_in_cpu_time" for name in names}
    first = [row for row in found["rows"] if row["row"] == "first step"]
    assert {row["objective"] for row in first} == {"mlm", "clm"}
    for row in first:
        assert row["difference_of_loss"] <= 1e-4
        assert row["largest_difference_of_gradients"] <= 1e-4


def test_probes_compare_a_net_with_its_own_start(
    tiny_checkpoint: Callable[[str], Path], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    flags = ("--data", str(write_rows(tmp_path / "d.csv")), "--cache", str(tmp_path / "cache"))
    (row,) = smoke("probes", tiny_checkpoint("llama"), *flags)["rows"]
    assert (row["net"], row["objective"], row["steps"]) == ("bert-tiny", "mlm", 2)
    more = row["trained"]["value"] - row["random"]["value"]
    assert row["difference"]["difference"] == pytest.approx(more, abs=1e-6)
    assert row["difference"]["low"] <= more <= row["difference"]["high"]


def test_n_grams_are_counted_in_two_ways(tiny_checkpoint: Callable[[str], Path]) -> None:
    rows = smoke("ngram", tiny_checkpoint("llama"))["rows"]
    assert [row["side"] for row in rows[:2]] == ["sapwood", "sapwood, every token a word"]
    assert all(row["perplexity"] > 1 and row["bits_a_byte"] > 0 for row in rows[:2])
    assert all(row["bits_a_byte_with_line_ends"] < row["bits_a_byte"] for row in rows[:2])


@pytest.mark.parametrize("script", ["cost_table", "long_context"])
def test_costs_are_measured_for_every_way(
    script: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    found = smoke(script, tiny_checkpoint("llama"))
    assert found["rows"]
    assert all(value is not None for row in found["rows"] for value in row.values())


@pytest.mark.slow
def test_tuning_shape(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = smoke("tuning", tiny_checkpoint("llama"))
    assert set(found["ratios"]) >= TUNING_RATIOS
    first = found["rows"][0]
    assert first["equal"], first
    assert first["largest_gradient"] > 1e-3  # so that equality says something
    arms = {row["arm"] for row in found["rows"] if row["row"] == "speed"}
    assert len(arms) == 10
    finals = [row for row in found["rows"] if row["row"] == "final score"]
    assert {row["side"] for row in finals} == {"sapwood", "trainer"}
    assert all(row["dev"]["low"] <= row["dev"]["value"] <= row["dev"]["high"] for row in finals)


@pytest.mark.slow
def test_method_speed_compares_equal_things(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = smoke("method_speed", tiny_checkpoint("llama"))
    first = {row["method"]: row for row in found["rows"] if row["row"] == "first step"}
    hub = {"adapter"} if os.environ.get("SAPWOOD_HUB_PYTHON") else set()
    assert set(first) == {"lora", "dora", "ia3", "prefix", "prompt"} | hub
    for row in first.values():
        assert row["equal"], row
        assert row["largest_gradient"] > 1e-4  # so that equality says something
    for name in first:
        peer = "adapterhub" if name in hub else "peft"
        assert found["ratios"][f"{name}_saved_bytes_vs_{peer}"] < 1


@pytest.mark.slow
def test_cuda_tuning_begins_with_equal_losses(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = smoke("cuda_tuning", tiny_checkpoint("llama"), "--methods", "lora", "ia3")
    by_side = {(r["side"], r["method"], r["lengths"]): r["losses"] for r in found["rows"]}
    assert len(by_side) == 12
    for (_, method, lengths), losses in by_side.items():
        limit = by_side["limit", method, lengths]
        assert losses[0] == pytest.approx(limit[0], rel=1e-3)  # in bfloat16


def test_method_speed_says_what_it_skips(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAPWOOD_HUB_PYTHON", raising=False)
    if find_spec("peft") is None or find_spec("accelerate") is None:
        pytest.skip("peft and accelerate not installed: pip install -e '.[bench]'")
    flags = ("--smoke", "--json", "--methods", "adapter")
    done = launch("method_speed", *flags, "--model", str(tiny_checkpoint("llama")))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "adapter: skipped" in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["ratios"]
    (row,) = found["rows"]
    assert row["row"] == "skipped"
    assert "SAPWOOD_HUB_PYTHON is not set" in row["why"]


@pytest.mark.slow
def test_methods_are_searched_then_run_with_every_seed(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    flags = ("--cache", str(tmp_path / "cache"))
    found = smoke("methods", tiny_checkpoint("llama"), *flags)
    methods = {row["method"] for row in found["rows"]}
    assert {"lora", "dora", "prefix random", "prefix text", "full", "prefix + lora"} <= methods
    assert not {"head", "bitfit"} & methods  # a decoder has no head to train, a Llama no biases
    for row in found["rows"]:
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["worst"] <= row["mean"]
        assert row["seeds"] == 2
    assert smoke("methods", tiny_checkpoint("llama"), *flags)["rows"] == found["rows"]


def test_posts_keep_the_names_of_their_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from _noise import posted

    tokens = ["Ann", "Lee", "said", "New", "York", "prices", "rejected", "Brussels", "."]
    tags = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O", "O", "B-ORG", "O"]
    changed = 0
    for seed in range(50):
        words, own = posted(tokens, tags, seed)
        assert posted(tokens, tags, seed) == (words, own)
        assert len(words) == len(own)
        kinds = [tag[2:] for tag in own if tag.startswith("B-")]
        assert kinds == ["PER", "LOC", "ORG"]
        for before, tag in zip(["O", *own], own, strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]
        changed += words[:9] != [word.lower() for word in tokens]
    assert changed > 25


@pytest.mark.slow
def test_extraction_compares_methods_with_full_fine_tuning(
    tiny_net: Callable[..., Any], tiny_wordpieces: Any, tmp_path: Path
) -> None:
    base = tmp_path / "bert"
    tiny_net("bert").save_pretrained(base)
    tiny_wordpieces.save_pretrained(base)
    flags = ("--cache", str(tmp_path / "cache"))
    found = smoke("extraction", base, *flags)
    assert {row["set"] for row in found["rows"]} == set(found["floors"])
    assert {row["method"] for row in found["rows"]} >= {"head", "adapter", "prefix", "lora", "full"}
    for row in found["rows"]:
        assert row["low"] <= row["macro_f1"] <= row["high"]
        assert row["worst"] <= row["macro_f1"]
        assert ("against_full" in row) is (row["method"] != "full")
    assert smoke("extraction", base, *flags)["rows"] == found["rows"]


def test_joint_training_is_exact(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = smoke("joint_training", tiny_checkpoint("llama"))
    assert found["rows"]


def test_engines_go_the_same_way(tiny_checkpoint):
    found = smoke("engines", tiny_checkpoint("llama"))
    assert {row["row"] for row in found["rows"]} == {"lora", "mlm+nsp"}
    assert all(row["loss_difference"] < 1e-2 for row in found["rows"])
    assert set(found["ratios"]) == {"lora_tensorflow_vs_torch", "mlm+nsp_tensorflow_vs_torch"}


def test_serving_compares_what_is_equal(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = smoke("serving", tiny_checkpoint("llama"))
    assert {
        "distinct8_vs_base", "distinct8_vs_serial", "distinct8_vs_peft_switched",
        "distinct8_vs_peft_mixed", "context_first_token_miss_vs_hit",
    } <= set(found["ratios"])  # fmt: skip
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        rows.setdefault(row["row"], []).append(row)
    assert {row["popularity"] for row in rows["throughput"]} == {
        "base", "identical", "zipf", "distinct"
    }  # fmt: skip
    for row in rows["peer"]:
        assert row["answers_like_ours"] == row["answers"], row["side"]
    assert all(row.get("answers_unlike_alone", 0) == 0 for row in rows["headline"][:3])
    for row in (*rows["open_loop"], *rows["saturation"]):
        assert row["answered_once"] == row["accepted"]
        assert row["accepted"] + row["refused_busy"] == row["sent"]
    (context,) = rows["context"]
    assert context["cached_tokens"] == context["context_tokens"]
    (memory,) = rows["memory"]
    assert memory["own_bytes"] > 0
