"""`sapwood render-config`: a valid settings file that says where each value comes from."""

import json
import tomllib

import pytest

from sapwood.commands.settings import entries, read_file


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_settings_with_their_origins(sapwood, here):
    (here / "sapwood.toml").write_text(
        '[data]\ntrain = "a.csv"\n[tune]\nlr = 1e-4\nrank = 4\n[prompt]\nshots = [4, 16]\n'
    )
    ran = sapwood("render-config", "--set", "tune.rank=8", "--lang", "en")
    assert ran.code == 0
    assert ran.err == (
        "Settings from sapwood.toml\nsapwood.toml: tune.lr is read as tune.learning_rate\n"
    )
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    for line in (
        'train = "a.csv" # sapwood.toml',
        "learning_rate = 0.0001 # sapwood.toml",
        "rank = 8 # command line",
        "shots = [4, 16] # sapwood.toml",
        'model = "smollm2-135m" # default',
        "checkpointing = false # default",
        "# dev: from train (default)",
    ):
        assert line in lines
    assert sum(line.lstrip("# ").split(" ")[0].rstrip(":") in {s.key for s in entries().values()}
               for line in lines) >= len(entries())  # fmt: skip
    assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_what_it_prints_is_read_again_to_the_same(sapwood, here, lang):
    settings = ('prompt.instruction=Say "yes"\tor \\ no', "tune.epochs=0.5", "run.max_bytes=9",
                "prompt.bias=[\"labels\", \"none\"]", "answer.stop=[\"\\n\", \"end\"]")  # fmt: skip
    given = [part for one in settings for part in ("--set", one)]
    first = sapwood("render-config", "--lang", lang, *given)
    (here / "again.toml").write_text(first.out, encoding="utf-8")
    values, notes = read_file(here / "again.toml")
    assert notes == [] and values["prompt.instruction"] == 'Say "yes"\tor \\ no'
    assert values["answer.stop"] == ["\n", "end"]
    again = sapwood("render-config", "--lang", lang, "--config", "again.toml")
    assert tomllib.loads(again.out) == tomllib.loads(first.out)


def test_one_command_with_its_own_arguments(sapwood, here):
    ran = sapwood("render-config", "--json", "tune", "a.csv", "--rank", "4", "-m", "minilm-l6",
                  "--checkpointing", "--set", "run.seed=2")  # fmt: skip
    found = json.loads(ran.out)
    said = {(s, k): row["value"] for s, keys in found.items() for k, row in keys.items()
            if row["from"] == "command line"}  # fmt: skip
    assert said == {
        ("data", "train"): "a.csv", ("model", "model"): "minilm-l6", ("run", "seed"): 2,
        ("tune", "rank"): 4, ("tune", "checkpointing"): True,
    }  # fmt: skip
    assert found["tune"]["method"] == {"value": "lora", "from": "default"}
    assert "shots" not in found["prompt"] and "answer" not in found
    inner = json.loads(sapwood("render-config", "--json", "data", "show").out)
    assert set(inner["data"]) == {"train", "task", "text", "label"}


def test_mistakes_in_what_is_asked(sapwood, here):
    ran = sapwood("render-config", "tnue")
    assert ran.code == 2
    assert ran.err.startswith("E-CONFIG-186  No such command 'tnue'. Did you mean 'tune'?\n")
    ran = sapwood("render-config", "data")
    assert "E-CONFIG-186  'data' has commands.\n  Fix: name one: data check, data show" in ran.err
    ran = sapwood("render-config", "tune", "--nothing", "1")
    assert ran.err == (
        "E-CONFIG-187  sapwood tune does not take: --nothing 1\n  Fix: see sapwood tune --help\n"
    )
    ran = sapwood("render-config", "tune", "--rank", "x")
    assert ran.code == 2 and "'x' is not a valid integer" in ran.err
