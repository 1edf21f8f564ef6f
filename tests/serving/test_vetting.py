"""A corpus of hostile adaptations, refused one by one while good traffic goes on."""

from __future__ import annotations

import json
import os
import pickle
import struct
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

from sapwood.errors import ConfigError, ModelError
from sapwood.serving.registry import Registry
from sapwood.serving.vetting import Bounds, vet

KEY, ADMIN_KEY = "key-of-the-tests", "admin-key-of-the-tests"  # as in conftest.py
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SOUND: dict[str, Any] = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def packed(header: Any, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    """Return a safetensors file as it is said to be, sound or not."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensors(*changes: tuple[str, Any], data: bytes = b"\0" * 16) -> bytes:
    """Return a file of one tensor, some of whose parts are others."""
    return packed({"a": {**SOUND, **dict(changes)}}, data)


def number(dtype: str, raw: bytes) -> bytes:
    """Return a file of one tensor, of which the last number has these bytes."""
    zeros = b"\0" * len(raw) * 5
    said = {"dtype": dtype, "shape": [6], "data_offsets": [0, len(raw) * 6]}
    return packed({"a": said}, zeros + raw)


F32_NAN, F32_INF = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
# Name -> (content of adapter_model.safetensors, what is said of it).
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it has 0 bytes, too few for a safetensors file"),
    "short": (b"\x02\0\0\0\0\0\0\0{", "it has 9 bytes, too few for a safetensors file"),
    "cut-header": (tensors()[:40], "bytes, and 32 are there"),
    "cut-data": (tensors()[:-1], "'a' does not lie inside the file's 15 bytes of data"),
    "huge-header": (packed(b"{}", length=1 << 40), "its header claims 1,099,511,627,776 bytes;"),
    "vast-header": (packed(b"{}", length=(1 << 64) - 1), "18,446,744,073,709,551,615 bytes;"),
    "not-json": (packed(b"{'a': 1}"), "its header is not JSON: "),
    "not-utf8": (packed(b'{"\xff": 1}'), "its header is not JSON: "),
    "no-object": (packed(["a"]), "its header is no JSON object"),
    "deep-header": (packed(b"[" * 90_000), "its header has more than 4 levels of brackets"),
    "twice": (
        packed(b'{"a":%b,"a":%b}' % (json.dumps(SOUND).encode(), json.dumps(SOUND).encode())),
        "its header is not JSON: a name comes twice",
    ),
    "twice-inside": (
        packed(b'{"a":{"dtype":"F32","dtype":"F64","shape":[2,2],"data_offsets":[0,16]}}'),
        "its header is not JSON: a name comes twice",
    ),
    "unknown-format": (tensors(("dtype", "F8_E4M3")), "'a' has the format 'F8_E4M3'; known are F64"),
    "no-format": (tensors(("dtype", ["F32"])), "'a' has the format ['F32']; known are"),
    "more-entries": (tensors(("code", "x")), "'a' does not have dtype, shape and data_offsets alone"),
    "no-entries": (packed({"a": 5}), "'a' does not have dtype, shape and data_offsets alone"),
    "negative-shape": (tensors(("shape", [-2, -2])), "'a' has no shape of at most 8 dimensions"),
    "broken-shape": (tensors(("shape", [2.0, 2])), "'a' has no shape of at most 8 dimensions"),
    "true-shape": (tensors(("shape", [True, 4])), "'a' has no shape of at most 8 dimensions"),
    "many-dimensions": (tensors(("shape", [1] * 9)), "'a' has no shape of at most 8 dimensions"),
    "vast-shape": (tensors(("shape", [1 << 63])), "'a' has no shape of at most 8 dimensions"),
    "wrapping-shape": (tensors(("shape", [1 << 62, 4, 4])), "'a' has 16 bytes, and its shape needs"),
    "larger-shape": (tensors(("shape", [2, 3])), "'a' has 16 bytes, and its shape needs 24"),
    "backwards": (tensors(("data_offsets", [16, 0])), "'a' does not lie inside the file's 16 bytes"),
    "behind-the-end": (
        tensors(("data_offsets", [16, 32])), "'a' does not lie inside the file's 16 bytes",
    ),
    "negative-offset": (
        tensors(("data_offsets", [-16, 0])), "'a' does not lie inside the file's 16 bytes",
    ),
    "three-offsets": (
        tensors(("data_offsets", [0, 8, 16])), "'a' does not lie inside the file's 16 bytes",
    ),
    "overlapping": (packed({"a": SOUND, "b": SOUND}), "'b' overlaps the tensor before it"),
    "overlapping-half": (
        packed({"a": SOUND, "b": {**SOUND, "data_offsets": [8, 24]}}, b"\0" * 24),
        "'b' overlaps the tensor before it",
    ),
    "hole": (
        packed({"a": SOUND, "b": {**SOUND, "data_offsets": [20, 36]}}, b"\0" * 36),
        "'b' leaves a hole before it",
    ),
    "hole-first": (
        tensors(("data_offsets", [4, 20]), data=b"\0" * 20), "'a' leaves a hole before it",
    ),
    "tail": (tensors(data=b"\0" * 17), "1 bytes after the last tensor belong to none"),
    "no-tensors": (packed({}, b"payload"), "7 bytes after the last tensor belong to none"),
    "metadata": (
        packed({"__metadata__": {"a": {"b": 1}}, "a": SOUND}), "its __metadata__ is more than words",
    ),
    "nan-f32": (number("F32", F32_NAN), "'a' holds numbers that are not finite"),
    "infinite-f32": (number("F32", F32_INF), "'a' holds numbers that are not finite"),
    "minus-infinite-f32": (
        number("F32", struct.pack("<f", float("-inf"))), "'a' holds numbers that are not finite",
    ),
    "quiet-nan-f32": (number("F32", b"\x01\0\x80\xff"), "'a' holds numbers that are not finite"),
    "nan-f64": (
        number("F64", struct.pack("<d", float("nan"))), "'a' holds numbers that are not finite",
    ),
    "infinite-f64": (
        number("F64", struct.pack("<d", float("inf"))), "'a' holds numbers that are not finite",
    ),
    "nan-f16": (number("F16", b"\x01\x7e"), "'a' holds numbers that are not finite"),
    "infinite-f16": (number("F16", b"\0\xfc"), "'a' holds numbers that are not finite"),
    "nan-bf16": (number("BF16", F32_NAN[2:]), "'a' holds numbers that are not finite"),
    "infinite-bf16": (number("BF16", F32_INF[2:]), "'a' holds numbers that are not finite"),
    "a-pickle": (pickle.dumps({"a": 1}, protocol=0), "its header claims "),
    "long-name": (
        packed({"n" * 10_000: {**SOUND, "shape": [3]}}), f"'{'n' * 79} has 16 bytes",
    ),
}  # fmt: skip


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


# Name -> (file, its text, what is said of it).
TEXTS: dict[str, tuple[str, str, str]] = {
    "json-cut": (CONFIG, '{"r": ', f"{CONFIG}: it is not JSON: "),
    "json-list": (CONFIG, "[]", f"{CONFIG}: it is no JSON object"),
    "json-deep": (CONFIG, deep(33), f"{CONFIG}: it has more than 32 levels of brackets"),
    "json-abyss": ("adaptation.json", "[" * 500_000, "it has more than 32 levels of brackets"),
    "json-nan": (CONFIG, '{"lora_alpha": NaN}', f"{CONFIG}: it holds a number that is not finite"),
    "json-infinite": ("context.json", '{"bias": [[1e999]]}', "it holds a number that is not finite"),
    "json-digits": (CONFIG, '{"r": ' + "9" * 5_000 + "}", f"{CONFIG}: it is not JSON: "),
    "lines": ("facts.jsonl", '{"a": 1}\n{"a": \n', "facts.jsonl: line 2: it is not JSON: "),
    "lines-deep": ("facts.jsonl", deep(33), "line 1: it has more than 32 levels of brackets"),
    "code": ("modeling_sapwood.py", "import os", "modeling_sapwood.py: it is code"),
    "code-library": ("helper.so", "\x7fELF", "helper.so: it is code"),
    "template": ("chat_template.jinja", "{{ 1 }}", "chat_template.jinja: it is code"),
    "stranger": ("model.gguf", "GGUF", "model.gguf: no adaptation has such a file"),
    "control": ("a\x1b[31m.txt", "", "a\\x1b[31m.txt: no adaptation has such a file"),
    "other-case": ("Adapter_Model.safetensors", "", "no adaptation has such a file"),
    "hidden": (".env", "", ".env: no adaptation has such a file"),
}  # fmt: skip
PICKLED = ("adapter_model.bin", "pytorch_model.pt", "weights.pth", "readout.pkl", "head.pickle",
           "last.ckpt", "probe.joblib", "arrays.npy", "arrays.npz")  # fmt: skip


def _link_file(folder: Path, outside: Path) -> None:
    (folder / "context.json").symlink_to(outside / "secret.json")


def _link_tensors(folder: Path, outside: Path) -> None:
    (folder / TENSORS).unlink()
    (folder / TENSORS).symlink_to(outside / "other.safetensors")


def _link_nowhere(folder: Path, outside: Path) -> None:
    (folder / "readout.json").symlink_to(outside / "nothing")


def _link_folder(folder: Path, outside: Path) -> None:
    (folder / "prefix").symlink_to(outside)


def _link_inside(folder: Path, outside: Path) -> None:
    (folder / "prefix").mkdir()
    (folder / "prefix" / TENSORS).symlink_to(outside / "other.safetensors")


def _hard_link(folder: Path, outside: Path) -> None:
    os.link(outside / "secret.json", folder / "context.json")


def _fifo(folder: Path, outside: Path) -> None:
    os.mkfifo(folder / "context.json")


def _folder_as_file(folder: Path, outside: Path) -> None:
    (folder / TENSORS).unlink()
    (folder / TENSORS).mkdir()


def _subfolder(folder: Path, outside: Path) -> None:
    (folder / "__pycache__").mkdir()


def _strange_prefix(folder: Path, outside: Path) -> None:
    (folder / "prefix").mkdir()
    (folder / "prefix" / "run.py").write_text("import os")


# Name -> (what is done to a sound folder, what is said of it).
TREES: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "link-file": (_link_file, "context.json: it is a link"),
    "link-tensors": (_link_tensors, f"{TENSORS}: it is a link"),
    "link-nowhere": (_link_nowhere, "readout.json: it is a link"),
    "link-folder": (_link_folder, "prefix: it is a link"),
    "link-inside": (_link_inside, f"prefix/{TENSORS}: no adaptation has such a file"),
    "hard-link": (_hard_link, "context.json: it is linked from another place as well; copy it"),
    "fifo": (_fifo, "context.json: it is not a regular file"),
    "folder-as-file": (_folder_as_file, f"{TENSORS}/: it is a folder that no adaptation has"),
    "subfolder": (_subfolder, "__pycache__/: it is a folder that no adaptation has"),
    "strange-prefix": (_strange_prefix, "prefix/run.py: it is code"),
}


def write_corpus(root: Path, sound: Callable[..., Path]) -> dict[str, str]:
    """Write every hostile adaptation below `root`; return what is said of each by name."""
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text('{"secret": "do not tell"}')
    (outside / "other.safetensors").write_bytes(tensors())
    said = {}
    for name, (content, what) in FILES.items():
        (sound(root / name) / TENSORS).write_bytes(content)
        said[name] = f"{TENSORS}: {what}" if what.startswith("it has") else what
    for name, (file, text, what) in TEXTS.items():
        (sound(root / name) / file).write_text(text)
        said[name] = what
    for number, file in enumerate(PICKLED):
        raw = pickle.dumps(Payload(root.parent / f"ran-{number}"))
        (sound(root / f"pickle-{number}") / file).write_bytes(raw)
        said[f"pickle-{number}"] = f"{file}: it may hold a pickle, which runs code when it is read"
    for name, (change, what) in TREES.items():
        change(sound(root / name), outside)
        said[name] = what
    return said


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
     "ｇood", "go\u0301od", "http://x/y", "hf://user/model", "user/model", "C:good", "good:x",
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
    with pytest.raises(ModelError, match="adapter_config.json: it has 30 bytes; 10 are the most"):
        vet(folder, Bounds(json=10))
    with (folder / "README.md").open("wb") as file:
        file.truncate(5 << 30)  # takes no room on disk
    with pytest.raises(ModelError, match="it is larger than 4,294,967,296 bytes"):
        vet(folder)
    (folder / "README.md").unlink()
    (folder / "context.json").write_text('{"a": "' + "x" * (16 << 20) + '"}')
    with pytest.raises(ModelError, match="context.json: it has 16,777,225 bytes; 16,777,216 are"):
        vet(folder)
    (folder / "context.json").unlink()
    (folder / "facts.jsonl").write_text('{"a": "' + "x" * 40)
    with pytest.raises(ModelError, match="facts.jsonl: line 1 has more than 31 bytes"):
        vet(folder, Bounds(json=31))


def test_every_problem_is_told_at_once(tmp_path: Path, adaptation: Any) -> None:
    folder = adaptation(tmp_path / "bad")
    (folder / CONFIG).write_text("[]")
    (folder / TENSORS).write_bytes(packed({"a": 1, "b": {**SOUND, "dtype": "X"}}))
    (folder / "run.py").write_text("")
    with pytest.raises(ModelError) as caught:
        vet(folder)
    assert sorted(caught.value.details) == [
        f"{CONFIG}: it is no JSON object",
        f"{TENSORS}: 'a' does not have dtype, shape and data_offsets alone",
        f"{TENSORS}: 'b' has the format 'X'; known are F64, F32, F16, BF16, I64, I32, I16, I8, U8, "
        "BOOL",
        "run.py: it is code",
    ]
    assert "remove what does not belong there" in caught.value.fix


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
