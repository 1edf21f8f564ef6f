"""What users of other tools suffer from the tool itself, and cannot suffer here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OFFLINE = """
import socket, sys
def refuse(*given, **more):
    raise SystemExit(f"a connection was attempted: {given}")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
socket.getaddrinfo = refuse
"""


def python(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
        env={k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | environment,
    )  # fmt: skip


def test_axolotl_3274_nothing_is_sent_to_anyone_at_import_or_by_a_whole_run(
    small_base, write_rows, tmp_path
):
    """Opt-out telemetry rejected by EU users. And no offline mode (AutoGluon 4873, 1115)."""
    data = write_rows(tmp_path / "d.csv")
    code = (
        OFFLINE
        + "import sapwood, sapwood.report\nfrom sapwood.cli import main\n"
        + "sapwood.report.write_html = lambda *given: None\nmain(sys.argv[1:])"
    )
    ran = python(
        code, "tune", data, "--model", small_base, "--encoder", "none", "--epochs", "0.5",
        "--device", "cpu", "--dtype", "float32", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "connection was attempted" not in ran.stderr
    assert json.loads(ran.stdout)["recommended"]


def test_autogluon_4873_a_base_that_is_not_here_says_what_works_without_a_network(
    sapwood, write_rows, tmp_path, monkeypatch
):
    """No offline mode for base weights."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ran = sapwood(
        "adapt", write_rows(tmp_path / "d.csv"), "--model", "owner/name", "--encoder", "none",
        "--device", "cpu", "--dtype", "float32", "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 4
    assert "HF_HUB_OFFLINE is set" in ran.err and "name a local folder" in ran.err


def test_lf_5819_no_code_of_a_checkpoint_runs_unless_that_model_is_named(
    sapwood, small_base, write_rows, tmp_path
):
    """Remote code on by default: asked to be off, still forced on."""
    model, trace = tmp_path / "model", tmp_path / "it-ran"
    shutil.copytree(small_base, model)
    (model / "mystery.py").write_text(f"open({str(trace)!r}, 'w')\n")
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "mystery", "auto_map": {"AutoConfig": "mystery.Config",
               "AutoModelForCausalLM": "mystery.Net"}}  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    arguments = (
        "adapt", write_rows(tmp_path / "d.csv"), "--model", model, "--encoder", "none",
        "--device", "cpu", "--dtype", "float32", "--out", tmp_path / "out",
    )  # fmt: skip
    for more in ([], ["--trust-remote-code", "another/model"]):
        ran = sapwood(*arguments, *more)
        assert ran.code == 5 and "E-MODEL-007" in ran.err
        assert f"--trust-remote-code {model}" in ran.err
    assert not trace.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["adapt", "missing.csv"],
        ["adapt", "missing.csv", "--rank", "no"],
        ["predict", "missing", "text"],
        ["eval", "missing", "--data", "x.csv"],
        ["report", "missing"],
        ["compare", "missing", "gone"],
        ["data", "check", "missing.csv"],
        ["models", "pull", "nothing"],
        ["nonsense"],
    ],
)
def test_axolotl_325_an_error_is_a_sentence_with_a_fix_not_a_wall_of_traceback(sapwood, arguments):
    """`AssertionError`, `KeyError: 'messages'`: forty lines, and nothing to do about it."""
    ran = sapwood(*arguments)
    assert ran.code in (2, 3, 4, 5)
    assert "Traceback" not in ran.err and ran.err.startswith("E-")
    assert "Fix: " in ran.err and len(ran.err.splitlines()) <= 8


def test_ludwig_3791_no_ending_is_without_a_message(sapwood, monkeypatch, tmp_path):
    """Crash with no message at all ("exit code -1073741819")."""

    def fail(*given, **more):
        raise ZeroDivisionError

    monkeypatch.setattr("sapwood.commands.predict.open_adaptation", fail)
    ran = sapwood("predict", tmp_path, "text")
    assert ran.code == 1 and "E-INTERNAL-001" in ran.err and "ZeroDivisionError" in ran.err
    Path(ran.err.split("with ", 1)[1].split(";")[0]).unlink()


def test_lf_6051_training_and_predicting_work_on_a_cpu(small_run):
    """ "How to train on CPU?" - "Not supported." """
    report = json.loads((small_run.out / "report.json").read_text())
    assert report["environment"]["device"] == "cpu"
    tuned = {c["name"]: c["status"] for c in report["candidates"] if c["parts"]["method"]}
    assert tuned == {"lora": "finished", "lora+context": "finished"}


def test_lf_1463_classification_is_asked_for_and_given(small_run):
    """Classification asked of language model tools: "no", wontfix, "replace the head manually"."""
    report = json.loads((small_run.out / "report.json").read_text())
    assert report["task"] == "classification"
    assert {"confusion", "per_class", "calibration"} <= set(report)


def test_dspy_8743_and_7967_every_answer_comes_with_probabilities_of_all_labels(sapwood, small_run):
    """The probability of a given answer; a confidence for classification."""
    folder = small_run.out / "run" / "candidates" / "few-shot-4" / "adaptation"
    ran = sapwood("predict", folder, "great film", "--json", "--dtype", "float32")
    line = json.loads(ran.out)
    assert set(line["probabilities"]) == {"negative", "positive"}
    assert sum(line["probabilities"].values()) == pytest.approx(1)


def test_dspy_1089_a_prompt_that_chooses_demonstrations_for_each_query_can_be_saved(
    sapwood, small_run
):
    """Save a compiled kNN few-shot program: "pretty fundamental... not trivial"."""
    folder = small_run.out / "run" / "candidates" / "few-shot-8-bm25" / "adaptation"
    context = json.loads((folder / "context.json").read_text())
    assert context["sharing"] == "query" and len(context["demonstrations"]) > context["shots"]
    assert sapwood("predict", folder, "great film", "--dtype", "float32").code == 0


def test_dspy_9200_what_every_candidate_cost_stands_beside_how_good_it_is(small_run):
    """Cost tracking and budget-aware optimisation."""
    report = json.loads((small_run.out / "report.json").read_text())
    for candidate in report["candidates"]:
        assert candidate["cost"]["ms_per_query"] > 0 and candidate["dev"]
    assert report["budget"]["spent"] <= report["budget"]["seconds"]


def test_peft_2275_an_adaptation_of_a_newer_version_is_named_not_crashed_on(
    sapwood, small_run, tmp_path
):
    """Config forward-incompatibility: `unexpected keyword 'eva_config'`."""
    folder = tmp_path / "made"
    shutil.copytree(small_run.out / "adaptation", folder)
    content = json.loads((folder / "adaptation.json").read_text())
    content |= {"schema": "sapwood.adaptation/2", "surprise": 1}
    (folder / "adaptation.json").write_text(json.dumps(content))
    ran = sapwood("predict", folder, "text")
    assert ran.code == 5 and "install the version of Sapwood that wrote it" in ran.err
