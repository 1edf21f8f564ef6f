"""A method with its trained tensors on disk: in PEFT's layout where PEFT has it, else in our own.

Ours is `method.json` (name and settings) and `method.safetensors` (tensors by module path).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sapwood.errors import ModelError
from sapwood.methods import peft_folder
from sapwood.methods.parts import Method, detach, parts
from sapwood.methods.peft_folder import targeted
from sapwood.methods.peft_kinds import has, settled
from sapwood.methods.settings import from_settings, settings

SETTINGS, TENSORS = "method.json", "method.safetensors"
FILES = (SETTINGS, TENSORS, peft_folder.CONFIG, peft_folder.TENSORS)
_SCHEMA = "sapwood.method/1"


def write_method(
    tensors: Mapping[str, Tensor],
    method: Method,
    folder: Path,
    *,
    base: str,
    transposed: bool,
    encoder: bool = False,
) -> None:
    """Write what `parts.stored` returned into `folder`; `method` is the one that was attached.

    `base`: the name PEFT should show; `transposed`: whether the base's layers keep their weights
    as (inputs, outputs), as GPT-2's do; `encoder`: whether the base is one. For what PEFT keeps
    differently and only the net can tell, ours is the layout; `peft_folder.export_peft` writes
    PEFT's from an attached net.
    """
    method = method.kept()
    if has(method, tensors):
        peft_folder.write_peft(
            tensors, method, folder, base=base, transposed=transposed, encoder=encoder
        )
        return
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": _SCHEMA, "name": method.name, "base": base, "settings": settings(method)}
    (folder / SETTINGS).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    stored = {name: t.detach().float().cpu().contiguous() for name, t in tensors.items()}
    save_file(stored, folder / TENSORS, metadata={"format": "pt"})


def read_method(folder: Path) -> tuple[Method, dict[str, Tensor]]:
    """Return the method a folder holds, in either layout, and its tensors.

    Raises ModelError as `peft_folder.read_peft` does.
    """
    path = folder / SETTINGS
    if not path.exists():
        return peft_folder.read_peft(folder)
    try:
        content = json.loads(path.read_text())
        method = from_settings(content["name"], content["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError("E-MODEL-021", f"{path} cannot be read: {error}.") from None
    return method, peft_folder.read_tensors(folder / TENSORS)


def load_trained(net: Any, folder: Path) -> Method:
    """Attach the method of a folder to `net` and return it; see `attach_trained`.

    Of a PEFT folder, every module that it targets in this net must have its tensors, too.
    """
    method, tensors = read_method(folder)
    wanted = set() if (folder / SETTINGS).exists() else targeted(net, folder)
    attach_trained(net, method, tensors, where=str(folder), wanted=wanted)
    return method


def attach_trained(
    net: Any,
    method: Method,
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    seed: int = 0,
    wanted: Collection[str] = (),
) -> None:
    """Attach `method` to `net` with trained `tensors`; all must map, or nothing is attached.

    `tensors`: by module path; `where`: what holds them, for the message; `wanted`: paths of modules
    that must get some. Raises ModelError (E-MODEL-023) naming the tensors that are missing, left
    over or of another shape.
    """
    before = [part for _, part in parts(net)]
    method.attach(net, seed=seed)
    old = set(map(id, before))
    added = [(path, part) for path, part in parts(net) if id(part) not in old]
    own = {
        f"{path}.{name}" if path else name: parameter
        for path, part in added
        for name, parameter in part.trained().items()
    }
    problems: list[str] = []
    tensors, unchanged = settled(added, tensors, problems)
    missing = set(own) - set(tensors) - unchanged
    problems += [f"{name} has no place in this base" for name in sorted(set(tensors) - set(own))]
    problems += [f"{name} is not in the file" for name in sorted(missing)]
    problems += [
        f"{name} is {tuple(tensors[name].shape)} in the file, {tuple(own[name].shape)} here"
        for name in sorted(set(own) & set(tensors))
        if tensors[name].shape != own[name].shape
    ]
    given = {p for p, part in added if {f"{p}.{n}" for n in part.trained()} - unchanged}
    problems += [f"{p} is targeted, but not in the file" for p in sorted(set(wanted) - given)]
    if problems:
        detach(net, keep=before)
        shown = [*problems[:8], *([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])]
        raise ModelError(
            "E-MODEL-023",
            f"{where}: {len(problems)} of {len(own)} tensors do not map onto the base.",
            details=shown,
            fix="load it with the base it was trained on",
        )
    with torch.no_grad():
        for name in set(own) - unchanged:
            own[name].copy_(tensors[name])
