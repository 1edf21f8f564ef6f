"""What vLLM, llama.cpp and PEFT make of an adapter folder: refused, ignored in silence, or exact.

Each consumer is a strict reader of the files, written from its own loader: vLLM's `peft_helper.py`
and `lora_model.py`, llama.cpp's `convert_lora_to_gguf.py` and `llama-adapter.cpp`, PEFT 0.21. A
reader returns the branches that the consumer would add, with the scale it would use, so what is
ignored shows as a difference to what was trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sapwood.errors import ModelError
from sapwood.methods.merging import Branch
from sapwood.methods.peft_folder import CONFIG, TENSORS, read_tensors

PREFIX = "base_model.model."
MAGNITUDE = ".lora_magnitude_vector"
# vLLM's choices for --max-lora-rank; 16 is its default.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_VLLM_DEFAULT = 16
# Layers of vLLM's own Llama, Mistral, Qwen and Gemma 3 that take a LoRA.
_VLLM_LAYERS = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    "embed_tokens", "lm_head",
)  # fmt: skip
_VLLM_KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
_GGUF = {
    "llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3",
    "gemma3_text": "GEMMA3", "gpt2": "GPT2", "bert": "BERT",
}  # fmt: skip
_PAIRS = {
    ".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_embedding_A": "ea",
    ".lora_embedding_B": "eb",
}  # fmt: skip
# Settings that change what PEFT computes and that the other two never look at.
_UNSEEN = (
    "alora_invocation_tokens", "layer_replication", "target_parameters", "use_qalora",
    "use_bdlora", "arrow_config", "kasa_config", "monteclora_config",
)  # fmt: skip
_PEFT_TYPES = (
    " ADALORA ADAMSS ADAPTION_PROMPT BEFT BOFT C3A CARTRIDGE CPT DEFT DELORA FOURIERFT FROD GLORA "
    "GRALORA HIRA HRA IA3 LILY LN_TUNING LOHA LOKR LORA MISS MULTITASK_PROMPT_TUNING OFT OSF "
    "PEANUT POLY PREFIX_TUNING PROMPT_TUNING PSOFT PVERA P_TUNING RANDLORA ROAD SHADOW SHIRA "
    "SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA VBLORA VERA WAVEFT XLORA "
)
_BAKE = "add --fold OUT: it writes a plain LoRA"
_INTO_BASE = "merge it into the base's weights and serve those"
_RETRAIN = "train it again as a LoRA on linear layers only, or " + _INTO_BASE


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing a consumer does with a folder.

    `effect`: "refused" (it stops), "ignored" (it goes on, and answers otherwise) or "note" (right,
    given what the note says); `cure`: what to do.
    """

    effect: str
    what: str
    cure: str = ""


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """What the base's config.json says: its kind (`model_type`), tied head, vocabulary."""

    kind: str
    tied: bool = False
    vocabulary: int = 0


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A PEFT folder as it lies there: its configuration, and tensors by the names in the file."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def paths(self) -> list[str]:
        """Return the modules of the base that have a low-rank branch."""
        return sorted({bare(name)[0] for name in self.tensors if bare(name)[1] in _PAIRS})

    def pair(self, path: str) -> tuple[Tensor | None, Tensor | None]:
        """Return A and B of a module, None for one that is not there."""
        found: dict[str, Tensor] = {}
        for prefix in (PREFIX, ""):
            for end, which in _PAIRS.items():
                if (tensor := self.tensors.get(prefix + path + end)) is not None:
                    found.setdefault(which[-1], tensor)
        return found.get("a"), found.get("b")

    def magnitude(self, path: str) -> Tensor | None:
        """Return DoRA's magnitude of a module, (outputs,)."""
        names = (PREFIX + path + MAGNITUDE, path + MAGNITUDE)
        return next((self.tensors[name] for name in names if name in self.tensors), None)

    def trained_scale(self, path: str, rank: int) -> float:
        """Return the scale that the branch was trained with: PEFT's."""
        alpha = float(_by_pattern(self.config.get("alpha_pattern"), path, self._alpha))
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    @property
    def _alpha(self) -> float:
        return float(self.config.get("lora_alpha") or 8)  # PEFT's default

    def rank(self, path: str) -> int:
        """Return the rank that the configuration gives a module."""
        rank = self.config.get("r") or 8  # PEFT's default
        return int(_by_pattern(self.config.get("rank_pattern"), path, rank))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a consumer makes of a folder: the branches it would add, and findings."""

    branches: Mapping[str, Branch] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    @property
    def exact(self) -> bool:
        """Return whether it loads, and answers as it was trained to."""
        return all(finding.effect == "note" for finding in self.findings)


def read_folder(folder: Path) -> Shipped:
    """Return a PEFT folder's content, whatever it is.

    Raises ModelError: E-MODEL-020 no configuration, 021 not JSON, 024 to 026 no tensors, corrupt or
    not finite, 066 only pickled tensors (which are never opened), or AdapterHub's schema.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError("E-MODEL-020", f"{path} is missing: this is no PEFT adapter.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise ModelError("E-MODEL-021", f"{path} is not valid JSON: {error}.") from None
    if "peft_type" not in config and isinstance(config.get("config"), dict):
        raise ModelError(
            "E-MODEL-066",
            f"{folder} is an AdapterHub folder: none of the three reads its schema.",
            fix="read it with sapwood.methods.hub_folder and write it again",
        )
    if not (folder / TENSORS).exists() and (folder / "adapter_model.bin").exists():
        raise ModelError(
            "E-MODEL-066",
            f"{folder} has only pickled weights, and a pickle can run any code.",
            fix="load it once with PEFT and save_pretrained: that writes safetensors",
        )
    return Shipped(config=config, tensors=read_tensors(folder / TENSORS))


def consult(shipped: Shipped, consumer: str, base: BaseFacts | None = None) -> Reading:
    """Return what a consumer (a key of CONSUMERS) makes of a folder."""
    return CONSUMERS[consumer](shipped, base)


def bare(name: str) -> tuple[str, str]:
    """Return (module path, what follows it) of a tensor's name, without PEFT's prefix.

    >>> bare("base_model.model.layers.0.q_proj.lora_A.weight")
    ('layers.0.q_proj', '.lora_A.weight')
    """
    name = name.removeprefix(PREFIX)
    for end in (*_PAIRS, MAGNITUDE):
        if name.endswith(end):
            return name.removesuffix(end), end
    path, _, last = name.rpartition(".")
    return path, "." + last


def read_as_vllm(shipped: Shipped, base: BaseFacts | None = None) -> Reading:
    """Return what vLLM makes of it: one scale from r and lora_alpha, LoRA tensors only."""
    config, found = shipped.config, _not_lora(shipped.config, "vLLM serves LoRA only")
    missing = [k for k in ("r", "lora_alpha", "target_modules") if not config.get(k)]
    if missing and not found:
        found.append(_refused(f"{CONFIG} lacks {', '.join(missing)}", "write the keys into it"))
    if config.get("modules_to_save"):
        what = f"modules_to_save is {config['modules_to_save']}; it must be null"
        found.append(_refused(what, _RETRAIN))
    if config.get("use_dora"):
        found.append(_refused("use_dora is true: it has no DoRA", _BAKE))
    if config.get("bias", "none") != "none":
        found.append(_refused(f"bias is {config['bias']!r}: adapters have no biases", _RETRAIN))
    if config.get("fan_in_fan_out") or (base is not None and base.kind in ("gpt2", "bert")):
        kind = base.kind if base is not None else "GPT-2 or a kind like it"
        found.append(_refused(f"the base is {kind}, which takes no LoRA there", _INTO_BASE))
    found += _vllm_names(shipped, base)
    ranks = [len(a) for a, _ in map(shipped.pair, shipped.paths()) if a is not None]
    found += _vllm_rank(max(ranks, default=0))
    found += _unseen(config)
    scale = 0.0
    if not missing:
        rank, alpha = float(config["r"]), float(config["lora_alpha"])
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return _compared(shipped, found, lambda path, rank: scale)


def read_as_llamacpp(shipped: Shipped, base: BaseFacts | None = None) -> Reading:
    """Return what llama.cpp makes of it: lora_alpha over each tensor's own rank."""
    config, found, ignored = shipped.config, [], []
    for name in sorted(shipped.tensors):
        path, end = bare(name)
        if end in _PAIRS or ".base_layer.weight" in name:
            continue
        if "_layernorm" in name or ".norm" in name:
            ignored.append(path)
        elif not config.get("use_dora") or end != MAGNITUDE:
            cure = _BAKE if end == MAGNITUDE else _RETRAIN
            found.append(_refused(f"{name} is no low-rank factor: the converter stops", cure))
    found = _shortened(found)
    if config.get("use_dora"):
        found.append(_refused("DoRA's magnitudes stop the converter", _BAKE))
    if ignored:
        what = f"{len(ignored)} normalisation weights ({ignored[0]}, ...) are skipped when loaded"
        found.append(Finding(effect="ignored", what=what, cure=_INTO_BASE))
    if not config.get("lora_alpha"):
        found.append(_refused(f"{CONFIG} lacks lora_alpha", "write the key into it"))
    if config.get("fan_in_fan_out") or (base is not None and base.kind == "gpt2"):
        what = "the converter transposes GPT-2's layers and the factors with them: wrong shapes"
        found.append(_refused(what, _INTO_BASE))
    found += _llamacpp_names(shipped, base)
    if not config.get("base_model_name_or_path"):
        what = "no base is named: the converter needs --base FOLDER"
        found.append(Finding(effect="note", what=what))
    found += _unseen({**config, "alora_invocation_tokens": None})  # this one it honours
    alpha = float(config.get("lora_alpha") or 0)
    return _compared(shipped, found, lambda path, rank: alpha / rank)


def read_as_peft(shipped: Shipped, base: BaseFacts | None = None) -> Reading:
    """Return what PEFT makes of it; of methods other than LoRA only their name is checked."""
    del base
    config = shipped.config
    kind = config.get("peft_type")
    if f" {kind} " not in _PEFT_TYPES:
        return Reading(findings=(_refused(f"peft_type is {kind!r}, which PEFT 0.21 lacks", ""),))
    if kind != "LORA":
        return Reading()
    found = []
    strays = [name for name in shipped.tensors if not name.startswith(PREFIX)]
    if strays:
        what = f"{len(strays)} names do not begin with '{PREFIX}', such as {strays[0]}"
        found.append(Finding(effect="ignored", what=what, cure="write them with the prefix"))
    for path in shipped.paths():
        a, _ = shipped.pair(path)
        if a is not None and len(a) != shipped.rank(path) and ".experts" not in path:
            what = f"{path} has rank {len(a)} in the file, {shipped.rank(path)} in {CONFIG}"
            found.append(_refused(what, "correct r or rank_pattern"))
        if not _targeted(config, path):
            what = f"{path} is not among target_modules"
            found.append(Finding(effect="ignored", what=what, cure="add it to target_modules"))
        if config.get("use_dora") and shipped.magnitude(path) is None:
            what = f"{path} has no magnitude"
            found.append(Finding(effect="ignored", what=what, cure="set use_dora to false"))
    return _compared(shipped, _shortened(found), shipped.trained_scale)


CONSUMERS: Mapping[str, Callable[[Shipped, BaseFacts | None], Reading]] = {
    "vllm": read_as_vllm,
    "llamacpp": read_as_llamacpp,
    "peft": read_as_peft,
}


def _compared(
    shipped: Shipped, found: list[Finding], scale: Callable[[str, int], float]
) -> Reading:
    """Return the branches with a consumer's scales; say where those are not the trained ones."""
    made, other = {}, []
    for path in shipped.paths():
        a, b = shipped.pair(path)
        if a is None or b is None:
            what = f"{path} has lora_{'B' if a is None else 'A'} only"
            found.append(_refused(what, "copy the whole folder again"))
            continue
        made[path] = Branch(a=a.float(), b=b.float(), scale=scale(path, len(a)))
        trained = shipped.trained_scale(path, len(a))
        if abs(made[path].scale - trained) > 1e-6 * abs(trained):
            other.append(f"{path} by {made[path].scale:g} instead of {trained:g}")
    if other and not any(f.what.startswith(CONFIG + " lacks") for f in found):
        why = [k for k in ("use_rslora", "rank_pattern", "alpha_pattern") if shipped.config.get(k)]
        words = ", ".join(why) or "the rank"
        what = f"{words}: {len(other)} modules are scaled wrongly, {other[0]}"
        found.append(Finding(effect="ignored", what=what, cure=_BAKE))
    if not made and not found:
        found.append(_refused("it holds no low-rank factors", ""))
    return Reading(branches=made, findings=tuple(found))


def _refused(what: str, cure: str) -> Finding:
    return Finding(effect="refused", what=what, cure=cure)


def _not_lora(config: Mapping[str, Any], why: str) -> list[Finding]:
    kind = config.get("peft_type", "LORA")
    soft = kind is None or str(kind).endswith(("TUNING", "PROMPT"))
    cure = _RETRAIN if soft else "add --fold OUT: it writes the nearest plain LoRA"
    return [] if kind == "LORA" else [_refused(f"peft_type is {kind!r}: {why}", cure)]


def _unseen(config: Mapping[str, Any]) -> list[Finding]:
    found = [
        Finding(effect="ignored", what=f"{key} is set, and nothing reads it", cure=_INTO_BASE)
        for key in _UNSEEN
        if config.get(key)
    ]
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(("pissa", "olora", "corda", "loftq", "lora_ga")):
        what = f"init_lora_weights is '{start}': training began from a changed base"
        cure = "save it again with PEFT's path_initial_model_for_weight_conversion"
        found.append(Finding(effect="ignored", what=what, cure=cure))
    return found


def _vllm_names(shipped: Shipped, base: BaseFacts | None) -> list[Finding]:
    found = []
    for name, tensor in sorted(shipped.tensors.items()):
        path, end = bare(name)
        if end not in _PAIRS:
            whole = name.endswith((".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight"))
            magnitude = shipped.config.get("use_dora") and end == MAGNITUDE
            if not (whole or magnitude or shipped.config.get("modules_to_save")):
                found.append(_refused(f"{name} is no LoRA weight it knows", _RETRAIN))
            continue
        known = base is None or base.kind in _VLLM_KINDS
        if known and path.rsplit(".", 1)[-1] not in _VLLM_LAYERS and base is not None:
            found.append(_refused(f"{path} is no layer of its {base.kind}", _RETRAIN))
        elif known and base is not None and not path.startswith(("model.", "lm_head")):
            what = f"{path} names no layer there: theirs begin with 'model.'"
            cure = "rename the tensors: put 'model.' before each path"
            found.append(Finding(effect="ignored", what=what, cure=cure))
        if end == ".lora_embedding_A" and base is not None and tensor.shape[1] != base.vocabulary:
            what = f"{path} is for {tensor.shape[1]} tokens, the base has {base.vocabulary}"
            found.append(_refused(what, _RETRAIN))
    return _shortened(found)


def _vllm_rank(rank: int) -> list[Finding]:
    if rank > VLLM_RANKS[-1]:
        cure = f"cut it: --fold OUT --rank {VLLM_RANKS[-1]}"
        return [_refused(f"rank {rank} is above its largest, {VLLM_RANKS[-1]}", cure)]
    if rank > _VLLM_DEFAULT:
        least = next(choice for choice in VLLM_RANKS if choice >= rank)
        return [Finding(effect="note", what=f"start vLLM with --max-lora-rank {least}")]
    return []


def _llamacpp_names(shipped: Shipped, base: BaseFacts | None) -> list[Finding]:
    import gguf

    numbers = [int(n) for path in shipped.paths() for n in re.findall(r"\.(\d+)\.", f".{path}.")]
    kinds = [_GGUF[base.kind]] if base is not None and base.kind in _GGUF else set(_GGUF.values())
    layers = max(numbers, default=0) + 1
    maps = [gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind), layers) for kind in kinds]
    found = []
    for path in shipped.paths():
        if not any(table.get_name(path + ".weight", (".weight",)) for table in maps):
            found.append(_refused(f"{path} has no name in GGUF", _RETRAIN))
        if path.endswith("lm_head") and base is not None and base.tied:
            what = "lm_head has a branch and the base ties it to its embedding: the converter stops"
            found.append(_refused(what, _RETRAIN))
    return _shortened(found)


def _shortened(found: list[Finding], most: int = 4) -> list[Finding]:
    if len(found) <= most + 1:
        return found
    last = found[most]
    more = Finding(effect=last.effect, what=f"and {len(found) - most} more such", cure=last.cure)
    return [*found[:most], more]


def _by_pattern(table: Mapping[str, Any] | None, path: str, otherwise: Any) -> Any:
    """Return a pattern's value for a module as PEFT finds it: regular expressions, first match."""
    for key, value in (table or {}).items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return otherwise


def _targeted(config: Mapping[str, Any], path: str) -> bool:
    targets = config.get("target_modules") or ()
    if config.get("target_parameters"):
        return True
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, path) is not None
    return any(path == target or path.endswith("." + target) for target in targets)
