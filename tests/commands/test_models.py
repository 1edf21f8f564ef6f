"""`sapwood models`: what is listed, pulled and shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner

from sapwood.commands.models import command
from sapwood.errors import ConfigError, ModelError
from sapwood.models.store import BASES

Checkpoints = Callable[[str], Path]


@pytest.fixture
def empty_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder with nothing in it."""
    monkeypatch.setenv("SAPWOOD_HOME", str(tmp_path))
    return tmp_path


def test_list_shows_every_base_and_says_none_is_here(empty_home: Path) -> None:
    done = CliRunner().invoke(command, ["list"], catch_exceptions=False)
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["name", "kind", "parameters", "languages", "licence", "here"]
    assert [row.split()[0] for row in rows] == list(BASES)
    assert all(row.endswith("  no") for row in rows)
    assert "sapwood models pull NAME" in done.stderr


def test_list_as_json_is_one_object_a_line(empty_home: Path) -> None:
    done = CliRunner().invoke(command, ["list", "--json"], catch_exceptions=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == list(BASES)
    assert rows[0]["parameters"] == 134_515_008
    assert {row["pulled"] for row in rows} == {False}


def test_pull_wants_names_or_all() -> None:
    for arguments in ([], ["smollm2-135m", "--all"]):
        with pytest.raises(ConfigError, match="Name the bases to pull, or pass --all"):
            CliRunner().invoke(command, ["pull", *arguments], catch_exceptions=False)


def test_pull_checks_every_name_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapwood.models.store.pull", lambda _: pytest.fail("began to pull"))
    with pytest.raises(ModelError, match="Did you mean 'minilm-l6'"):
        CliRunner().invoke(command, ["pull", "smollm2-135m", "minilm"], catch_exceptions=False)


def test_pull_all_names_each_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sapwood.models.store.BASES", MappingProxyType(dict(BASES)))
    monkeypatch.setattr("sapwood.models.store.pull", lambda name: tmp_path / name)
    done = CliRunner().invoke(command, ["pull", "--all"], catch_exceptions=False)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(BASES)
    done = CliRunner().invoke(command, ["pull", "minilm-l6", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "minilm-l6")


def test_show_states_size_hash_and_config(tiny_checkpoint: Checkpoints) -> None:
    folder = tiny_checkpoint("llama")
    done = CliRunner().invoke(command, ["show", str(folder), "--json"], catch_exceptions=False)
    facts = json.loads(done.stdout)
    assert facts["kind"] == "decoder"
    assert facts["memory_bytes"]["float32"] == 4 * facts["parameters"]
    assert facts["stored_as"] == ["F32"]
    assert len(facts["sha256"]) == 64
    assert facts["config"]["vocab_size"] == 300
    words = CliRunner().invoke(command, ["show", str(folder)], catch_exceptions=False).stdout
    assert "licence     not stated" in words
    assert f"sha256      {facts['sha256']}" in words
