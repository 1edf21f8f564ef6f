"""From a GGUF file to a folder that loads in a second: safetensors, tokenizer, config.

transformers reads GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) and this module
puts right what gets lost on the way:

- single-precision settings come back as the decimals they were (9.9999997e-06 is 1e-05);
- vocabularies that were learnt with every digit on its own (SmolLM, StarCoder, ...) get that rule
  back; without it a blank line before a digit encodes to tokens never seen together;
- a vocabulary whose splitting rule is unknown here is refused, not guessed;
- a tensor that is missing is an error, not a random initialisation.

Weights stay in single precision, so the copy is bit for bit what the file says.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.errors import ModelError
from sapwood.models.silence import silence

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1  # raise it when the output changes: a new number gives the copies new folders

# `tokenizer.ggml.pre` of byte-level vocabularies. The rules are those of llama.cpp
# (src/llama-vocab.cpp), which is what the writers of these files test against.
DIGITS_APART = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
PLAIN_GPT2 = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"})


def convert_gguf(file: Path, to: Path) -> None:
    """Write the weights, tokenizer and config of a GGUF `file` into the existing folder `to`.

    Raises ModelError: E-MODEL-010 not a readable GGUF file, E-MODEL-011 an architecture or a
    vocabulary that cannot be converted exactly, E-MODEL-012 tensors missing.
    """
    from safetensors.torch import save_file

    rule = _splitting_rule(_open(file))
    with silence():
        config = _config(file)
        tensors = _tensors(file, config)
        tokenizer = _tokenizer(file, rule)
        tokenizer.model_max_length = config.max_position_embeddings
        config.save_pretrained(to)
        tokenizer.save_pretrained(to)
    weights = to / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors makes it private; the cache may be shared


def _open(file: Path) -> Any:
    """Return a reader of a GGUF file that holds all the bytes its header promises."""
    from gguf import GGUFReader

    with file.open("rb") as opened:
        magic = opened.read(4)
    if magic != b"GGUF":
        raise ModelError(
            "E-MODEL-010",
            f"{file} is not a GGUF file: it starts with {magic!r}",
            fix="download it again, or name a folder with config.json and *.safetensors",
        )
    try:
        return GGUFReader(str(file))
    except (ValueError, IndexError, KeyError, OSError, OverflowError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            "E-MODEL-010",
            f"{file} cannot be read as GGUF, it looks damaged or cut short: {reason}",
            fix="download it again and compare its size and SHA-256 with the source's",
        ) from error


def _config(file: Path) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
    except (ValueError, KeyError) as error:
        raise _unsupported(file, str(error)) from error
    for name, value in list(vars(config).items()):
        if isinstance(value, float) and name.endswith("_eps"):
            setattr(config, name, float(f"{value:.7g}"))
    config.architectures = None
    return config


def _tensors(file: Path, config: Any) -> dict[str, Tensor]:
    """Return every tensor of the network by its transformers name, dequantised to float32."""
    import torch

    auto: Any = import_module("transformers").AutoModelForCausalLM
    try:
        reader: Any = import_module("transformers.modeling_gguf_pytorch_utils")
        load_gguf_checkpoint = reader.load_gguf_checkpoint
    except (ImportError, AttributeError) as error:
        raise ModelError(
            "E-MODEL-011",
            "The installed transformers cannot read GGUF files the way Sapwood asks it to",
            fix="pip install 'transformers==5.23.*'",
        ) from error
    with torch.device("meta"):
        try:
            skeleton = auto.from_config(config)
        except ValueError as error:
            raise _unsupported(file, str(error)) from error
    config.architectures = [type(skeleton).__name__]
    try:
        tensors = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=skeleton)
    except (ValueError, NotImplementedError) as error:
        raise _unsupported(file, str(error)) from error
    found: dict[str, Tensor] = {
        name: tensor.float().contiguous() for name, tensor in tensors["tensors"].items()
    }
    tied = set(skeleton.all_tied_weights_keys) if config.tie_word_embeddings else set()
    wanted = {n: tuple(p.shape) for n, p in skeleton.named_parameters() if n not in tied}
    wrong = [
        f"{name}: shape {list(shape)} wanted, {_shape(found.get(name))}"
        for name, shape in wanted.items()
        if name not in found or tuple(found[name].shape) != shape
    ]
    if wrong:
        more = [f"and {len(wrong) - 5} more"] if len(wrong) > 5 else []
        raise ModelError(
            "E-MODEL-012",
            f"{file} is not the whole network: {len(wrong)} tensors are missing or misshapen",
            details=[*wrong[:5], *more],
            fix="download the file again; if it is complete, its architecture is not supported",
        )
    return {name: found[name] for name in wanted}


def _shape(tensor: Tensor | None) -> str:
    return "none found" if tensor is None else f"{list(tensor.shape)} found"


def _tokenizer(file: Path, rule: str) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except (ValueError, KeyError) as error:
        raise _unsupported(file, str(error)) from error
    backend = tokenizer.backend_tokenizer
    if rule in DIGITS_APART:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    elif isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel) and rule not in PLAIN_GPT2:
        raise _unsupported(file, f"its vocabulary splits text by the rule '{rule}', unknown here")
    return tokenizer


def _splitting_rule(reader: Any) -> str:
    """Return `tokenizer.ggml.pre`, or "default" where the file does not say."""
    field = reader.get_field("tokenizer.ggml.pre")
    return "default" if field is None else str(field.contents())


def _unsupported(file: Path, why: str) -> ModelError:
    return ModelError(
        "E-MODEL-011",
        f"{file} cannot be converted exactly: {(why or 'unknown').splitlines()[0]}",
        fix="use the original checkpoint: a hub id, or a folder with *.safetensors",
    )
