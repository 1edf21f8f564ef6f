"""Adaptations that mean harm, or are torn: how each is made, and what is said of it."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    "unknown-format": (tensors(("dtype", "F8_E4M3")), "'a' has the format 'F8_E4M3'; known"),
    "no-format": (tensors(("dtype", ["F32"])), "'a' has the format ['F32']; known are"),
    "more-entries": (tensors(("code", "x")), "'a' does not have dtype, shape and data_off"),
    "no-entries": (packed({"a": 5}), "'a' does not have dtype, shape and data_offsets alone"),
    "negative-shape": (tensors(("shape", [-2, -2])), "'a' has no shape of at most 8 dimensions"),
    "broken-shape": (tensors(("shape", [2.0, 2])), "'a' has no shape of at most 8 dimensions"),
    "true-shape": (tensors(("shape", [True, 4])), "'a' has no shape of at most 8 dimensions"),
    "many-dimensions": (tensors(("shape", [1] * 9)), "'a' has no shape of at most 8 dimensions"),
    "vast-shape": (tensors(("shape", [1 << 63])), "'a' has no shape of at most 8 dimensions"),
    "wrapping-shape": (tensors(("shape", [1 << 62, 4, 4])), "'a' has 16 bytes, and its shape"),
    "larger-shape": (tensors(("shape", [2, 3])), "'a' has 16 bytes, and its shape needs 24"),
    "backwards": (tensors(("data_offsets", [16, 0])), "'a' does not lie inside the file's"),
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
        packed({"__metadata__": {"a": {"b": 1}}, "a": SOUND}), "its __metadata__ is more than",
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
    "json-infinite": ("context.json", '{"bias": [[1e999]]}', "it holds a number that is not fin"),
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
