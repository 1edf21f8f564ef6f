"""Prefix-Tuning: trained keys and values of every layer (Li & Liang 2021, arXiv 2101.00190).

A trained prefix stands right before the rows, after an encoded context where there is one; the
context's own encoding never sees it. Its keys are kept as they are used without a context, at
positions 0, 1, 2, ...; behind a context of length C they are turned on by C positions, so rows see
the prefix at the same distances whatever stands before it. `models.decoder.behind` is where rows
get it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.keys_values import (
    CACHES,
    PEFT_NAME,
    KeysValues,
    cache_name,
    check_fits,
    expected_shape,
    from_peft_tensors,
    peft_config,
    split_layers,
    stack_layers,
    turned,
)
from sapwood.methods.lora import freeze
from sapwood.methods.parts import Guest, Method, disabled
from sapwood.methods.places import kind_of
from sapwood.methods.prompt import check_start, drawn_ids, repeated, vocabulary

STARTS = ("vocabulary", "text", "context", "random")
PREFIX = "trained_prefix"  # its name in the net; `models.prefixes` asks for it by this name
KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2", "bert")
_REFUSED = {
    "t5": "its encoder and its decoder would each need one, and a cache to bring it in; the "
    "encoder has none",
    "xlnet": "its attention reads a memory of states, one for all layers' keys and values, not "
    "keys and values",
}
# Keys and values near zero hardly change the base at first. Drawn with deviation 1 a prefix ended
# at less than half the accuracy of one from a text's in PEFT's own comparison (18.6 and 41.6 %).
_WIDTH = 0.02


@dataclass(frozen=True, kw_only=True)
class Prefix(Method):
    """A trained prefix's whole configuration.

    `tokens` >= 1: how many positions; `start`: the first keys and values, those that the base
    computes for real tokens drawn at random ("vocabulary") or for `text_ids`, repeated or cut to
    `tokens` ("text"); those of an encoded context, put in by `start_from` ("context"); or "random".
    `width` > 0: a small net of this width makes them while it trains (from "random" alone); it is
    kept in checkpoints, an adaptation keeps what it makes.
    """

    name: ClassVar[str] = "prefix"
    tokens: int = 20
    start: str = "vocabulary"
    width: int = 0
    text_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_start("prefix", self.tokens, self.start, self.text_ids, STARTS)
        if self.width < 0 or (self.width and self.start != "random"):
            raise ConfigError(
                "E-CONFIG-020",
                f"A prefix of width {self.width} cannot start from '{self.start}'.",
                details=["width must be 0 or more; a net that makes the prefix starts at random"],
                fix="set start='random', or width=0",
            )

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`. Raises ConfigError: E-CONFIG-022 this kind of net has no place for a
        prefix, E-CONFIG-027 the net has one already.
        """
        _check_kind(net)
        if hasattr(net, PREFIX):
            raise ConfigError(
                "E-CONFIG-027", "This net has a trained prefix already.", fix="use one, longer"
            )
        freeze(net)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = self._made(net, seed)
        made.train(net.training)
        net.add_module(PREFIX, made)
        made.hook = net.register_forward_pre_hook(_brought_along, with_kwargs=True)
        return net

    def _made(self, net: Any, seed: int) -> TrainedPrefix:
        shape = (self.tokens, *expected_shape(net.config))
        device = net.get_input_embeddings().weight.device
        if self.width:
            return Reparameterised(net, shape, self.width, device)
        if self.start == "vocabulary":
            return Direct(net, encoded(net, drawn_ids(net, self.tokens, seed)))
        if self.start == "text":
            return Direct(net, encoded(net, repeated(self.text_ids, self.tokens)))
        return Direct(net, torch.randn(shape).to(device) * _WIDTH)

    def describe(self) -> str:
        """Return it in words for the report."""
        made = f", made by a net of width {self.width}" if self.width else ""
        return f"prefix of {self.tokens} tokens{made}"  # what is kept no longer says its start

    def kept(self) -> Prefix:
        """Return the configuration of what is stored: plain keys and values, wherever from."""
        return replace(self, start="random", width=0, text_ids=())


def _check_kind(net: Any) -> None:
    kind = kind_of(net)
    if kind not in KINDS:
        why = _REFUSED.get(kind, f"it is known for {', '.join(KINDS)}")
        raise ConfigError(
            "E-CONFIG-022",
            f"A net of the '{kind}' kind cannot have a trained prefix: {why}.",
            fix="train a prompt instead (method 'prompt')",
        )


@torch.no_grad()
def encoded(net: Any, ids: list[int]) -> Tensor:
    """Return the base's own keys and values of `ids`, (tokens, 2 x layers, key heads, size).

    Float32, at positions 0, 1, 2, ... Methods attached to `net` do not act.
    """
    if max(ids) >= vocabulary(net):
        raise ConfigError(
            "E-CONFIG-020",
            f"The token id {max(ids)} to start from is not in the base's vocabulary of "
            f"{vocabulary(net):,}.",
        )
    kept = DynamicCache()  # without the configuration: a window would drop the oldest keys
    device = net.get_input_embeddings().weight.device
    training = net.training
    net.eval()
    try:
        with disabled(net):
            given = {cache_name(net): kept, "use_cache": True}
            net(input_ids=torch.tensor([ids], device=device), **given)
    finally:
        net.train(training)
    cached: Any = kept.layers
    return stack_layers([(layer.keys, layer.values) for layer in cached]).float()


class TrainedPrefix(Guest):
    """A trained prefix of a net: `table` (tokens, 2 x layers, key heads, head size), float32."""

    hook: Any = None

    @property
    def tokens(self) -> int:
        """Return how many positions it takes."""
        raise NotImplementedError

    def table(self) -> Tensor:
        """Return keys and values at positions 0, 1, 2, ..., made of what is trained."""
        raise NotImplementedError

    def stored(self) -> dict[str, Tensor]:
        """Return the final keys and values, whatever made them."""
        return {PEFT_NAME: self.table()}

    def layers(self, net: Any, start: int = 0) -> tuple[KeysValues, ...]:
        """Return keys and values of each layer in the net's number format, with gradients.

        `start`: the position of the first one.
        """
        whole = turned(self.table(), net, start)
        return split_layers(whole, net.dtype, whole.device)

    def remove(self, net: Any, path: str) -> None:
        """Leave the net."""
        self.hook.remove()
        super().remove(net, path)


class Direct(TrainedPrefix):
    """Keys and values that are trained themselves: `prompt_embeddings`."""

    def __init__(self, net: Any, table: Tensor) -> None:
        super().__init__(net)
        check_fits(table, net.config)
        self.prompt_embeddings = nn.Parameter(table)

    @property
    def tokens(self) -> int:
        """Return how many positions it takes."""
        return len(self.prompt_embeddings)

    def table(self) -> Tensor:
        """Return what is trained."""
        return self.prompt_embeddings


class Reparameterised(TrainedPrefix):
    """Keys and values that a net of one hidden layer makes of trained `inputs` (tokens, width)."""

    def __init__(self, net: Any, shape: tuple[int, ...], width: int, device: Any) -> None:
        super().__init__(net)
        tokens, self.shape = shape[0], shape
        numbers = shape[1] * shape[2] * shape[3]
        self.inputs = nn.Parameter(torch.randn(tokens, width).to(device))
        self.encoder = nn.Sequential(
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, numbers)
        ).to(device)

    @property
    def tokens(self) -> int:
        """Return how many positions it takes."""
        return len(self.inputs)

    def table(self) -> Tensor:
        """Return what the net makes."""
        out: Tensor = self.encoder(self.inputs)
        return out.view(self.shape)


@torch.no_grad()
def start_from(net: Any, tensor: Tensor) -> None:
    """Start the attached prefix from a context's keys and values, at positions 0, 1, 2, ...

    `tensor`: (context tokens, 2 x layers, key heads, head size). Of a longer context the first
    token, on which much attention rests (arXiv 2309.17453), and the last ones are kept, moved
    together. Raises ConfigError (E-CONFIG-031) when it is too short or there is no plain prefix,
    ModelError (E-MODEL-027) when it is of another base.
    """
    made = getattr(net, PREFIX, None)
    if not isinstance(made, Direct) or len(tensor) < made.tokens:
        have = f"the context has {len(tensor)} tokens" if isinstance(made, Direct) else ""
        raise ConfigError(
            "E-CONFIG-031",
            "The prefix cannot start from this context.",
            details=[have or "the net has no prefix that is trained itself"],
            fix="attach Prefix(start='context', width=0) with as many tokens as the context or "
            "fewer",
        )
    check_fits(tensor, net.config)
    own = made.prompt_embeddings
    tensor = tensor.to(device=own.device, dtype=own.dtype)
    skipped = len(tensor) - made.tokens
    last = turned(tensor[skipped + 1 :], net, -skipped)
    own.copy_(torch.cat((tensor[:1], last)))


def _brought_along(
    net: Any, given: Any, named: dict[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    """Give a plain call of the net, one without a pack, the prefix as transformers' cache."""
    made: Any = getattr(net, PREFIX, None)
    if made is None or not made.active or "pack" in named:
        return None
    if any(named.get(name) is not None for name in CACHES):
        raise ModelError(
            "E-MODEL-075",
            "A net with a trained prefix was called with a cache of the caller's.",
            fix="generate with sapwood.models.generate",
        )
    if any(getattr(module, "gradient_checkpointing", False) for module in net.modules()):
        raise ModelError(
            "E-MODEL-075",
            "transformers drops caches under gradient checkpointing, so a plain call of this net "
            "would lose its trained prefix.",
            fix="train it through sapwood.training, whose packs keep it: Lean(checkpointing=True)",
        )
    ids = given[0] if given else named.get("input_ids")
    rows = len(named["inputs_embeds"] if ids is None else ids)
    cache = DynamicCache() if kind_of(net) == "bert" else DynamicCache(config=net.config)
    for number, (key, value) in enumerate(made.layers(net)):
        cache.update(key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1), number)
    changed: dict[str, Any] = {cache_name(net): cache, "use_cache": False}
    if (mask := named.get("attention_mask")) is not None:
        changed["attention_mask"] = torch.cat((mask.new_ones(rows, made.tokens), mask), dim=1)
    if (at := named.get("position_ids")) is not None:
        changed["position_ids"] = at + made.tokens
    return given, {**named, **changed}


def to_peft(
    method: Method, tensors: Mapping[str, Tensor], *, task: str = "CAUSAL_LM"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return PEFT's (configuration, tensors) of a stored prefix.

    `tensors`: what `parts.stored` returned; `task`: PEFT's name of what the base does, such as
    FEATURE_EXTRACTION for encoders.
    """
    (tensor,) = tensors.values()
    flat = tensor.detach().float().cpu().reshape(len(tensor), -1)
    return peft_config(tensor, task=task), {PEFT_NAME: flat.contiguous()}


def from_peft(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[Prefix, dict[str, Tensor]]:
    """Return (method, tensors by path) of a PEFT folder of PREFIX_TUNING.

    Raises ModelError: E-MODEL-022 it cannot be loaded exactly, E-MODEL-028 the tensor is not the
    one that the configuration describes.
    """
    tensor = from_peft_tensors(config, tensors, "The prefix")
    return Prefix(tokens=len(tensor), start="random"), {f"{PREFIX}.{PEFT_NAME}": tensor}
