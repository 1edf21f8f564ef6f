"""One forward pass for scoring, calibration, features and tuning: packed rows over a shared prefix.

Kinds whose attention the pack can reproduce exactly (`PACKED`) use it; every other decoder takes
the padded path, slower and equal.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.errors import ModelError
from sapwood.interfaces import Floats
from sapwood.models import attention
from sapwood.models.labels import LabelHead
from sapwood.models.layout import KeysValues, Pack, Row, build_pack, split_by_budget
from sapwood.models.padded import padded_hidden
from sapwood.models.trie import LabelTrie

PACKED = ("llama", "qwen2", "qwen3", "gemma3_text", "gpt2", "mistral")

# Tokens a pack: larger packs stop gaining at about 1,000 tokens on CPUs (the linear layers are
# compute bound by then) while temporaries grow past the caches.
PACK_TOKENS = 1024
_CACHED_PREFIX_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """An encoded prefix: its token ids and, on the packed path, keys and values of every layer."""

    ids: tuple[int, ...] = ()
    layers: tuple[KeysValues, ...] = ()

    def cut(self, length: int) -> Prefix:
        """Return the first `length` tokens of this prefix, sharing its memory."""
        layers = tuple((k[:, :, :length], v[:, :, :length]) for k, v in self.layers)
        return Prefix(ids=self.ids[:length], layers=layers)

    @property
    def bytes(self) -> int:
        """Return the memory that keys and values take."""
        return sum(x.numel() * x.element_size() for pair in self.layers for x in pair)


NO_PREFIX = Prefix()


class Decoder:
    """A causal language model with packed scoring.

    `net`: a transformers causal LM on its device, in evaluation mode, weights frozen (methods may
    be attached); `weights_key`: returns a digest of everything that changes its output, so that a
    cached prefix never outlives the weights that made it.
    """

    def __init__(self, net: Any, *, weights_key: Callable[[], str] = lambda: "") -> None:
        self.net = net
        self.weights_key = weights_key
        self.why_padded = why_padded(net.config)
        self.tokens_run = 0
        self._prefixes: OrderedDict[str, Prefix] = OrderedDict()
        if not self.why_padded:
            attention.register()
            net.set_attn_implementation(attention.NAME)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.net.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    def encode(self, ids: Sequence[int]) -> Prefix:
        """Encode a prefix once and keep it, by content, within a memory bound."""
        if self.why_padded or not ids:
            return Prefix(ids=tuple(ids))
        digest = sha256(np.asarray(ids, dtype=np.int64).tobytes())
        digest.update(f"{self.weights_key()} {self.net.dtype}".encode())
        key = digest.hexdigest()
        if key not in self._prefixes:
            self._prefixes[key] = self._prefill(tuple(ids))
            while (
                len(self._prefixes) > 1
                and sum(p.bytes for p in self._prefixes.values()) > _CACHED_PREFIX_BYTES
            ):
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(key)
        return self._prefixes[key]

    @torch.no_grad()
    def _prefill(self, ids: tuple[int, ...]) -> Prefix:
        """Encode in chunks, so that activations stay bounded however long the prefix is."""
        layers: tuple[KeysValues, ...] = ()
        for start in range(0, len(ids), 2 * PACK_TOKENS):
            chunk = Row(ids=ids[start : start + 2 * PACK_TOKENS])
            pack = build_pack([chunk], cached=layers, device=self.device)
            capture: list[KeysValues] = []
            pack = replace(pack, layout=replace(pack.layout, capture=capture))
            self.run(pack)
            layers = _appended(layers, capture)
        return Prefix(ids=ids, layers=layers)

    def run(self, pack: Pack) -> Tensor:
        """Return the last hidden states of the wanted tokens of one pack, (wanted, hidden)."""
        self.tokens_run += pack.ids.shape[1]
        body = getattr(self.net, self.net.base_model_prefix)
        states = body(
            input_ids=pack.ids,
            attention_mask=torch.zeros(1, 1, 1, 1, dtype=self.net.dtype, device=pack.ids.device),
            position_ids=pack.layout.positions[None],
            use_cache=False,
            pack=pack.layout,
        ).last_hidden_state
        return states[0, pack.wanted]  # type: ignore[no-any-return]

    @torch.no_grad()
    def hidden(
        self, rows: Sequence[Row], prefix: Prefix = NO_PREFIX, *, budget: int = PACK_TOKENS
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (row numbers (wanted,), hidden states (wanted, hidden)) a pack at a time."""
        self.check_length([len(row.ids) for row in rows], len(prefix.ids))
        if self.why_padded:
            yield from padded_hidden(self.net, rows, prefix.ids, budget)
            return
        for part in split_by_budget([len(row.ids) for row in rows], budget):
            pack = build_pack([rows[n] for n in part], cached=prefix.layers, device=self.device)
            yield torch.tensor(part)[pack.owners.cpu()], self.run(pack)

    def check_length(self, lengths: Sequence[int], prefix: int = 0) -> None:
        """Raise ModelError (E-MODEL-030) when a row after `prefix` tokens is too long."""
        limit = getattr(self.net.config, "max_position_embeddings", None) or 1 << 62
        longest = prefix + max(lengths, default=0)
        if longest > limit:
            raise ModelError(
                "E-MODEL-030",
                f"A prompt has {longest:,} tokens; this base reads at most {limit:,}.",
                fix="shorter texts (--max-length), or a base that reads more",
            )

    def features(self, prompts: Sequence[Sequence[int]], prefix: Prefix = NO_PREFIX) -> Floats:
        """Return the last token's hidden state of each prompt, (prompts, hidden), float32."""
        rows = [Row(ids=prompt, wanted=(len(prompt) - 1,)) for prompt in prompts]
        out = np.zeros((len(rows), self.net.config.hidden_size), dtype=np.float32)
        for owners, states in self.hidden(rows, prefix):
            out[owners.numpy()] = states.float().cpu().numpy()
        return out

    def label_scores(
        self,
        prompts: Sequence[Sequence[int]],
        trie: LabelTrie,
        prefix: Prefix = NO_PREFIX,
        *,
        normalise: str = "vocabulary",
    ) -> Floats:
        """Return log p(label | prefix, prompt), (prompts, labels), float64.

        `normalise="vocabulary"`: the model's own probabilities. ``"trie"``: at each token among
        the tokens that continue some label (constrained decoding; a different score unless all
        labels have one token, where they differ by a constant a row).
        """
        rows = [trie.row(prompt) for prompt in prompts]
        nodes, head = len(trie.tokens), LabelHead(self.net, trie)
        scores = np.zeros((len(rows), len(trie.paths)))
        for owners, states in self.hidden(rows, prefix):
            numbers = owners.view(-1, nodes)[:, 0].numpy()
            part = head.scores(states.view(-1, nodes, states.shape[-1]), normalise)
            scores[numbers] = part.double().cpu().numpy()
        return scores


def _appended(old: Sequence[KeysValues], new: Sequence[KeysValues]) -> tuple[KeysValues, ...]:
    """Return the keys and values of a prefix followed by those of its next chunk."""
    if not old:
        return tuple((key.contiguous(), value.contiguous()) for key, value in new)
    return tuple(
        (torch.cat((o[0], n[0]), 2), torch.cat((o[1], n[1]), 2))
        for o, n in zip(old, new, strict=True)
    )


def why_padded(config: Any) -> str:
    """Return why nets of this configuration cannot be packed exactly, or an empty string."""
    if config.model_type not in PACKED:
        return f"packing is not verified for the '{config.model_type}' kind"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention caps scores, which partial softmaxes cannot reproduce"
    if getattr(config, "use_bidirectional_attention", False):
        return "its attention is not causal"
    return ""
