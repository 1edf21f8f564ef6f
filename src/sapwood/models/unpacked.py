"""Answers of bases that cannot be packed: transformers' own `generate`, the context and all."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.errors import ModelError
from sapwood.models.choosing import Completion, Sampling, Stops, weighed
from sapwood.models.decoder import Decoder
from sapwood.models.grammar import Guided
from sapwood.models.growing import Asked


class _Weighed:
    """A logits processor of transformers: penalties over what follows a prompt of `length`."""

    def __init__(self, sampling: Sampling, length: int) -> None:
        self._sampling, self._length = sampling, length

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (rows, vocabulary) after ids (rows, tokens)."""
        answers = ids[:, self._length :].tolist()
        return weighed(scores, answers, [None] * len(answers), self._sampling)


class _Stopping:
    """A stopping criterion of transformers: words that end what follows a prompt of `length`."""

    def __init__(self, stops: Stops, length: int) -> None:
        self._stops, self._length = stops, length

    def __call__(self, ids: Tensor, scores: Any, **given: Any) -> Tensor:
        """Return which rows of ids (rows, tokens) are done, (rows,)."""
        found = [self._stops.reached(row) for row in ids[:, self._length :].tolist()]
        return torch.tensor(found, dtype=torch.bool, device=ids.device)


@torch.no_grad()
def unpacked(decoder: Decoder, asked: Asked, sampling: Sampling, stops: Stops) -> list[Completion]:
    """Return the answers to a whole prompt.

    Raises ModelError (E-MODEL-039) for what only packed rows can do.
    """
    _check(decoder, asked, sampling)
    transformers: Any = import_module("transformers")
    length = len(asked.ids)
    whole = torch.tensor([list(asked.ids)], device=decoder.device)
    seed = int(np.random.default_rng((sampling.seed, asked.number)).integers(1 << 31))
    with torch.random.fork_rng(devices=[] if whole.device.type == "cpu" else [whole.device]):
        torch.manual_seed(seed)
        found = decoder.net.generate(
            whole,
            attention_mask=torch.ones_like(whole),
            generation_config=transformers.GenerationConfig(**_settings(sampling)),
            logits_processor=[
                *([_Weighed(sampling, length)]),
                *([Guided(asked.guide, length)] if asked.guide else []),
            ],
            stopping_criteria=[_Stopping(stops, length)] if stops.words else [],
        )
    logs = decoder.net.compute_transition_scores(
        found.sequences, found.logits, getattr(found, "beam_indices", None), normalize_logits=True
    )  # (samples, tokens)
    rows = found.sequences[:, length:].tolist()
    decoder.tokens_run += length + sampling.beams * sum(map(len, rows))
    scores = found.sequences_scores.tolist() if sampling.way == "beam" else [None] * len(rows)
    made = [
        _completion(row, (log, score), sampling, stops)
        for row, log, score in zip(rows, logs.tolist(), scores, strict=True)
    ]
    return made * (sampling.samples if len(made) < sampling.samples else 1)


def _check(decoder: Decoder, asked: Asked, sampling: Sampling) -> None:
    why = ""
    if sampling.way == "contrastive":
        why = "contrastive search"
    elif sampling.way == "beam" and asked.guide is not None:
        why = "beam search under a grammar"
    if why:
        raise ModelError(
            "E-MODEL-039",
            f"This base cannot answer by {why}: {decoder.why_padded}.",
            fix="another --decoding, such as greedy or sample",
        )


def _settings(sampling: Sampling) -> dict[str, Any]:
    """Return the same settings in transformers' words."""
    stops = list(sampling.stop_ids)
    given: dict[str, Any] = {"do_sample": False}
    if sampling.way == "sample":
        given = {
            "do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "top_k": sampling.top_k, "num_return_sequences": sampling.samples,
            "min_p": sampling.min_p or None,
        }  # fmt: skip
    elif sampling.way == "beam":
        given |= {"num_beams": sampling.beams, "num_return_sequences": sampling.samples}
        given |= {"length_penalty": sampling.length_penalty, "early_stopping": False}
    return {
        "max_new_tokens": sampling.tokens,
        "eos_token_id": stops or None,
        "pad_token_id": stops[0] if stops else 0,
        "return_dict_in_generate": True,
        "output_logits": True,
        "output_scores": True,
        **given,
    }


def _completion(
    row: list[int], found: tuple[list[float], float | None], sampling: Sampling, stops: Stops
) -> Completion:
    """Return a row of tokens as an answer; what follows its end is filling."""
    logs, score = found
    end = next((n for n, token in enumerate(row) if token in sampling.stop_ids), len(row))
    words = next((n for n in range(1, end + 1) if stops.reached(row[:n])), None)
    used = end + (end < len(row)) if words is None else words
    total = sum(logs[:used])
    return Completion(
        ids=tuple(row[: end if words is None else words]),
        log_probability=total,
        stopped=end < len(row) or words is not None,
        score=total if score is None else score,
    )
