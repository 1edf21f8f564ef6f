"""What people really type and hand over: each mistake gets a code, a reason and a way out.

Every case goes through the real command line. Whatever the mistake: the documented exit code, a
stable code, the words that name the thing, a fix, no traceback, and nothing that existed is harmed.
"""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

CONFIG, DATA, RESOURCE, MODEL = 2, 3, 4, 5
LORA = Path("run/candidates/lora/adaptation")


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of every file below a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def assert_told(ran, exit_code: int, code: str, *words: str, fix: bool = True) -> None:
    """Assert that a command ended with one useful message."""
    assert "Traceback" not in ran.err + ran.out, ran.err
    assert ran.code == exit_code, ran.err
    (line,) = [line for line in ran.err.splitlines() if line.startswith("E-")]
    assert line.startswith(code + "  "), ran.err
    for word in words:
        assert word in ran.err, ran.err
    assert not fix or "\n  Fix: " in ran.err, ran.err


@pytest.fixture
def place(tmp_path):
    """A folder with something precious in it, checked at the end."""
    precious = tmp_path / "out" / "notes.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    yield tmp_path
    assert precious.read_text() == "mine"


@pytest.fixture
def adapt(sapwood, small_base, place):
    """Runner of `adapt` on the tiny base into place/out."""

    def run(data, *more, model=small_base, out=None):
        return sapwood(
            "adapt", data, "--model", model, "--encoder", "none", "--budget", "60s", "--device",
            "cpu", "--dtype", "float32", "--epochs", "1", "--out", out or place / "out", *more,
        )  # fmt: skip

    return run


# What is in the file, what it is called, and what must be said.
FILES = {
    "empty file": ("d.csv", b"", "E-DATA-", ["d.csv", "empty"]),
    "header only": ("d.csv", b"text,label\n", "E-DATA-", ["d.csv"]),
    "one class": ("d.csv", b"text,label\n" + b"".join(b"row %d,a\n" % n for n in range(40)),
                  "E-DATA-", ["'a'"]),
    "no usable row": ("d.csv", b"text,label\n" + b",a\n,b\n" * 20, "E-DATA-",
                      ["none of 40 rows", "'text' empty"]),
    "binary file": ("d.csv", bytes(range(256)) * 40, "E-DATA-", ["d.csv"]),
    "unknown columns": ("d.csv", b"foo,bar\nx,y\nz,w\n", "E-DATA-", ["'foo', 'bar'", "--text"]),
    "broken JSON": ("d.jsonl", b'{"text": "a", "label": "b"}\n{"text": "a", \n', "E-DATA-",
                    ["d.jsonl", "2"]),
    "a JSON number": ("d.json", b"7", "E-DATA-", ["d.json"]),
    "a type nobody reads": ("d.docx", b"PK\x03\x04", "E-DATA-", ["docx"]),
    "two rows": ("d.csv", b"text,label\none thing,a\nother thing,b\n", "E-DATA-", []),
    "a number a label": ("d.csv",
                         b"text,label\n" + b"".join(b"row %d x,%d\n" % (n, n) for n in range(60)),
                         "E-DATA-", []),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_files_that_cannot_be_used(adapt, place, case):
    name, content, code, words = FILES[case]
    (place / name).write_bytes(content)
    ran = adapt(place / name)
    line = next(line for line in ran.err.splitlines() if line.startswith("E-"))
    assert line.startswith(code)
    assert_told(ran, DATA, line.split()[0], *words)
    assert not (place / "out" / "report.json").exists()


def test_a_missing_file(adapt, place):
    assert_told(adapt(place / "nowhere.csv"), DATA, "E-DATA-001", "nowhere.csv")


def test_a_file_with_a_slip_in_its_name(adapt, place, write_rows):
    write_rows(place / "reviews.csv")
    ran = adapt(place / "review.csv")
    assert ran.code == DATA and "reviews.csv" in ran.err


def test_a_folder_without_training_rows(adapt, place):
    (place / "folder").mkdir()
    (place / "folder" / "README.md").write_text("nothing here")
    ran = adapt(place / "folder")
    assert ran.code == DATA and "folder" in ran.err and "Fix: " in ran.err


@pytest.mark.parametrize(
    "flag, value, near", [("--label", "lable", "label"), ("--text", "texts", "text")]
)
def test_a_column_with_a_slip_in_its_name(adapt, place, write_rows, flag, value, near):
    ran = adapt(write_rows(place / "d.csv"), flag, value)
    assert ran.code == DATA and "E-DATA-" in ran.err
    assert f"'{value}'" in ran.err and near in ran.err


# The rest of the command line after DATA, and what must be said.
SETTINGS = {
    "unknown option": (["--budgte", "5m"], "E-CONFIG-002", ["--budgte", "--budget"]),
    "unknown task": (["--task", "clasification"], "E-CONFIG-001", ["clasification", "Did you"]),
    "budget in words": (["--budget", "ten"], "E-CONFIG-051", ["'ten'", "90s, 10m or 1h"]),
    "budget of nothing": (["--budget", "0s"], "E-CONFIG-051", ["'0s'"]),
    "negative budget": (["--budget", "-5m"], "E-CONFIG-051", ["'-5m'"]),
    "negative rank": (["--rank", "-1"], "E-CONFIG-002", ["--rank", "-1"]),
    "rank in words": (["--rank", "eight"], "E-CONFIG-002", ["--rank", "eight"]),
    "no epochs": (["--epochs", "0"], "E-CONFIG-002", ["--epochs"]),
    "epochs not a number": (["--epochs", "nan"], "E-CONFIG-057", ["--epochs", "nan"]),
    "endless rate": (["--learning-rate", "inf"], "E-CONFIG-057", ["--learning-rate"]),
    "negative seed": (["--seed", "-1"], "E-CONFIG-002", ["--seed"]),
    "unknown scope": (["--scope", "everything"], "E-CONFIG-002", ["everything", "suffix"]),
    "unknown dtype": (["--dtype", "float12"], "E-CONFIG-010", ["float12", "bfloat16"]),
    "unknown device": (["--device", "gpu9"], "E-CONFIG-011", ["gpu9"]),
    "option without a value": (["--budget"], "E-CONFIG-002", ["--budget"]),
    "a word too many": (["surplus"], "E-CONFIG-002", ["surplus"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_make_no_sense(adapt, place, write_rows, case):
    arguments, code, words = SETTINGS[case]
    ran = adapt(write_rows(place / "d.csv"), *arguments)
    assert_told(ran, CONFIG, code, *words)
    assert not (place / "out" / "run").exists()


def test_a_device_that_is_not_there(adapt, place, write_rows):
    ran = adapt(write_rows(place / "d.csv"), "--device", "cuda:7")
    assert_told(ran, RESOURCE, "E-RESOURCE-012", "cuda:7", "--device cpu")


@pytest.mark.parametrize(
    "words, told",
    [
        (["adpat", "d.csv"], ["E-CONFIG-002", "'adpat'", "Did you mean 'adapt'?"]),
        (["adapt"], ["E-CONFIG-002", "DATA", "see sapwood adapt --help"]),
        (["tune", "d.csv", "--method", "loar"], ["E-CONFIG-001", "'loar'", "Did you mean 'lora'?"]),
        (["predict", "."], ["E-CONFIG-056", "--data FILE"]),
        (["eval", "."], ["E-CONFIG-002", "--data"]),
    ],
)
def test_commands_that_are_not_quite_right(sapwood, words, told):
    assert_told(sapwood(*words), CONFIG, *told)


def test_errors_are_json_too_where_json_was_asked_for(adapt, place):
    ran = adapt(place / "nowhere.csv", "--json")
    content = json.loads(ran.out)
    assert content["error"].startswith("E-DATA-") and content["fix"]
    assert ran.code == DATA


# --- bases ---------------------------------------------------------------------------------------


def remove(name):
    return lambda folder: (folder / name).unlink()


def overwrite(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def remote_code(folder):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content |= {"model_type": "mystery", "auto_map": {"AutoModelForCausalLM": "mystery.Net"}}
    path.write_text(json.dumps(content))
    (folder / "mystery.py").write_text("raise SystemExit('this ran')")


def one_tensor_less(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


BASES = {
    "garbage weights": (overwrite("model.safetensors", b"garbage" * 99), "E-MODEL-005", []),
    "truncated weights": (truncate, "E-MODEL-005", []),
    "a tensor missing": (one_tensor_less, "E-MODEL-008", ["layers.1.mlp.up_proj"]),
    "no config": (remove("config.json"), "E-MODEL-003", ["config.json"]),
    "garbage config": (overwrite("config.json", b"{"), "E-MODEL-003", ["config.json"]),
    "no tokenizer": (without_tokenizer, "E-MODEL-006", ["tokenizer"]),
    "pickle only": (pickle_only, "E-MODEL-004", ["pytorch_model.bin", "safetensors"]),
    "no weights": (remove("model.safetensors"), "E-MODEL-004", ["safetensors"]),
    "remote code": (remote_code, "E-MODEL-007", ["--trust-remote-code"]),
}


@pytest.mark.parametrize("case", BASES)
def test_checkpoints_that_cannot_be_used(adapt, place, write_rows, small_base, case):
    harm, code, words = BASES[case]
    model = place / "base"
    shutil.copytree(small_base, model)
    harm(model)
    assert_told(adapt(write_rows(place / "d.csv"), model=model), MODEL, code, "base", *words)


@pytest.mark.parametrize(
    "model, words",
    [
        ("smollm-135m", ["'smollm-135m'", "Did you mean 'smollm2-135m'?"]),
        ("./nowhere", ["nowhere"]),
        ("nowhere.gguf", ["nowhere.gguf"]),
    ],
)
def test_bases_nobody_knows(adapt, place, write_rows, model, words):
    assert_told(adapt(write_rows(place / "d.csv"), model=model), MODEL, "E-MODEL-001", *words)


def test_a_gguf_of_garbage(adapt, place, write_rows):
    (place / "g.gguf").write_bytes(b"GGUF" + bytes(range(200)))
    ran = adapt(write_rows(place / "d.csv"), model=place / "g.gguf")
    assert ran.code == MODEL and "E-MODEL-" in ran.err and "Traceback" not in ran.err


def test_a_hub_id_without_a_network(adapt, place, write_rows):
    ran = adapt(write_rows(place / "d.csv"), model="someone/something")
    assert_told(ran, RESOURCE, "E-RESOURCE-013", "HF_HUB_OFFLINE is set", "local folder")


def test_an_encoder_is_no_decoder(sapwood, place, write_rows, tiny_checkpoint):
    bert = tiny_checkpoint("bert")
    ran = sapwood("prompt", write_rows(place / "d.csv"), "--model", bert, "--encoder", "none")
    assert_told(ran, MODEL, "E-MODEL-052", "cannot be prompted: no zero-shot", "--encoder")


# --- adaptations ---------------------------------------------------------------------------------


@pytest.fixture
def made(small_run, tmp_path):
    """A copy of a LoRA adaptation to be harmed."""
    folder = tmp_path / "made"
    shutil.copytree(small_run.out / LORA, folder)
    return folder


def changed(folder: Path, change) -> None:
    """Apply `change` to adaptation.json."""
    path = folder / "adaptation.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def signed(folder: Path, name: str) -> None:
    """Record the hash of a changed file, as someone would who meant it."""
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    changed(folder, lambda content: content["files"].update({name: digest}))


def nan_weights(folder):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[:] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})
    signed(folder, path.name)


def lost_tensor(folder):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(min(tensors))
    save_file(tensors, path, metadata={"format": "pt"})
    signed(folder, path.name)


def moved_weights(folder):
    path = folder / "adapter_model.safetensors"
    tensors = {name: array + 0.5 for name, array in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    signed(folder, path.name)


def other_base(folder):
    changed(folder, lambda content: content["base"].update(sha256="0" * 64))


def moved_base(folder):
    changed(folder, lambda content: content["base"].update(name="/nowhere/base"))


def wrong_schema(folder):
    changed(folder, lambda content: content.update(schema="sapwood.adaptation/99"))


def no_labels(folder):
    changed(folder, lambda content: content.pop("labels"))


def short_golden(folder):
    changed(folder, lambda content: content["golden"]["probabilities"][0].pop())


def flipped_golden(folder):
    def flip(content):
        rows = content["golden"]["probabilities"]
        content["golden"]["probabilities"] = [[1 - v for v in row] for row in rows]

    changed(folder, flip)


def nan_golden(folder):
    def break_it(content):
        content["golden"]["probabilities"][0][0] = float("nan")

    changed(folder, break_it)


def odd_parts(folder):
    changed(folder, lambda content: content.update(base="a string", files=[]))


ADAPTATIONS = {
    "not JSON": (overwrite("adaptation.json", b"{nonsense"), "E-MODEL-041", ["not valid JSON"]),
    "binary": (overwrite("adaptation.json", bytes(range(256))), "E-MODEL-041", []),
    "a list": (overwrite("adaptation.json", b"[]"), "E-MODEL-042", ["schema"]),
    "missing": (remove("adaptation.json"), "E-MODEL-040", ["sapwood adapt"]),
    "another schema": (wrong_schema, "E-MODEL-042", ["sapwood.adaptation/99"]),
    "a part changed": (overwrite("readout.json", b"{}"), "E-MODEL-043", ["readout.json"]),
    "a part missing": (remove("context.json"), "E-MODEL-043", ["context.json is missing"]),
    "weights truncated": (overwrite("adapter_model.safetensors", b"\x08"), "E-MODEL-043",
                          ["adapter_model.safetensors"]),
    "no labels": (no_labels, "E-MODEL-044", ["labels"]),
    "odd parts": (odd_parts, "E-MODEL-044", []),
    "golden probe too short": (short_golden, "E-MODEL-044", ["golden"]),
    "NaN in the weights": (nan_weights, "E-MODEL-026", ["not finite"]),
    "a tensor missing": (lost_tensor, "E-MODEL-023", ["do not map"]),
    "other weights": (moved_weights, "E-MODEL-051", ["golden probe"]),
    "other answers": (flipped_golden, "E-MODEL-051", ["golden probe"]),
    "NaN answers": (nan_golden, "E-MODEL-051", ["golden probe"]),
    "another base": (other_base, "E-MODEL-050", ["expected weights 0000"]),
    "a base that moved": (moved_base, "E-MODEL-001", ["/nowhere/base"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ADAPTATIONS)
def test_adaptations_that_cannot_be_used(sapwood, made, case):
    harm, code, words = ADAPTATIONS[case]
    harm(made)
    before = contents(made)
    ran = sapwood("predict", made, "a great film", "--device", "cpu", "--dtype", "float32")
    assert_told(ran, MODEL, code, *words, fix=code != "E-MODEL-026")
    assert ran.out == ""
    assert contents(made) == before


def test_an_adaptation_that_is_not_there(sapwood, tmp_path):
    ran = sapwood("predict", tmp_path / "nowhere", "text")
    assert_told(ran, MODEL, "E-MODEL-040", "nowhere")
    ran = sapwood("eval", tmp_path / "nowhere", "--data", tmp_path / "none.csv")
    assert ran.code in (DATA, MODEL) and "Traceback" not in ran.err


def test_a_good_adaptation_still_works(sapwood, made):
    ran = sapwood("predict", made, "a great film", "--device", "cpu", "--dtype", "float32")
    assert ran.code == 0 and ran.out.split("\t")[0] in ("negative", "positive")


# --- where to write ------------------------------------------------------------------------------


def test_out_is_a_file(adapt, place, write_rows):
    (place / "taken").write_text("mine")
    ran = adapt(write_rows(place / "d.csv"), out=place / "taken")
    assert_told(ran, RESOURCE, "E-RESOURCE-003", "taken", "--out")
    assert (place / "taken").read_text() == "mine"


def test_out_is_below_a_file(adapt, place, write_rows):
    (place / "taken").write_text("mine")
    ran = adapt(write_rows(place / "d.csv"), out=place / "taken" / "deep")
    assert_told(ran, RESOURCE, "E-RESOURCE-003", "taken", "--out")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody may write")
def test_out_where_nothing_can_be_made(adapt, place, write_rows):
    ran = adapt(write_rows(place / "d.csv"), out="/proc/sapwood")
    assert ran.code == RESOURCE and "E-RESOURCE-" in ran.err and "/proc/sapwood" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_out_may_not_be_written(adapt, place, write_rows, monkeypatch, number):
    real = Path.touch

    def touch(self, *given, **more):
        if self.name == ".writable":
            raise OSError(number, os.strerror(number), str(self))
        real(self, *given, **more)

    monkeypatch.setattr(Path, "touch", touch)
    ran = adapt(write_rows(place / "d.csv"))
    assert_told(ran, RESOURCE, "E-RESOURCE-002", "may not be written", "--out")


def test_out_holds_another_run(adapt, small_run, place, write_rows):
    out = place / "other"
    shutil.copytree(small_run.out, out)
    before = contents(out)
    ran = adapt(
        write_rows(place / "d.csv", [(f"row {n}", "ab"[n % 2]) for n in range(60)]), out=out
    )
    assert_told(ran, CONFIG, "E-CONFIG-053", "other data", "--fresh")
    assert contents(out) == before


def test_out_holds_folders_that_are_not_ours(adapt, place, write_rows):
    for name in ("adaptation", "run"):
        (place / "theirs" / name).mkdir(parents=True)
        (place / "theirs" / name / "thesis.txt").write_text("years of work")
    before = contents(place / "theirs")
    for more in ([], ["--fresh"]):
        ran = adapt(write_rows(place / "d.csv"), *more, out=place / "theirs")
        assert_told(ran, CONFIG, "E-CONFIG-058", "not made by Sapwood")
    assert contents(place / "theirs") == before


def test_fresh_forgets_nothing_when_the_new_run_cannot_begin(adapt, small_run, place):
    out = place / "old"
    shutil.copytree(small_run.out, out)
    before = contents(out)
    ran = adapt(place / "nowhere.csv", "--fresh", out=out)
    assert ran.code == DATA
    assert contents(out) == before


@pytest.mark.parametrize("after", [0, 4])
def test_a_full_disk_is_said_and_the_same_command_goes_on(
    adapt, place, write_rows, monkeypatch, after
):
    data, real, calls = write_rows(place / "d.csv"), os.fsync, [0]

    def fsync(handle):
        calls[0] += 1
        if calls[0] > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    ran = adapt(data)
    assert_told(ran, RESOURCE, "E-RESOURCE-001", "disk is full", "run the same command again")
    assert not list((place / "out").rglob(".*.part"))
    monkeypatch.setattr(os, "fsync", real)
    assert adapt(data).code == 0


def test_a_disk_that_fails_in_a_way_nobody_listed(adapt, place, write_rows, monkeypatch):
    def fsync(handle):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    ran = adapt(write_rows(place / "d.csv"))
    assert_told(ran, RESOURCE, "E-RESOURCE-004", "Input/output error")


# --- runs that end without an answer, and rows that are too much ---------------------------------


def test_no_candidate_finishes(adapt, place, write_rows):
    ran = adapt(write_rows(place / "d.csv"), "--max-bytes", "1")
    assert_told(ran, RESOURCE, "E-RESOURCE-014", "No candidate finished", "--max-bytes 1")
    assert not (place / "out" / "adaptation").exists()
    report = json.loads((place / "out" / "report.json").read_text())
    assert report["recommended"] is None


def test_texts_longer_than_the_base_reads(adapt, place, write_rows, monkeypatch):
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    rows = [(f"{'good' if n % 2 else 'bad'} {n} " + "word " * 1100, "ab"[n % 2]) for n in range(12)]
    data = write_rows(place / "d.csv", rows)
    ran = adapt(data, "--max-length", "20000")
    assert "Traceback" not in ran.err and ran.code in (0, RESOURCE), ran.err
    said = " ".join(ran.err.split())
    assert "tokens, not 20,000: with its prompt the base reads at most 4,096" in said
    report = json.loads((place / "out" / "report.json").read_text())
    told = {c["name"]: c["why"] for c in report["candidates"]}
    assert not told["zero-shot"] and "reads at most 4,096" in told["few-shot-4"]


def test_two_labels_with_the_same_words(adapt, place, write_rows, monkeypatch):
    """Labels that differ by case or spaces only would be one answer of the model."""
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    rows = [(f"row {n} of it {n * 7}", ("Good", "good", "bad")[n % 3]) for n in range(90)]
    ran = adapt(write_rows(place / "d.csv", rows))
    assert "Traceback" not in ran.err
    assert ran.code in (0, DATA), ran.err


# --- what nobody foresaw -------------------------------------------------------------------------


def test_a_mistake_of_ours_is_no_wall_of_text(adapt, place, write_rows, monkeypatch):
    def broken(*given, **more):
        raise AttributeError("nobody thought of this")

    monkeypatch.setattr("sapwood.search.adapt.read_material", broken)
    ran = adapt(write_rows(place / "d.csv"))
    assert_told(ran, 1, "E-INTERNAL-001", "AttributeError: nobody thought of this", "report it")
    kept = Path(ran.err.split("with ", 1)[1].split(";")[0])
    assert "Traceback" in kept.read_text()
    kept.unlink()


@pytest.mark.parametrize(
    "arguments, code, told",
    [
        (["adpat"], 2, "Did you mean 'adapt'?"),
        (["adapt", "nowhere.csv"], 3, "E-DATA-"),
    ],
)
def test_from_outside_it_is_the_same(tmp_path, arguments, code, told):
    ran = subprocess.run(
        [sys.executable, "-m", "sapwood", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (code, "")
    assert told in ran.stderr and "Fix: " in ran.stderr and "Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())
