"""What an adaptation answers, with what it prepends as tensors; and how a new one is finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any

import numpy as np

from sapwood.adaptation import Adaptation, Golden
from sapwood.errors import ConfigError
from sapwood.evaluation import Bases, Predictor, Reader
from sapwood.evaluation.reader import Extras
from sapwood.interfaces import Floats
from sapwood.methods import parts
from sapwood.methods.folder import attach_trained
from sapwood.models.decoder import Decoder

GOLDEN_ROWS = 3


@contextmanager
def attached(bases: Bases, made: Adaptation) -> Iterator[Decoder]:
    """Yield the decoder of an adaptation with its method attached, its weights frozen.

    Raises ModelError (E-MODEL-050) when the base is not the one it was made for.
    """
    assert made.base is not None
    base = bases.expect(made.base)
    try:
        if made.method is not None:
            attach_trained(base.net, made.method, made.weights, where="the adaptation")
        base.net.requires_grad_(False).eval()
        yield bases.decoder(made.base.name)
    finally:
        parts.detach(base.net)


def reader_of(bases: Bases, made: Adaptation) -> Reader:
    """Return the reader of an adaptation whose context all queries share.

    Raises ConfigError (E-CONFIG-080) when it prompts no decoder, or not all queries alike.
    """
    context = made.context
    if made.base is None or made.base.kind != "decoder" or context is None:
        why = f"its readout '{made.readout_name}' prompts no language model"
    elif context.sharing != "all":
        why = f"each query sees demonstrations of its own ({context.selection})"
    elif "channel" in str(getattr(made.readout, "scorer", "")):
        why = "it scores the text given each label, which no prefix of queries can stand for"
    else:
        extras = Extras(facts=made.facts)
        return Reader(bases, made.base.name, context, made.labels, scope=made.scope, extras=extras)
    raise ConfigError(
        "E-CONFIG-080",
        f"This adaptation has no context that a prefix could stand for: {why}.",
        fix="give one made by: sapwood prompt DATA",
    )


def probabilities(bases: Bases, made: Adaptation, texts: Sequence[str]) -> Floats:
    """Return class probabilities of an adaptation, (texts, labels)."""
    with Predictor(made, bases) as predictor:
        return predictor.probabilities(texts)


def finished(
    bases: Bases, made: Adaptation, texts: Sequence[str], evidence: dict[str, Any]
) -> Adaptation:
    """Return an adaptation with a golden probe on the first of `texts`, and its evidence."""
    probe = tuple(texts[:GOLDEN_ROWS])
    rows: tuple[tuple[float, ...], ...] = ()
    if probe:
        rows = tuple(tuple(map(float, row)) for row in probabilities(bases, made, probe))
    return replace(
        made,
        golden=Golden(texts=probe, probabilities=rows),
        evidence={**made.evidence, **evidence},
    )


def content_hash(made: Adaptation) -> str:
    """Return a digest of everything that decides an adaptation's answers."""
    settings, arrays = made.readout.state()
    content = [asdict(made.base) if made.base else None, settings, made.scope, list(made.labels)]
    content.append(asdict(made.context) if made.context else None)
    if made.max_text_tokens is not None:
        content.append({"max_text_tokens": made.max_text_tokens})
    digest = sha256(json.dumps(content, sort_keys=True, default=str).encode())
    tensors = dict(made.weights)
    if made.prefix is not None:
        tensors["prefix"] = made.prefix.tensor
    named = {name: tensor.float().numpy() for name, tensor in tensors.items()} | arrays
    for name in sorted(named):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(named[name]).tobytes())
    return digest.hexdigest()
