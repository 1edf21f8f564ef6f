"""The artifact: a frozen base, what is prepended, what perturbs it, how it is read, and evidence.

A folder: `adaptation.json` (base, parts, evidence, a golden probe, a hash of each file),
`context.json`, `readout.json` with `readout.safetensors`, and, with a method or a prefix,
`adapter_config.json` and `adapter_model.safetensors` in PEFT's layout; with both, the prefix has
a folder `prefix` of its own. No pickle; written whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError

from sapwood.config import VERSION
from sapwood.context.facts import RECORDS, SETTINGS, Knowledge, has_facts, load_facts
from sapwood.context.prompter import Context
from sapwood.context.template import Template
from sapwood.errors import ModelError
from sapwood.files import new_folder, write_json
from sapwood.interfaces import Classifier, Example, Readout, Turn
from sapwood.methods.folder import FILES, read_method, write_method
from sapwood.methods.parts import Method
from sapwood.methods.prefix import StoredPrefix, check_fits, read_prefix, write_prefix
from sapwood.models.decoder import Decoder, Prefix
from sapwood.readouts import READOUTS
from sapwood.readouts.decision import Decision
from sapwood.registry import resolve

SCHEMA = "sapwood.adaptation/1"
MAIN, CONTEXT, READOUT, ARRAYS = (
    "adaptation.json", "context.json", "readout.json", "readout.safetensors",
)  # fmt: skip
PREFIX = "prefix"
_OWN_FOLDER = tuple(f"{PREFIX}/{name}" for name in FILES)
_HASHED = (CONTEXT, READOUT, ARRAYS, *FILES, *_OWN_FOLDER, SETTINGS, RECORDS)


@dataclass(frozen=True, kw_only=True)
class BaseRef:
    """The frozen base an adaptation belongs to; `sha256` is that of its weights' content.

    `weights`: how its matrices were kept, "full", "int8" or "int4"; "" where nothing says it.
    """

    name: str
    sha256: str
    kind: str
    licence: str = ""
    upstream: str = ""
    dtype: str = "float32"
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A few inputs with what they gave when saved: probabilities, (texts, labels), or answers."""

    texts: tuple[str, ...] = ()
    probabilities: tuple[tuple[float, ...], ...] = ()
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Everything light that makes a base do one task.

    `task` is a key of `tasks.TASKS`, `readout_name` of READOUTS; `base` and `context` are None for
    readouts of bare texts; `embedder` chooses demonstrations for each query; `method` with its
    `weights` (by module path);
    `scope` is "all" or "suffix": whether the method also acts while the context is encoded. A
    `prefix` takes the place of the context's text: queries follow it, the text is not read again.
    `facts` finds the lines that are put before each query; its knowledge is saved with the rest.
    `max_text_tokens`: how much of a text an encoder as base reads, None for all that it can; for a
    decoder the context says it. `decision`: the temperature of its probabilities, and thresholds.
    """

    labels: tuple[str, ...]
    readout_name: str
    readout: Readout
    task: str = "classification"
    base: BaseRef | None = None
    context: Context | None = None
    embedder: BaseRef | None = None
    prefix: StoredPrefix | None = None
    facts: Knowledge | None = None
    method: Method | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    transposed: bool = False
    scope: str = "all"
    max_text_tokens: int | None = None
    decision: Decision | None = None
    golden: Golden = field(default_factory=Golden)
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reads(self) -> str:
        """Return "texts", "features", "scores" or "states", or "answers" of a base that writes."""
        return self.readout.reads

    @property
    def unmasked(self) -> bool:
        """Return whether its decoder is read as an encoder: one without a prompt is."""
        return self.base is not None and self.base.kind == "decoder" and self.context is None

    def parts(self) -> dict[str, str | None]:
        """Return each part in words, None where it is empty."""
        method = None
        if self.method is not None:
            method = self.method.describe()
            if self.context is not None and self.context.shots and self.prefix is None:
                method += f", scope {self.scope}"
        readout = self.readout_name
        settings = self.readout.state()[0]
        if self.readout_name == "verbalizer" and settings["bias"] != "none":
            readout += f" + bias ({settings['bias'].replace('_', '-')})"
        if hasattr(self.readout, "describe"):
            readout += f" ({self.readout.describe()})"
        if self.decision is not None and self.decision.temperature != 1:
            readout += f" + temperature {self.decision.temperature:.2f}"
        if self.unmasked:
            readout += ", the causal mask left out"
        prefix = self.prefix.describe() if self.prefix is not None else None
        context = self.context.describe() if self.context is not None and not prefix else None
        if self.facts is not None:
            said = self.facts.settings.describe()
            context = f"{context}; {said}" if context else said
        return {"context": context, "prefix": prefix, "method": method, "readout": readout}


def classifier(adaptation: Adaptation) -> Classifier:
    """Return the readout of an adaptation that classifies.

    Raises ModelError (E-MODEL-055) when its answers are written or found in the text.
    """
    if not hasattr(adaptation.readout, "probabilities"):
        raise ModelError(
            "E-MODEL-055",
            f"This adaptation does the task '{adaptation.task}': its answers are no labels with a "
            "probability each.",
            fix="use it with: sapwood predict DIR --data FILE",
        )
    return cast(Classifier, adaptation.readout)


def save(adaptation: Adaptation, folder: Path) -> None:
    """Write `adaptation` as `folder`, replacing an older one only when the new one is complete."""
    from safetensors.numpy import save_file

    settings, arrays = adaptation.readout.state()
    with new_folder(folder) as part:
        write_json(part / READOUT, {"name": adaptation.readout_name, "settings": settings})
        if arrays:
            stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            save_file(stored, part / ARRAYS)
        if adaptation.context is not None:
            write_json(part / CONTEXT, _context_json(adaptation.context))
        if adaptation.method is not None:
            assert adaptation.base is not None
            write_method(
                adaptation.weights,
                adaptation.method,
                part,
                base=adaptation.base.upstream or adaptation.base.name,
                transposed=adaptation.transposed,
                encoder=adaptation.base.kind == "encoder",
            )
        if adaptation.prefix is not None:
            assert adaptation.base is not None
            write_prefix(
                adaptation.prefix.tensor,
                part / PREFIX if adaptation.method else part,
                base=adaptation.base.upstream or adaptation.base.name,
            )
        if adaptation.facts is not None:
            adaptation.facts.save(part)
        write_json(part / MAIN, _main_json(adaptation, part))


def _main_json(adaptation: Adaptation, folder: Path) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "sapwood": VERSION,
        "task": adaptation.task,
        "labels": list(adaptation.labels),
        "base": asdict(adaptation.base) if adaptation.base else None,
        "embedder": asdict(adaptation.embedder) if adaptation.embedder else None,
        "parts": adaptation.parts(),
        "method": _method_json(adaptation),
        "prefix": _prefix_json(adaptation.prefix),
        "max_text_tokens": adaptation.max_text_tokens,
        "decision": adaptation.decision.state() if adaptation.decision else None,
        "golden": asdict(adaptation.golden),
        "evidence": dict(adaptation.evidence),
        "files": {n: _hash(folder / n) for n in _HASHED if (folder / n).exists()},
    }


def _method_json(adaptation: Adaptation) -> dict[str, Any] | None:
    if adaptation.method is None:
        return None
    said = {"name": adaptation.method.name, "scope": adaptation.scope}
    return {**said, "transposed": adaptation.transposed}


def _prefix_json(prefix: StoredPrefix | None) -> dict[str, Any] | None:
    return None if prefix is None else {"origin": prefix.origin, "trained": prefix.trained}


def _context_json(context: Context) -> dict[str, Any]:
    content = asdict(context)
    content["template"] = asdict(context.template)
    content["demonstrations"] = [_shown(d) for d in context.demonstrations]
    return content


def _shown(demonstration: Example) -> dict[str, Any]:
    """Return what a prompt shows of a demonstration: its frames are in the words of its label."""
    content = {"text": demonstration.text, "label": demonstration.label, "row": demonstration.row}
    turns = [asdict(turn) for turn in demonstration.turns]
    return {**content, "turns": turns} if turns else content


def load(folder: Path) -> Adaptation:
    """Read an adaptation; nothing of the base is loaded yet.

    Raises ModelError: E-MODEL-040 no adaptation, 041 not JSON, 042 another schema, 043 a file is
    missing or changed since it was saved, 044 its content cannot be used.
    """
    main = _read_main(folder)
    _check_files(folder, main)
    try:
        readout = _readout(folder)
        context = None
        if (folder / CONTEXT).exists():
            context = _context(json.loads((folder / CONTEXT).read_text(encoding="utf-8")))
        method, weights = (None, {}) if main["method"] is None else read_method(folder)
        return Adaptation(
            labels=tuple(main["labels"]),
            task=str(main["task"]),
            readout_name=readout[0],
            readout=readout[1],
            base=BaseRef(**main["base"]) if main["base"] else None,
            embedder=BaseRef(**main["embedder"]) if main["embedder"] else None,
            context=context,
            prefix=_prefix(folder, main),
            facts=load_facts(folder) if has_facts(folder) else None,
            method=method,
            weights=weights,
            transposed=bool((main["method"] or {}).get("transposed")),
            scope=main["method"]["scope"] if main["method"] else "all",
            max_text_tokens=_limit(main),
            decision=Decision.from_state(main["decision"]) if main.get("decision") else None,
            golden=_golden(main),
            evidence=main["evidence"],
        )
    except (AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ModelError(
            "E-MODEL-044",
            f"{folder} cannot be read: {type(error).__name__}: {error}.",
            fix="make it again with this version of Sapwood",
        ) from None


def _read_main(folder: Path) -> dict[str, Any]:
    path = folder / MAIN
    if not path.is_file():
        nested = folder / "adaptation" / MAIN
        raise ModelError(
            "E-MODEL-040",
            f"{folder} holds no adaptation: {MAIN} is missing.",
            fix=f"use {nested.parent}" if nested.is_file() else "make one: sapwood adapt DATA",
        )
    try:
        main = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(
            "E-MODEL-041", f"{path} is not valid JSON: {error}.", fix="copy the folder again"
        ) from None
    if not isinstance(main, dict) or main.get("schema") != SCHEMA:
        found = main.get("schema") if isinstance(main, dict) else None
        raise ModelError(
            "E-MODEL-042",
            f"{path} has schema {found!r}; this version of Sapwood reads '{SCHEMA}'.",
            fix="install the version of Sapwood that wrote it",
        )
    return main


def _check_files(folder: Path, main: Mapping[str, Any]) -> None:
    problems = []
    files = main.get("files")
    for name, expected in (files if isinstance(files, dict) else {}).items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif _hash(path) != expected:
            problems.append(f"{name} is not the file that was saved (its SHA-256 differs)")
    if problems:
        raise ModelError(
            "E-MODEL-043",
            f"{folder} was damaged or changed after it was saved.",
            details=problems,
            fix="copy the whole folder again from where it was made",
        )


def _readout(folder: Path) -> tuple[str, Readout]:
    from safetensors.numpy import load_file

    content = json.loads((folder / READOUT).read_text(encoding="utf-8"))
    arrays = load_file(folder / ARRAYS) if (folder / ARRAYS).exists() else {}
    member = resolve("readout", READOUTS, content["name"])
    return content["name"], member.from_state(content["settings"], arrays)


def _context(content: dict[str, Any]) -> Context:
    template = Template(**content.pop("template"))
    shown = tuple(map(_demonstration, content.pop("demonstrations")))
    groups = tuple(tuple(map(int, group)) for group in content.pop("groups"))
    return Context(template=template, demonstrations=shown, groups=groups, **content)


def _limit(main: Mapping[str, Any]) -> int | None:
    """Return the most tokens of a text; adaptations of before it was kept have none."""
    limit = main.get("max_text_tokens")
    return None if limit is None else int(limit)


def _demonstration(content: dict[str, Any]) -> Example:
    turns = tuple(Turn(**turn) for turn in content.pop("turns", ()))
    return Example(**content, turns=turns)


def _golden(main: Mapping[str, Any]) -> Golden:
    texts = tuple(map(str, main["golden"]["texts"]))
    rows = tuple(tuple(map(float, row)) for row in main["golden"]["probabilities"])
    answers = tuple(map(str, main["golden"].get("answers", ())))
    if answers:
        rows_fit = len(answers) == len(texts)
    else:
        rows_fit = all(len(row) == len(main["labels"]) for row in rows) and len(rows) == len(texts)
    if not rows_fit:
        raise ValueError("the golden probe does not have what each text gave")
    return Golden(texts=texts, probabilities=rows, answers=answers)


def _prefix(folder: Path, main: Mapping[str, Any]) -> StoredPrefix | None:
    said = main.get("prefix")
    if said is None:
        return None
    tensor = read_prefix(folder / PREFIX if main["method"] else folder)
    return StoredPrefix(tensor=tensor, origin=str(said["origin"]), trained=bool(said["trained"]))


def seed(prefix: StoredPrefix, decoder: Decoder) -> Prefix:
    """Return a stored prefix as rows of `decoder` follow it: the place of an encoded context.

    Its ids are placeholders that only count. Raises ModelError: E-MODEL-027 it was made for a net
    of another shape, E-MODEL-031 the base cannot be packed.
    """
    if decoder.why_padded:
        raise ModelError(
            "E-MODEL-031",
            f"This base cannot follow a prefix yet: {decoder.why_padded}.",
            fix="use the adaptation it was made from, or a Llama, Qwen, Gemma 3 or GPT-2 kind",
        )
    check_fits(prefix.tensor, decoder.net.config)
    layers = prefix.layers(decoder.net.dtype, decoder.device)
    return Prefix(ids=(0,) * prefix.tokens, layers=layers)


def size_on_disk(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def copy(source: Path, target: Path, changes: Mapping[str, Any]) -> None:
    """Copy an adaptation folder, with `changes` to the top level of its adaptation.json."""
    with new_folder(target) as part:
        for path in source.rglob("*"):
            inside = path.relative_to(source)
            if path.is_file() and str(inside) != MAIN:
                (part / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, part / inside)
        write_json(part / MAIN, {**_read_main(source), **changes})


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
