"""Training with less memory and less work, same gradients: what a supervision may be given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sapwood.config import home
from sapwood.errors import ConfigError
from sapwood.methods import parts
from sapwood.methods.depth import blocks, untouched
from sapwood.models.decoder import Decoder
from sapwood.models.frozen import Below, FrozenBelow, Opening, StateStore
from sapwood.models.layout import Row

CACHES = ("", "frozen")


@dataclass(frozen=True, kw_only=True)
class Lean:
    """How a training run saves memory and work.

    `checkpointing`: the backward pass runs every block again instead of keeping what is inside;
    `cache`: "frozen" keeps what the blocks below all training give, in `folder` (the cache folder
    if None) up to `cache_bytes`, which pays when rows are read more than once. `note` hears of
    damaged files.
    """

    checkpointing: bool = False
    cache: str = ""
    cache_bytes: int = 8 << 30
    folder: Path | None = None
    note: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        if self.cache not in CACHES:
            raise ConfigError("E-CONFIG-038", f"cache must be '' or 'frozen', got '{self.cache}'.")


PLAIN = Lean()


def frozen_below(
    decoder: Decoder, rows: Sequence[Row], opening: Opening, lean: Lean
) -> FrozenBelow:
    """Return the kept states of `rows` below the lowest part attached to the net.

    Raises ConfigError (E-CONFIG-039) when nothing lies below, so that nothing could be kept.
    """
    net = decoder.net
    found, depth = blocks(net), untouched(net)
    trained = any(x.requires_grad for pair in opening.prefix.layers for x in pair)
    if not 0 < depth < len(found) or trained:
        why = "the first block is trained"
        if trained:
            why = "every block reads the prefix that is trained"
        elif depth:
            why = "no block is trained"
        raise ConfigError(
            "E-CONFIG-039",
            f"cache='frozen' has nothing to keep: {why}.",
            fix="train upper blocks only, as Lora(layers=(22, 23)) does, or leave the cache out",
        )
    with parts.disabled(net):
        assert decoder.weights_key(), "a decoder that keeps states has to know its weights"
        identity = decoder.identity()
    below = Below(paths=tuple(found[:depth]), above=found[depth], identity=identity)
    store = StateStore(lean.folder or home() / "frozen", lean.cache_bytes)
    return FrozenBelow(decoder, below, rows, store, opening=opening, note=lean.note)
