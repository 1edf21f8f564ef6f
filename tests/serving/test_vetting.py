"""A corpus of hostile adaptations, refused one by one while good traffic goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors import SafetensorError
from safetensors.numpy import load, save
from tests.serving.conftest import ADMIN_KEY, KEY
from tests.serving.hostile import CONFIG, SOUND, TENSORS, packed, tensors, write_corpus

from sapwood.errors import ConfigError, ModelError
from sapwood.serving.registry import Registry
from sapwood.serving.vetting import Bounds, vet


def test_what_sapwood_and_peft_write_passes(tmp_path: Path, adaptation: Any) -> None:
    folder = adaptation(tmp_path / "whole")
    vet(folder)
    (folder / "prefix").mkdir()
    for name in ("method.json", "method.safetensors"):
        (folder / "prefix" / name).write_bytes(b"{}" if name.endswith("json") else tensors())
    # evidence is shown, not computed with: scores that could not be measured are NaN there
    (folder / "adaptation.json").write_text('{"evidence": {"score": NaN}, "base": {}}')
    (folder / "facts.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    for name in ("context.json", "readout.json", "facts.json", "report.json"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("[[[[")
    (folder / "readout.safetensors").write_bytes(
        save({"w": np.ones((3, 0)), "i": np.arange(4), "h": np.ones(2, dtype=np.float16)})
    )
    vet(folder)


def test_there_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("nothing", "file"):
        with pytest.raises(ModelError) as caught:
            vet(tmp_path / name)
        assert str(caught.value) == f"E-MODEL-200  There is no adaptation in '{name}'."


def test_hostile_adaptations_are_refused_one_by_one_while_good_traffic_goes_on(
    tmp_path: Path, adaptation: Any, serve: Callable[..., Any]
) -> None:
    root = tmp_path / "registry"
    adaptation(root / "good")
    said = write_corpus(root, adaptation)
    one = serve(registry=root)
    right, wrong = [], []
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=one.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
            while not ended.is_set():
                body = {"model": "reviews", "prompt": f"word {len(right)}"}
                answer = client.post("/v1/completions", json=body)
                fine = answer.status_code == 200 and (
                    answer.json()["choices"][0]["text"] == f" word {len(right)}"
                )
                (right if fine else wrong).append(answer.text)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        with httpx.Client(base_url=one.url, headers=headers) as admin:
            for name, what in said.items():
                answer = admin.post("/admin/load", json={"name": name})
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (400, "E-MODEL-201"), (name, error)
                assert what in error["message"], (name, error["message"])
                assert f"'{name}' is not served: it holds what no adaptation" in error["message"]
                assert "do not tell" not in error["message"] and len(error["message"]) < 2_000
            loaded = admin.post("/admin/load", json={"name": "good"})
            assert loaded.status_code == 200, loaded.text
            served = [model["id"] for model in admin.get("/v1/models").json()["data"]]
            assert served == ["small", "reviews", "good"]
    finally:
        ended.set()
        asking.join()
    assert wrong == [] and len(right) > 20 and len(said) > 75
    assert list(tmp_path.glob("ran-*")) == []  # no payload ever ran
    assert Registry(root).loaded().keys() == {"good"}


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "/etc", "/", "a/b", "../outside", "good/../good", "%2e%2e", "..%2f", "a%00",
     "a\0", "good\0", "a\\b", "~", "~root", "good ", " good", "good\n", "Good", "GOOD", ".hidden",
     "\uff47ood", "go\u0301od", "http://x/y", "hf://user/model", "user/model", "C:good", "good:x",
     "-" * 65, "x" * 10_000, "good;ls", "$HOME", "*", "{}", "good?x=1", "con:"],
    ids=lambda name: ascii(name)[1:20],
)  # fmt: skip
def test_only_names_lead_to_folders(tmp_path: Path, adaptation: Any, name: str) -> None:
    adaptation(tmp_path / "registry" / "good")
    adaptation(tmp_path / "outside")
    registry = Registry(tmp_path / "registry")
    with pytest.raises(ConfigError) as caught:
        registry.folder(name)
    assert caught.value.code == "E-CONFIG-302" and len(str(caught.value)) < 300
    assert str(caught.value).isascii() and "\n" not in caught.value.what


def test_names_over_http_are_checked_before_anything_is_looked_for(
    tmp_path: Path, adaptation: Any, serve: Callable[..., Any]
) -> None:
    adaptation(tmp_path / "registry" / "good")
    one = serve(registry=tmp_path / "registry")
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with httpx.Client(base_url=one.url, headers=headers) as admin:
        for name in (
            "..",
            "/etc",
            "%2e%2e",
            "a\0",
            "x" * 10_000,
            "Good",
            "good\n",
            ".a",
            "a/b",
            "",
        ):
            for body in ({"name": name}, {"name": "fine", "folder": name}):
                answer = admin.post("/admin/load", json=body)
                assert answer.status_code == 400, (name, answer.text)
                assert answer.json()["error"]["code"] == "E-CONFIG-293" and len(answer.text) < 500
        missing = admin.post("/admin/load", json={"name": "god"})
        assert missing.status_code == 404
        assert missing.json()["error"]["message"].startswith(
            "E-CONFIG-303  The registry has no folder 'god'. Did you mean 'good'?"
        )


def test_a_folder_lies_in_the_registry_itself(tmp_path: Path, adaptation: Any) -> None:
    root = tmp_path / "registry"
    adaptation(root / "good")
    adaptation(tmp_path / "outside")
    (root / "linked").symlink_to(tmp_path / "outside")
    (root / "again").symlink_to(root / "good")
    (root / "file").write_text("")
    registry = Registry(root)
    assert registry.names() == ("good",) and registry.folder("good") == root / "good"
    for name in ("linked", "again", "file", "models.json"):
        with pytest.raises(ConfigError, match="E-CONFIG-303"):
            registry.folder(name)
    (tmp_path / "other-way").symlink_to(root)  # the registry itself may be reached by a link
    assert Registry(tmp_path / "other-way").folder("good") == root / "good"


def test_a_folder_swapped_for_a_link_is_no_folder(tmp_path: Path, adaptation: Any) -> None:
    root = tmp_path / "registry"
    registry_folder = adaptation(root / "good")
    adaptation(tmp_path / "outside")
    registry = Registry(root)
    registry_folder.rename(root / "moved")
    (root / "good").symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match="E-CONFIG-303"):
        registry.folder("good")


def test_sizes_are_bounded(tmp_path: Path, adaptation: Any) -> None:
    folder = adaptation(tmp_path / "large")
    with pytest.raises(ModelError, match="it is larger than 100 bytes"):
        vet(folder, Bounds(folder=100))
    with pytest.raises(ModelError, match=r"adapter_config\.json: it has 29 bytes; 10 are the most"):
        vet(folder, Bounds(json=10))
    with (folder / "README.md").open("wb") as file:
        file.truncate(5 << 30)  # takes no room on disk
    with pytest.raises(ModelError, match="it is larger than 4,294,967,296 bytes"):
        vet(folder)
    (folder / "README.md").unlink()
    (folder / "context.json").write_text('{"a": "' + "x" * (16 << 20) + '"}')
    with pytest.raises(ModelError, match=r"context\.json: it has 16,777,225 bytes; 16,777,216"):
        vet(folder)
    (folder / "context.json").unlink()
    (folder / "facts.jsonl").write_text('{"a": "' + "x" * 40)
    with pytest.raises(ModelError, match=r"facts\.jsonl: line 1 has more than 31 bytes"):
        vet(folder, Bounds(json=31))


def test_every_problem_is_told_at_once(tmp_path: Path, adaptation: Any) -> None:
    folder = adaptation(tmp_path / "bad")
    (folder / CONFIG).write_text("[]")
    (folder / TENSORS).write_bytes(packed({"a": 1, "b": {**SOUND, "dtype": "X"}}))
    (folder / "run.py").write_text("")
    with pytest.raises(ModelError) as caught:
        vet(folder)
    formats = "F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL"
    assert sorted(caught.value.details) == [
        f"{CONFIG}: it is no JSON object",
        f"{TENSORS}: 'a' does not have dtype, shape and data_offsets alone",
        f"{TENSORS}: 'b' has the format 'X'; known are {formats}",
        "run.py: it is code",
    ]
    assert "copy the folder again, whole, and remove what does not belong there" in caught.value.fix


def test_a_vast_header_is_told_in_bounds(tmp_path: Path, adaptation: Any) -> None:
    folder = adaptation(tmp_path / "many")
    (folder / TENSORS).write_bytes(packed({f"t{n}": 1 for n in range(20_000)}))
    with pytest.raises(ModelError) as caught:
        vet(folder)
    assert len(caught.value.details) == 8


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mutated")
    (folder / CONFIG).write_text("{}")
    yield folder


WHOLE = save({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16), "c": np.arange(3)})
BYTE = some.tuples(some.integers(0, len(WHOLE) - 1), some.integers(0, 255))


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(changes=some.lists(BYTE, min_size=1, max_size=4), cut=some.none() | some.integers(0, 400))
def test_whatever_bytes_change_nothing_but_sound_tensors_passes(
    scratch: Path, changes: list[tuple[int, int]], cut: int | None
) -> None:
    raw = bytearray(WHOLE)
    for place, value in changes:
        raw[place] = value
    (scratch / TENSORS).write_bytes(raw[:cut])
    try:
        vet(scratch)
    except ModelError as error:
        assert error.code == "E-MODEL-201" and len(str(error)) < 3_000
        return
    try:
        arrays = load(bytes(raw[:cut]))
    except SafetensorError:
        return  # stricter than we are: what it refuses is refused when it is loaded
    assert all(np.isfinite(array).all() for array in arrays.values())
