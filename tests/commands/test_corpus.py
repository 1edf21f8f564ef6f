"""`sapwood corpus`: what people see, what programs read, what the shell gets."""

import json
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from sapwood.commands.corpus import command
from sapwood.errors import ConfigError, DataError

SENTENCES = (
    "The {a} had crossed the {b} before {n}.",
    "Nobody in that {b} would have believed the {a} of number {n}, and yet it was true.",
    "When {n} people came to the {a}, they were surprised that a {b} is so large.",
)
THINGS = (
    "river",
    "garden",
    "letter",
    "window",
    "carriage",
    "kitchen",
    "village",
    "teacher",
    "bridge",
    "winter",
    "harbour",
)


def text_of(seed: int) -> str:
    said = []
    for n in range(12):
        words = {"a": THINGS[(seed * 7 + n) % 11], "b": THINGS[(seed * 3 + 5 * n + 1) % 11]}
        said.append(SENTENCES[(seed + n) % 3].format(n=(seed * 997 + n * 131) % 10_000, **words))
    return " ".join(said)


@pytest.fixture
def run():
    def runner(*arguments: object):
        return CliRunner().invoke(command, [str(a) for a in arguments])

    return runner


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = [
        *(text_of(n) for n in range(40)),
        text_of(0),
        "short",
        "第一次我们去北京，天气很好，他在河边读书。",
    ]
    path.write_text("\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts), "utf-8")
    return path


SMALL = ("--vocabulary", 700, "--sentinels", 4, "--workers", 1)


def test_build_says_what_became_of_the_sources(run, rows, tmp_path):
    out = tmp_path / "corpus"
    result = run("build", rows, "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "documents  41 of 43 records"
    assert lines[1] == "dropped    1 exact duplicate, 1 too short"
    assert lines[2].startswith("text       ") and lines[2].endswith(" kB, en 100%, zh <1%")
    assert [line.split()[0] for line in lines] == [
        "documents",
        "dropped",
        "text",
        "train",
        "held",
        "tokenizer",
    ]
    for step in ("clean", "duplicates", "documents", "tokenizer", "tokens"):
        assert f"\n{step} " in "\n" + result.stderr
    assert f"Next: sapwood pretrain {out}" in result.stderr
    again = run("build", rows, "--out", out, *SMALL)
    assert again.exit_code == 0 and "finished already" in again.stderr
    assert again.stdout == result.stdout


def test_build_json_is_the_card(run, rows, tmp_path):
    out = tmp_path / "corpus"
    result = run(
        "build", rows, "--out", out, *SMALL, "--json", "--held", "10%", "--licence", "rows=CC0"
    )
    card = json.loads(result.stdout)
    assert card == json.loads((out / "corpus.json").read_text())
    assert card["sources"][0]["licence"] == "CC0"
    assert card["job"]["settings"]["held"] == 0.1
    assert result.stderr == ""


def test_show_prints_the_card_and_documents_in_80_columns(run, rows, tmp_path):
    out = tmp_path / "corpus"
    run("build", rows, "--out", out, *SMALL)
    result = run("show", out, "-n", 2)
    assert result.exit_code == 0
    assert max(map(cell_len, result.stdout.splitlines())) <= 80
    assert "# Corpus card" in result.stdout and "## Dropped" in result.stdout
    assert "Dropped: too short (`rows#42`)" in result.stdout
    assert "train document 0: " in result.stdout and "held document 0: " in result.stdout
    shown = result.stdout.split("train document 0: ")[1].split("\n")
    assert "sentences" in shown[0] and "|" in "".join(shown[1:])
    assert shown[1].replace("|", "").replace(" ", "") in text_of(0).replace(" ", "")
    assert json.loads(run("show", out, "--json").stdout)["schema"] == 1
    assert "document 0" not in run("show", out, "-n", 0).stdout


def test_held_out_by_name_leaves_the_share_at_nothing(run, rows, tmp_path):
    out = tmp_path / "corpus"
    result = run("build", rows, "-o", out, *SMALL, "--held-documents", "rows#3", "--json")
    assert json.loads(result.stdout)["counts"]["held"]["documents"] == 1


def test_ranks_and_a_last_run(run, rows, tmp_path):
    out = tmp_path / "corpus"
    for rank in (0, 1):
        result = run("build", rows, "-o", out, *SMALL, "--rank", rank, "--world", 2)
        assert result.stdout == f"1 pieces, those of rank {rank} of 2 are clean\n"
        assert "without --rank and --world" in result.stderr
    assert run("build", rows, "-o", out, *SMALL).stdout.startswith("documents  41 of 43 records")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--rank", 1), "E-CONFIG-238"),
        (("--rank", 2, "--world", 2), "E-CONFIG-238"),
        (("--held", "much"), "E-CONFIG-239"),
        (("--licence", "CC0"), "E-CONFIG-239"),
        (("--languages", "english"), "E-CONFIG-234"),
        (("--vocabulary", 50), "E-CONFIG-234"),
    ],
)
def test_settings_that_do_not_fit(run, rows, tmp_path, arguments, code):
    result = run("build", rows, "-o", tmp_path / "x", *arguments)
    assert isinstance(result.exception, ConfigError)
    assert result.exception.code == code
    assert not (tmp_path / "x").exists()


def test_bad_sources_are_told_before_anything_is_written(run, tmp_path):
    result = run("build", tmp_path / "none.txt", "-o", tmp_path / "x")
    assert isinstance(result.exception, DataError)
    assert result.exception.exit_code == 3
    assert not (tmp_path / "x").exists()


def test_samples_are_listed(run):
    lines = run("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "austen",
        "enwiki-excerpt",
        "debian-handbook",
        "tang-poems",
    ]
    assert max(map(len, lines)) <= 80
    row = json.loads(run("list", "--json").stdout.splitlines()[0])
    assert row["licence"].startswith("public domain") and row["here"] is False
    assert isinstance(run("pull", "austin").exception, ConfigError)


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_a_rerun_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": text_of(n) * 2}) for n in range(6_000)))
    out = tmp_path / "corpus"
    call = [
        sys.executable,
        "-m",
        "sapwood",
        "corpus",
        "build",
        str(path),
        "-o",
        str(out),
        "--workers",
        "2",
    ]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(out.glob(".build/clean/*.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    done = len(list(out.glob(".build/clean/*.json")))
    assert done >= 1 and not (out / "corpus.json").exists()
    finished = subprocess.run(call, capture_output=True, text=True, timeout=300, check=True)
    assert "from before" in finished.stderr
