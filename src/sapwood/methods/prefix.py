"""Prefixes as an adaptation keeps them: keys and values of every layer before a prompt's tokens.

A prefix that was trained (see `prefix_tuning`) and an encoded context are one thing, so either
becomes the other; it is kept in PEFT's PREFIX_TUNING layout: adapter_config.json and one tensor,
`prompt_embeddings`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.keys_values import (
    PEFT_NAME,
    KeysValues,
    check_fits,
    check_peft_config,
    expected_shape,
    from_peft_tensors,
    peft_config,
    split_layers,
    stack_layers,
)
from sapwood.methods.peft_folder import CONFIG, TENSORS, read_tensors

__all__ = [
    "KeysValues",
    "StoredPrefix",
    "check_fits",
    "expected_shape",
    "read_prefix",
    "split_layers",
    "stack_layers",
    "to_stored",
    "write_prefix",
]


@dataclass(frozen=True, kw_only=True)
class StoredPrefix:
    """The prefix of an adaptation; it takes the place of the context's text.

    `tensor`: (tokens, 2 x layers, key heads, head size): keys of layer 0, values of layer 0, keys
    of layer 1, ...; keys carry the rotary positions 0 to tokens - 1, so that a query starts at
    position `tokens`. `origin`: what it started from, in words; `trained`: whether it was changed
    since.
    """

    tensor: Tensor
    origin: str
    trained: bool

    @property
    def tokens(self) -> int:
        """Return how many positions it takes."""
        return len(self.tensor)

    def describe(self) -> str:
        """Return it in words for the report."""
        state = ", trained" if self.trained else ""
        return f"{self.tokens} tokens, from {self.origin}{state}"

    def layers(self, dtype: torch.dtype, device: torch.device) -> tuple[KeysValues, ...]:
        """Return keys and values of each layer, on the base's device and in its number format."""
        return split_layers(self.tensor, dtype, device)


def to_stored(
    layers: Sequence[KeysValues], *, origin: str, positions: Tensor | None = None
) -> StoredPrefix:
    """Return what the rows of a trained net follow as the prefix that its adaptation keeps.

    `layers`, `positions`: those of `models.decoder.behind`, which joins an encoded context and the
    trained prefix after it: both are stored, as they are, in the base's number format. Raises
    ConfigError (E-CONFIG-029) for a context encoded in blocks, whose tokens share positions.
    """
    if positions is not None:
        raise ConfigError(
            "E-CONFIG-029",
            "A prefix trained behind a context that is encoded in blocks cannot be stored: rows "
            "would not begin where it ends.",
            fix="encode the context whole (exact)",
        )
    tensor = stack_layers([(key.detach(), value.detach()) for key, value in layers])
    return StoredPrefix(tensor=tensor.cpu(), origin=origin, trained=True)


def write_prefix(tensor: Tensor, folder: Path, *, base: str) -> None:
    """Write a prefix into `folder`, loadable by ``peft.PeftModel.from_pretrained``.

    `base`: the name PEFT should show. The number format of `tensor` is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {**peft_config(tensor, task="CAUSAL_LM"), "base_model_name_or_path": base}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    stored = {PEFT_NAME: tensor.detach().cpu().reshape(len(tensor), -1).contiguous()}
    save_file(stored, folder / TENSORS, metadata={"format": "pt"})


def read_prefix(folder: Path) -> Tensor:
    """Return the prefix of a PEFT folder, (tokens, 2 x layers, key heads, head size).

    Raises ModelError: E-MODEL-020 no configuration, 021 not JSON, 022 it is not a prefix or lacks
    a size, 024 to 026 no tensors, corrupt or not finite, 028 the tensor has another shape than
    the configuration says.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError("E-MODEL-020", f"{path} is missing: this is no PEFT adapter.") from None
    except ValueError as error:
        raise ModelError("E-MODEL-021", f"{path} is not valid JSON: {error}.") from None
    check_peft_config(config, str(path))
    return from_peft_tensors(config, read_tensors(folder / TENSORS), str(folder / TENSORS))
