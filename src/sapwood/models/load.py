"""From a name to a frozen net with its tokenizer, wherever the base comes from.

A base is a name of the store, a hub id, a folder or a .gguf file. Every way a checkpoint can be
unusable is found before transformers is asked, and said in one sentence: transformers itself
would start from random weights, run remote code, or unpickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sapwood.errors import ModelError, ResourceError
from sapwood.launch import Runtime, give_back_memory
from sapwood.models.masked import has_head
from sapwood.models.silence import silence
from sapwood.models.store import BASES, MANIFEST, pull, pull_gguf
from sapwood.models.weights import read_tensors, weights_hash
from sapwood.registry import did_you_mean

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TEXT_TO_TEXT = ("t5",)
NOT_YET = ("t5",)  # without its decoder
EAGER = ("t5", "xlnet")  # kinds without another attention in transformers
SINGLE = ("xlnet",)  # its attention multiplies float32 masks and positions with what it is given
LOADERS = {
    "decoder": "AutoModelForCausalLM",
    "encoder": "AutoModel",
    "text-to-text": "AutoModelForSeq2SeqLM",
}
WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*")


@dataclass(frozen=True, kw_only=True)
class BaseFiles:
    """A checkpoint on this disk: the `name` that was asked for, its `folder`, and what is known.

    `kind` is "decoder", "encoder" or "text-to-text"; `licence` and `upstream` are empty where
    nothing says.
    """

    name: str
    folder: Path
    kind: str
    licence: str = ""
    upstream: str = ""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A frozen base in memory: `net` in evaluation mode on the runtime's device, no gradients.

    `sha256` identifies the weights (see weights_hash), and the format they are kept in where that
    is not the runtime's number format; `max_length` is in tokens; `masked`: an encoder's head for
    masked language modelling, from states to logits, where the checkpoint has one known here.
    """

    name: str
    folder: Path
    net: Any
    tokenizer: Any
    kind: str
    sha256: str
    licence: str
    runtime: Runtime
    model_type: str
    max_length: int
    upstream: str = ""
    masked: Any = None


def resolve_base(name: str, *, trust_remote_code: str = "") -> BaseFiles:
    """Return the files of a base: a store name, a hub id, a folder or a .gguf file.

    A store name that is not here yet is pulled; a hub id is taken from the hub's cache, or
    downloaded unless HF_HUB_OFFLINE is set. Raises ModelError (E-MODEL-003 to -009, and those of
    the store) and ResourceError (E-RESOURCE-013 the hub cannot be reached).
    """
    path = Path(name).expanduser()
    if name in BASES:
        files = _described(name, pull(name))
    elif path.suffix == ".gguf" and path.is_file():
        files = _described(name, pull_gguf(path))
    elif path.is_dir():
        files = _described(name, path.resolve())
    elif _is_hub_id(name):
        files = _described(name, _hub_folder(name))
    else:
        raise _unknown(name)
    check_files(files, trust_remote_code=trust_remote_code)
    return files


def load_base(name: str, runtime: Runtime, *, trust_remote_code: str = "") -> Base:
    """Load a base frozen, in evaluation mode, on the runtime's device and in its number format.

    A decoder's matrices are packed if the runtime says so (see quantised.py).

    Nothing in a checkpoint is executed unless `trust_remote_code` is exactly `name`. Raises what
    `resolve_base` raises, and ModelError (E-MODEL-008) when weights and config do not belong
    together.
    """
    transformers: Any = import_module("transformers")
    files = resolve_base(name, trust_remote_code=trust_remote_code)
    remote = trust_remote_code == name
    config = _known_config(files.folder)
    masked = files.kind == "encoder" and has_head(config)
    loader = getattr(transformers, "AutoModelForMaskedLM" if masked else LOADERS[files.kind])
    folder = str(files.folder)
    try:
        with silence():
            net, notes = loader.from_pretrained(
                folder,
                dtype="float32" if config.get("model_type") in SINGLE else runtime.torch_dtype(),
                attn_implementation="eager" if config.get("model_type") in EAGER else "sdpa",
                trust_remote_code=remote,
                local_files_only=True,
                output_loading_info=True,
                use_safetensors=True,
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=remote, local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
        raise _mismatch(files, [_first_line(error)]) from error
    _require_all_weights(files, notes)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    net.requires_grad_(False)
    net, sha256 = net.to(runtime.device).eval(), weights_hash(files.folder)
    net, head = (net.base_model, net.cls) if masked else (net, None)
    if runtime.weights != "full" and files.kind == "decoder":
        from sapwood.models.quantised import format_hash, quantise

        quantise(net, runtime.weights)
        sha256 = format_hash(sha256, runtime.weights)
        give_back_memory()
    return Base(
        name=name,
        folder=files.folder,
        net=net,
        tokenizer=tokenizer,
        kind=files.kind,
        sha256=sha256,
        licence=files.licence,
        runtime=runtime,
        model_type=str(net.config.model_type),
        max_length=_max_length(files.folder, net.config, tokenizer),
        upstream=files.upstream,
        masked=head,
    )


def check_files(files: BaseFiles, *, trust_remote_code: str = "") -> None:
    """Raise a ModelError that says why a checkpoint cannot be used; return if nothing is wrong.

    E-MODEL-004 weights missing or pickled, E-MODEL-005 damaged, E-MODEL-006 no tokenizer,
    E-MODEL-007 needs remote code that was not asked for.
    """
    config = _read_config(files.folder)
    weights = sorted(files.folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(p.name for pattern in PICKLES for p in files.folder.glob(pattern))
        why = (
            f"only pickled weights ({', '.join(pickles[:3])}), and a pickle can run any code"
            if pickles
            else "no *.safetensors"
        )
        fix = (
            "take the checkpoint's safetensors version (many hub models have one in a pull "
            "request), or save it once with net.save_pretrained(..., safe_serialization=True)"
        )
        raise ModelError("E-MODEL-004", f"{files.folder} has {why}", fix=fix)
    present = set().union(*(read_tensors(path) for path in weights))
    lost = sorted(_indexed(files.folder) - present)
    if lost:
        raise ModelError(
            "E-MODEL-005",
            f"{files.folder} lacks {len(lost)} of the tensors its index names, such as {lost[0]}",
            fix="download the missing *.safetensors files",
        )
    if not any((files.folder / known).is_file() for known in TOKENIZERS):
        raise ModelError(
            "E-MODEL-006",
            f"{files.folder} has no tokenizer",
            details=[f"looked for {', '.join(TOKENIZERS)}"],
            fix="copy the tokenizer files of the model it was trained from into the folder",
        )
    if config.get("auto_map") and trust_remote_code != files.name and not _known(config):
        raise ModelError(
            "E-MODEL-007",
            f"'{files.name}' only loads by running Python code that comes with the checkpoint",
            fix=f"read that code; then pass --trust-remote-code {files.name}",
        )


def _described(name: str, folder: Path) -> BaseFiles:
    """Return what the manifest and the config say about a checkpoint."""
    config = _read_config(folder)
    manifest = _read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    return BaseFiles(
        name=name,
        folder=folder,
        kind=str(manifest.get("kind") or _kind(name, config)),
        licence=str(manifest.get("licence") or _card_licence(folder)),
        upstream=str(manifest.get("upstream") or ("" if Path(name).exists() else name)),
    )


def _kind(name: str, config: Mapping[str, Any]) -> str:
    from transformers.models.auto import modeling_auto as auto

    model_type = config.get("model_type", "")
    made_for = " ".join(config.get("architectures") or ())
    writes = config.get("is_encoder_decoder") or "ForConditionalGeneration" in made_for
    if model_type == "sapwood_ngram":
        raise ModelError(
            "E-MODEL-009",
            f"'{name}' is an n-gram model: it has no layers that could be adapted",
            fix="sapwood eval, compare and chat take it; adapt a net",
        )
    if model_type in TEXT_TO_TEXT and writes:
        return "text-to-text"
    # transformers would load a T5 without its decoder, and fail later with other words
    if config.get("is_encoder_decoder") or model_type in NOT_YET:
        raise ModelError(
            "E-MODEL-009",
            f"'{name}' is of the kind '{model_type}', which Sapwood does not adapt yet",
            fix=f"use a decoder or an encoder, such as {' or '.join(BASES)}",
        )
    if model_type == "xlnet":  # its two streams write one token at a time; read, it is an encoder
        return "encoder"
    if "ForCausalLM" in made_for or "LMHead" in made_for:
        return "decoder"
    if model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    if model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "CausalLM" in str(
        config.get("auto_map")
    ):
        return "decoder"
    raise ModelError(
        "E-MODEL-009",
        f"'{name}' is of the kind '{model_type or 'unknown'}', neither a decoder nor an encoder",
        fix=f"use a text model, such as {' or '.join(BASES)}",
    )


def _known(config: Mapping[str, Any]) -> bool:
    """Tell whether transformers has this kind itself, so that remote code is not needed."""
    from transformers import CONFIG_MAPPING

    return config.get("model_type") in CONFIG_MAPPING


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise ModelError(
            "E-MODEL-003",
            f"{folder} has no config.json" + (", it is an adapter" if adapter else ""),
            fix="name the base it was trained on" if adapter else "name a complete checkpoint",
        )
    return _read_json(folder / "config.json")


def _known_config(folder: Path) -> dict[str, Any]:
    """Return a config, of a kind that transformers then knows even if it is Sapwood's own."""
    config = _read_config(folder)
    if config.get("model_type") == "sapwood_rnn":
        import_module("sapwood.models.rnn").register()
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            "E-MODEL-003", f"{path} is not JSON: {error}", fix="download the file again"
        ) from error
    if not isinstance(content, dict):
        raise ModelError("E-MODEL-003", f"{path} is not a JSON object", fix="download it again")
    return content


def _indexed(folder: Path) -> set[str]:
    index = folder / "model.safetensors.index.json"
    return set(_read_json(index).get("weight_map", {})) if index.is_file() else set()


def _card_licence(folder: Path) -> str:
    """Return the licence named in a model card's front matter, or an empty string."""
    import re

    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    found = re.search(r"^license:\s*(\S+)", front, re.MULTILINE)
    return found.group(1) if found else ""


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith(".gguf"):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _hub_folder(name: str) -> Path:
    """Return the snapshot of a hub model: the cached one if whole, else a download."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
        check_files(BaseFiles(name=name, folder=cached, kind=""), trust_remote_code=name)
        return cached  # whole: no need to ask the hub, and the same weights as last time
    except (LocalEntryNotFoundError, ModelError):
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except GatedRepoError as error:
        raise ModelError(
            "E-MODEL-001",
            f"'{name}' asks you to accept its terms first",
            fix=f"accept them at https://huggingface.co/{name}, then run: hf auth login",
        ) from error
    except RepositoryNotFoundError as error:
        raise _unknown(name) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
        why = "HF_HUB_OFFLINE is set" if offline else _first_line(error)
        raise ResourceError(
            "E-RESOURCE-013",
            f"'{name}' is not in the hub's cache and cannot be downloaded: {why}",
            fix=f"go online, name a local folder, or use one of the store: {', '.join(BASES)}",
        ) from error


def _unknown(name: str) -> ModelError:
    path = Path(name).expanduser()
    looks_like_path = name.startswith((".", "/", "~")) or path.suffix == ".gguf"
    what = f"There is no folder or file '{path}'" if looks_like_path else f"Unknown base '{name}'"
    return ModelError(
        "E-MODEL-001",
        f"{what}.{did_you_mean(name, BASES)}",
        fix=f"use {', '.join(BASES)}, a hub id (owner/name), a folder or a .gguf file",
    )


def _require_all_weights(files: BaseFiles, notes: Mapping[str, Any]) -> None:
    """Refuse a net that would start with random weights; a pooler nobody reads may be absent."""
    lost = sorted(n for n in notes.get("missing_keys", ()) if not n.startswith("pooler."))
    bad = sorted(str(m) for m in notes.get("mismatched_keys", ()))
    if lost or bad:
        raise _mismatch(
            files, [*(f"missing: {n}" for n in lost), *(f"misshapen: {m}" for m in bad)]
        )


def _mismatch(files: BaseFiles, problems: list[str]) -> ModelError:
    more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
    return ModelError(
        "E-MODEL-008",
        f"The weights in {files.folder} do not load as its config.json says",
        details=[*problems[:5], *more],
        fix="download the checkpoint again, all its files from one revision",
    )


def _max_length(folder: Path, config: Any, tokenizer: Any) -> int:
    """Return the least of the limits the checkpoint states, in tokens."""
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    sentences = folder / "sentence_bert_config.json"
    if sentences.is_file():
        limits.append(_read_json(sentences).get("max_seq_length"))
    stated = [int(n) for n in limits if n and 0 < int(n) < 1 << 31]  # XLNet says -1
    return min(stated, default=512)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
