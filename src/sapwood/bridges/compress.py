"""A context becomes a prefix: its own keys and values, all or a few, and training from there.

With every token kept nothing changes but the cost: the text is not read again. With fewer, the
prefix starts from a part of the context (Cartridges, arXiv 2506.06266, take the first tokens) and
trains on labelled rows, which is Prefix-Tuning with a start that already does the task.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.adaptation import Adaptation
from sapwood.bridges.answers import attached, content_hash, finished, reader_of
from sapwood.errors import ConfigError
from sapwood.evaluation import Bases
from sapwood.interfaces import Event, Example
from sapwood.methods.prefix import StoredPrefix, split_layers, stack_layers
from sapwood.metrics import label_indices
from sapwood.models.decoder import Decoder, Prefix
from sapwood.readouts import bias
from sapwood.readouts.verbalizer import Verbalizer
from sapwood.training import Recipe, Supervision, make_optimiser, target
from sapwood.training.course import Curve, Trained, completed

STARTS = ("first", "last", "even", "pooled")


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How a context becomes a prefix.

    `tokens`: how many to keep, None for all; `start`: which, when not all: the "first" ones, the
    "last", "even": spread over the context, or "pooled": the means of neighbours. All but "pooled"
    keep the very first, on which much attention rests (arXiv 2309.17453). `recipe`: how it trains
    when there are labelled rows, None to leave it as it is.
    """

    tokens: int | None = None
    start: str = "last"
    recipe: Recipe | None = field(
        default_factory=lambda: Recipe(learning_rate=5e-3, batch_size=16, epochs=3.0)
    )

    def __post_init__(self) -> None:
        problems = []
        if self.tokens is not None and self.tokens < 1:
            problems.append(f"tokens must be 1 or more, got {self.tokens}")
        if self.start not in STARTS:
            problems.append(f"start must be one of {', '.join(STARTS)}, got '{self.start}'")
        if problems:
            raise ConfigError("E-CONFIG-081", "The compression is wrong.", details=problems)


def compress(
    bases: Bases,
    made: Adaptation,
    rows: Sequence[Example] = (),
    *,
    settings: Compression | None = None,
    folder: Path | None = None,
) -> Generator[Event, None, Adaptation]:
    """Turn the context of `made` into a prefix, and train that on labelled `rows` if there are any.

    Without a number of tokens and without training the result answers as `made` does. After
    training the labels' scores are read among the label words, without a bias; a shorter prefix
    that is not trained has its bias fitted again on `rows`. The context stays in the result as a
    record. `folder` keeps checkpoints: the same call goes on there.

    Raises ConfigError (E-CONFIG-080 nothing to compress, E-CONFIG-082 it has a prefix already),
    DataError for a label that `made` does not have.
    """
    settings = settings or Compression()
    _refuse_prefix(made)
    reader = reader_of(bases, made)
    gold = label_indices([row.label for row in rows], made.labels)
    texts = [row.text for row in rows]
    curve: Curve = {}
    with attached(bases, made) as decoder:
        prompts, encoded = reader.prompts(texts or ["."])
        whole = prefix_tensor(decoder, encoded)
        tensor = shortened(whole, decoder, settings)
        shorter = len(tensor) < len(whole)
        yield Event(kind="note", note=f"{len(whole):,} tokens of context, {len(tensor):,} kept")
        readout, name = made.readout, made.readout_name
        if rows and settings.recipe is not None:
            tensor = tensor.float().requires_grad_()
            targets = [target(p, int(g), reader.trie) for p, g in zip(prompts, gold, strict=True)]
            trained = Trained(
                name="prefix",
                supervised=Supervision(
                    decoder, targets, reader.trie, prefix=lambda: seated(tensor, decoder)
                ),
                weights={"prefix": tensor},
                optimiser=make_optimiser([tensor], settings.recipe),
                recipe=settings.recipe,
                identity=[content_hash(made), asdict(settings), texts, gold.tolist()],
            )
            curve = yield from completed(trained, folder)
            readout = Verbalizer(
                labels=made.labels, bias=bias.none(len(made.labels)), normalise="trie"
            )
            name = "verbalizer"
        elif isinstance(readout, Verbalizer) and rows and shorter:
            scores = decoder.label_scores(
                prompts, reader.trie, seated(tensor, decoder), normalise=readout.normalise
            )
            readout = replace(readout, bias=bias.labels(readout.divided(scores), gold))
    origin = _origin(made, shorter, settings.start)
    prefix = StoredPrefix(tensor=tensor.detach().cpu(), origin=origin, trained=bool(curve))
    decision = made.decision if readout is made.readout else None  # fitted on what it answered
    result = replace(made, prefix=prefix, readout=readout, readout_name=name, decision=decision)
    evidence = _evidence(made, len(whole), rows, curve)
    return finished(bases, result, texts or _shown(made), evidence)


def _refuse_prefix(made: Adaptation) -> None:
    if made.prefix is not None:
        raise ConfigError(
            "E-CONFIG-082",
            f"This adaptation has a prefix already: {made.prefix.describe()}.",
            fix="give the adaptation with the context it came from",
        )


def prefix_tensor(decoder: Decoder, encoded: Prefix) -> Tensor:
    """Return an encoded context as a prefix's tensor, its keys moved to positions 0, 1, 2, ...

    Exact contexts sit there already; those encoded in blocks do not, and move.
    """
    if not encoded.layers:
        raise ConfigError(
            "E-CONFIG-080",
            "There is no encoded context that a prefix could stand for.",
            details=[decoder.why_padded or "the instruction and the demonstrations are empty"],
            fix="give an adaptation with demonstrations over a Llama, Qwen, Gemma 3 or GPT-2 kind",
        )
    tensor = stack_layers(encoded.layers)
    if encoded.positions is None:
        return tensor
    return _moved(tensor, decoder.net, encoded.positions.tolist())


def shortened(tensor: Tensor, decoder: Decoder, settings: Compression) -> Tensor:
    """Return a prefix of `settings.tokens` tokens from one at positions 0, 1, 2, ..."""
    length, tokens = len(tensor), settings.tokens
    if tokens is None or tokens >= length:
        return tensor
    if settings.start == "pooled":
        plain = _turned(tensor, decoder.net, range(length), back=True)
        chunks = torch.tensor_split(plain.float(), tokens)
        means = torch.stack([chunk.mean(0) for chunk in chunks]).to(tensor.dtype)
        return _turned(means, decoder.net, range(tokens), back=False)
    places = {
        "first": list(range(tokens)),
        "last": [0, *range(length - tokens + 1, length)],
        "even": np.linspace(0, length - 1, tokens).round().astype(int).tolist(),
    }[settings.start]
    return _moved(tensor[places], decoder.net, places)


def _moved(tensor: Tensor, net: Any, positions: Sequence[int]) -> Tensor:
    """Return a prefix whose keys sat at `positions` with its keys at 0, 1, 2, ..."""
    if list(positions) == list(range(len(tensor))):
        return tensor
    plain = _turned(tensor, net, positions, back=True)
    return _turned(plain, net, range(len(tensor)), back=False)


@torch.no_grad()
def _turned(tensor: Tensor, net: Any, positions: Sequence[int], *, back: bool) -> Tensor:
    """Return a prefix with the rotary embedding of `positions` applied to its keys, or taken off.

    Nets without one (GPT-2) have their positions inside the keys, where they stay.
    """
    rotary = getattr(getattr(net, net.base_model_prefix), "rotary_emb", None)
    if rotary is None:
        return tensor
    typed = "layer_type" in inspect.signature(rotary.forward).parameters
    where = torch.tensor([list(positions)], device=tensor.device)
    out = tensor.clone()
    for layer in range(tensor.shape[1] // 2):
        more = (net.config.layer_types[layer],) if typed else ()
        key = tensor[:, 2 * layer].float()  # (tokens, heads, size)
        cos, sin = (part[0][:, None] for part in rotary(key, where, *more))
        left, right = key.chunk(2, dim=-1)
        across = torch.cat((-right, left), dim=-1) * sin
        turned = (key * cos - across) / (cos**2 + sin**2) if back else key * cos + across
        out[:, 2 * layer] = turned.to(out.dtype)
    return out


def seated(tensor: Tensor, decoder: Decoder) -> Prefix:
    """Return a tensor as the prefix that rows follow; gradients flow back to it."""
    layers = split_layers(tensor, decoder.net.dtype, decoder.device)
    return Prefix(ids=(0,) * len(tensor), layers=layers)


def _shown(made: Adaptation) -> list[str]:
    return [d.text for d in made.context.demonstrations] if made.context is not None else []


def _origin(made: Adaptation, shorter: bool, start: str) -> str:
    assert made.context is not None
    shots = made.context.shots
    words = f"{shots} demonstrations" if shots else "the instruction"
    return f"{words} ({start})" if shorter else words


def _evidence(
    made: Adaptation, length: int, rows: Sequence[Example], curve: Curve
) -> dict[str, Any]:
    return {
        "compressed": {
            "from": made.parts(),
            "sha256": content_hash(made),
            "context_tokens": length,
            "rows": len(rows),
            "seconds": round(sum(curve.get("seconds", [])), 3),
            "curve": curve,
        }
    }
