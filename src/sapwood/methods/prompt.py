"""Prompt tuning: trained virtual tokens among the input (Lester et al. 2021, arXiv 2104.08691).

Virtual tokens have token ids, the first ones after the base's vocabulary: wherever those ids stand,
the input embedding answers with trained rows. So a prompt is a few ids put in front, and packing,
encoded contexts and encoders need to know nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.lora import freeze
from sapwood.methods.parts import Guest, Method, Part, innermost
from sapwood.registry import did_you_mean

STARTS = ("vocabulary", "text", "random")
TABLE = "virtual_tokens"  # what it is called in the net; `models.prefixes` asks for it by this name
_TENSOR = "prompt_embeddings"


@dataclass(frozen=True, kw_only=True)
class Prompt(Method):
    """A prompt's whole configuration.

    `tokens` >= 1: how many virtual tokens; `start`: their first embeddings, "vocabulary" (those of
    real tokens drawn at random), "text" (those of `text_ids`, repeated or cut to `tokens`; a search
    puts in the words of its task where they are left out) or "random" (normal, as wide as real
    ones).
    """

    name: ClassVar[str] = "prompt"
    tokens: int = 20
    start: str = "vocabulary"
    text_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_start("prompt", self.tokens, self.start, self.text_ids, STARTS)

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`. Raises ConfigError (E-CONFIG-026) when the net has virtual tokens."""
        rows = first_rows(net, self.tokens, self.start, self.text_ids, seed)
        return seat_table(net, Table(net, rows))

    def describe(self) -> str:
        """Return it in words for the report."""
        return f"prompt of {self.tokens} virtual tokens"

    def kept(self) -> Prompt:
        """Return the configuration of what is stored: the trained rows say where they start."""
        return replace(self, start="random", text_ids=())


def check_start(
    name: str, tokens: int, start: str, text_ids: Sequence[int], known: Sequence[str]
) -> None:
    """Raise ConfigError (E-CONFIG-020) for settings outside their ranges, all at once."""
    problems = []
    if tokens < 1:
        problems.append(f"tokens must be 1 or more, got {tokens}")
    if start not in known:
        problems.append(f"start '{start}' is unknown.{did_you_mean(start, known)}")
    if text_ids and start != "text":
        problems.append("text_ids go together with start 'text'")
    if any(token < 0 for token in text_ids):
        problems.append("text_ids must be token ids, 0 or more")
    if problems:
        raise ConfigError("E-CONFIG-020", f"The {name} is wrong.", details=problems)


def repeated(ids: Sequence[int], length: int) -> list[int]:
    """Return `ids` repeated or cut to `length`; ConfigError (E-CONFIG-020) when there are none.

    >>> repeated((5, 6, 7), 5)
    [5, 6, 7, 5, 6]
    """
    if not ids:
        raise ConfigError(
            "E-CONFIG-020",
            "Nothing says which text to start from.",
            fix="give its token ids as text_ids; 'sapwood tune' takes the words of the task",
        )
    return [ids[n % len(ids)] for n in range(length)]


def drawn_ids(net: Any, tokens: int, seed: int) -> list[int]:
    """Return `tokens` ids drawn from the base's vocabulary; `seed` alone decides."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary(net), (tokens,), generator=generator).tolist()


def vocabulary(net: Any) -> int:
    """Return how many tokens the base has an embedding for."""
    weight: Any = innermost(net.get_input_embeddings()).weight
    return int(weight.shape[0])


@torch.no_grad()
def first_rows(net: Any, tokens: int, start: str, text_ids: Sequence[int], seed: int) -> Tensor:
    """Return the embeddings that virtual tokens start from, (tokens, hidden), float32.

    They are what the input embedding gives, with the scale that Gemma's applies.
    """
    ids = repeated(text_ids, tokens) if start == "text" else drawn_ids(net, tokens, seed)
    if max(ids) >= vocabulary(net):
        raise ConfigError(
            "E-CONFIG-020",
            f"The token id {max(ids)} to start from is not in the base's vocabulary of "
            f"{vocabulary(net):,}.",
        )
    embedding = net.get_input_embeddings()
    rows: Tensor = embedding(torch.tensor(ids, device=embedding.weight.device)).float()
    if start != "random":
        return rows.clone()
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows.shape, generator=generator).to(rows.device) * rows.std()


class VirtualTokens(Guest):
    """Virtual tokens of a net: `table` (tokens, hidden) and the ids that stand for its rows."""

    def __init__(self, net: Any, tokens: int) -> None:
        super().__init__(net)
        first = vocabulary(net)
        self.ids = tuple(range(first, first + tokens))

    def extra_repr(self) -> str:
        """Return what changes the output besides the trained tensors."""
        return f"ids={self.ids[0]}..{self.ids[-1]}"

    def table(self) -> Tensor:
        """Return the embeddings, (tokens, hidden), float32, made of what is trained."""
        raise NotImplementedError

    def stored(self) -> dict[str, Tensor]:
        """Return the final embeddings, whatever made them."""
        return {_TENSOR: self.table()}


class Table(VirtualTokens):
    """Virtual tokens whose embeddings are trained themselves: `prompt_embeddings`."""

    def __init__(self, net: Any, rows: Tensor) -> None:
        super().__init__(net, len(rows))
        self.prompt_embeddings = nn.Parameter(rows)

    def table(self) -> Tensor:
        """Return the embeddings, (tokens, hidden), float32."""
        return self.prompt_embeddings


class Lookup(Part):
    """The input embedding of a net that has virtual tokens; it trains nothing itself."""

    def __init__(self, layer: nn.Module, tokens: VirtualTokens, net: Any) -> None:
        super().__init__(layer)
        # In lists: torch must not take them for modules of this one. A T5 reads one table through
        # several modules, each of which comes back to its own place.
        self._tokens = [tokens]
        table = innermost(layer).weight
        self._places = [
            (path, module)
            for path, module in net.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Embedding) and module.weight is table
        ]

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids (...) to embeddings (..., hidden)."""
        tokens = self._tokens[0]
        virtual = ids >= tokens.ids[0]
        if not (self.active and bool(virtual.any())):
            return self.base_layer(ids)  # type: ignore[no-any-return]
        out: Tensor = self.base_layer(ids.masked_fill(virtual, 0))
        rows = tokens.table()[ids[virtual] - tokens.ids[0]]
        return out.index_put((virtual,), rows.to(out.dtype))

    def remove(self, net: Any, path: str) -> None:
        """Put the base's embedding back, wherever the net reads it."""
        super().remove(net, path)
        for place, module in self._places:
            if net.get_submodule(place) is self:
                net.set_submodule(place, module)


def seat_table(net: Any, tokens: VirtualTokens) -> Any:
    """Freeze the base of `net`, give it these virtual tokens and return it.

    Raises ConfigError (E-CONFIG-026) when it has some already: their ids would be the same.
    """
    if hasattr(net, TABLE):
        raise ConfigError(
            "E-CONFIG-026",
            "This net has virtual tokens already.",
            fix="use one prompt method, with more tokens",
        )
    freeze(net)
    net.add_module(TABLE, tokens)
    layer = Lookup(net.get_input_embeddings(), tokens, net)
    net.set_input_embeddings(layer)
    return net


def virtual_ids(net: Any) -> tuple[int, ...]:
    """Return the ids of the net's virtual tokens, to be put in front; empty without any.

    Empty, too, while the parts of the net are disabled.
    """
    found = getattr(net, TABLE, None)
    return found.ids if isinstance(found, VirtualTokens) and found.active else ()


def to_peft(
    method: Method, tensors: Mapping[str, Tensor], *, task: str = "CAUSAL_LM"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return PEFT's (configuration, tensors) of a stored prompt.

    `tensors`: what `parts.stored` returned; `task`: PEFT's name of what the base does, such as
    FEATURE_EXTRACTION for encoders. The encoder of p-tuning is not in it, as in PEFT.
    """
    (rows,) = tensors.values()
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": task,
        "inference_mode": True,
        "num_virtual_tokens": len(rows),
        "token_dim": rows.shape[1],
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }
    return config, {_TENSOR: rows.detach().float().cpu().contiguous()}


def from_peft(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[Prompt, dict[str, Tensor]]:
    """Return (method, tensors by path) of a PEFT folder of PROMPT_TUNING or P_TUNING.

    Raises ModelError: E-MODEL-022 it is another method or has rows for a decoder, too,
    E-MODEL-028 the tensor is not the one that the configuration describes.
    """
    kind, tokens = config.get("peft_type"), config.get("num_virtual_tokens")
    problems = []
    if kind not in ("PROMPT_TUNING", "P_TUNING"):
        problems.append(f"peft_type is {kind!r}, not PROMPT_TUNING or P_TUNING")
    if not isinstance(tokens, int) or tokens < 1:
        problems.append(f"num_virtual_tokens is {tokens!r}, not a size")
    if config.get("num_transformer_submodules", 1) not in (1, None):
        problems.append("it has virtual tokens for a decoder, too; Sapwood puts them in one input")
    if config.get("modules_to_save"):
        problems.append(f"modules_to_save = {config['modules_to_save']!r} is not supported")
    if problems:
        raise ModelError("E-MODEL-022", "The prompt cannot be loaded exactly.", details=problems)
    assert isinstance(tokens, int)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    shape = found.get(_TENSOR, ())
    width = config.get("token_dim") or (shape[1] if len(shape) == 2 else 0)
    if found != {_TENSOR: (tokens, width)}:
        raise ModelError(
            "E-MODEL-028",
            "The tensors are not the prompt that the configuration describes.",
            details=[
                f"expected {_TENSOR} of {tokens} rows, {width} wide",
                *(f"found {name} of shape {size}" for name, size in list(found.items())[:4]),
            ],
            fix="copy the whole folder again",
        )
    method = Prompt(tokens=tokens, start="random")
    return method, {f"{TABLE}.{_TENSOR}": tensors[_TENSOR]}
