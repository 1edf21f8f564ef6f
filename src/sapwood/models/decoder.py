"""One forward pass for scoring, calibration, features and tuning: packed rows over a shared prefix.

Kinds whose attention the pack can reproduce exactly (`PACKED`) use it; every other decoder takes
the padded path, slower and equal.
"""

from __future__ import annotations

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
from sapwood.models.beginnings import beginning_once
from sapwood.models.labels import LabelHead
from sapwood.models.layout import Pack, Row, build_pack, split_by_budget, tokens_at_once
from sapwood.models.padded import padded_hidden
from sapwood.models.past import KeysValues
from sapwood.models.prefixes import (
    NO_PREFIX,
    Prefix,
    PrefixCache,
    grown,
    joined,
    trained_prefix,
)
from sapwood.models.stored import ContextStore
from sapwood.models.trie import LabelTrie

__all__ = ["NO_PREFIX", "PACKED", "Captured", "Decoder", "Prefix", "behind", "why_padded"]

PACKED = ("llama", "qwen2", "qwen3", "gemma3_text", "gpt2", "mistral")

# Tokens a pack: larger packs stop gaining at about 1,000 tokens on CPUs (the linear layers are
# compute bound by then) while temporaries grow past the caches.
PACK_TOKENS = 1024
_CACHED_PREFIX_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Captured:
    """One pack that ran: `numbers` of the caller's rows in it, where each starts in the pack, the
    keys and values of every layer, (1, key heads, tokens, size), and the wanted states in the
    order of `numbers`.
    """

    numbers: tuple[int, ...]
    starts: tuple[int, ...]
    layers: list[KeysValues]
    states: Tensor


class Decoder:
    """A causal language model with packed scoring.

    `net`: a transformers causal LM on its device, in evaluation mode, weights frozen (methods may
    be attached); `weights_key`: returns a digest of everything that changes its output, so that a
    cached prefix never outlives the weights that made it.
    """

    def __init__(
        self,
        net: Any,
        *,
        weights_key: Callable[[], str] = lambda: "",
        store: ContextStore | None = None,
    ) -> None:
        self.net, self.weights_key, self.store = net, weights_key, store
        self.why_padded = why_padded(net.config)
        self.tokens_run = self.tokens_reused = 0
        self.pack_tokens = tokens_at_once(PACK_TOKENS, self.device)  # unless a call says otherwise
        self._prefixes = PrefixCache(_CACHED_PREFIX_BYTES)
        if not self.why_padded:
            attention.register()
            net.set_attn_implementation(attention.NAME)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.net.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    def encode(self, ids: Sequence[int], *, stored: bool = False) -> Prefix:
        """Encode a prefix and keep it, by content, within a memory bound.

        Of a prefix encoded before by the same weights, the longest common beginning is taken over
        and only the rest runs; `tokens_reused` counts what was taken over, `tokens_run` what ran.
        With `stored`, the decoder's store is looked up first and keeps what was encoded. Raises
        ModelError (E-MODEL-030) when it is longer than the base reads.
        """
        self.check_length([], len(ids))
        if self.why_padded or not ids:
            return Prefix(ids=tuple(ids))
        weights, wanted = self.identity(), tuple(ids)
        known = self._prefixes.longest(weights, wanted)
        store = self.store if stored else None
        short = len(known.ids) < len(wanted)
        if store and short and (found := store.get(self.stored_key(wanted))) is not None:
            known = _moved(found, self.device)
            self._prefixes.keep(weights, known)
        self.tokens_reused += len(known.ids)
        if len(known.ids) < len(wanted):
            known = _prefilled(self, wanted, known)
            self._prefixes.keep(weights, known)
            if store is not None:
                store.put(self.stored_key(wanted), known)
        return known

    def forget(self) -> None:
        """Drop the prefixes kept in memory: what they round does not reach what comes after."""
        self._prefixes = PrefixCache(_CACHED_PREFIX_BYTES)

    def remember(self, prefix: Prefix) -> None:
        """Keep an exact prefix that was encoded elsewhere by this net as it is now."""
        self._prefixes.keep(self.identity(), prefix)

    def identity(self) -> str:
        """Return what a prefix's keys and values depend on besides its tokens."""
        return f"{self.weights_key()} {self.net.dtype}"

    def stored_key(self, ids: Sequence[int]) -> str:
        """Return the name of a stored context: a digest of weights, number format and tokens."""
        digest = sha256(np.asarray(ids, dtype=np.int64).tobytes())
        digest.update(self.identity().encode())
        return digest.hexdigest()

    @torch.no_grad()
    def capture(
        self, rows: Sequence[Row], prefix: Prefix = NO_PREFIX, *, budget: int | None = None
    ) -> Iterator[Captured]:
        """Yield keys and values and wanted states of rows that follow `prefix` as it is."""
        for part in split_by_budget([len(row.ids) for row in rows], budget or self.pack_tokens):
            pack = build_pack([rows[n] for n in part], **prefix.seat, device=self.device)
            layers: list[KeysValues] = []
            states = self.run(replace(pack, layout=replace(pack.layout, capture=layers)))
            yield Captured(numbers=tuple(part), starts=pack.starts, layers=layers, states=states)

    def run(self, pack: Pack) -> Tensor:
        """Return the last hidden states of the wanted tokens of one pack, (wanted, hidden)."""
        self.tokens_run += (pack := _once(pack)).ids.shape[1]
        body = getattr(self.net, self.net.base_model_prefix)
        states = body(use_cache=False, **pack.inputs(self.net.dtype)).last_hidden_state
        return states[0, pack.wanted]  # type: ignore[no-any-return]

    @torch.no_grad()
    def hidden(
        self, rows: Sequence[Row], prefix: Prefix = NO_PREFIX, *, budget: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (row numbers (wanted,), hidden states (wanted, hidden)) a pack at a time."""
        prefix = behind(self, prefix)
        self.check_length([len(row.ids) for row in rows], prefix.next_position)
        if self.why_padded:
            yield from padded_hidden(self.net, rows, prefix.ids, budget or self.pack_tokens)
            return
        for part in split_by_budget([len(row.ids) for row in rows], budget or self.pack_tokens):
            pack = build_pack([rows[n] for n in part], **prefix.seat, device=self.device)
            yield torch.tensor(part)[pack.owners.cpu()], self.run(pack)

    def check_length(self, lengths: Sequence[int], prefix: int = 0) -> None:
        """Raise ModelError (E-MODEL-030) when a row after `prefix` tokens is too long."""
        limit = getattr(self.net.config, "max_position_embeddings", None) or 1 << 62
        if (longest := prefix + max(lengths, default=0)) > limit:
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
            part = head.scores(states.view(-1, nodes, states.shape[-1]), normalise).detach()
            scores[numbers] = part.double().cpu().numpy()
        return scores


def behind(decoder: Decoder, prefix: Prefix) -> Prefix:
    """Return what rows follow: an encoded context, then the trained prefix of the net, if any.

    Gradients reach the trained prefix. The context's own encoding never sees it. Raises ModelError
    (E-MODEL-031) when the base cannot be packed.
    """
    if decoder.why_padded and trained_prefix(decoder.net) is not None:
        raise ModelError(
            "E-MODEL-031",
            f"This base cannot follow a trained prefix: {decoder.why_padded}.",
            fix="train a prompt instead (method 'prompt')",
        )
    return joined(decoder.net, prefix)


def _once(pack: Pack) -> Pack:
    """Return the pack, behind a prefix that trains with what all rows begin with computed once.

    Elsewhere rows stay whole: what they begin with was encoded before, or is asked for by row. On
    CUDA, too: its kernel takes whole rows, and gains more than a shared beginning does.
    """
    layout = pack.layout
    rows_keep = layout.past is not None or layout.step is not None
    whole = rows_keep or layout.capture is not None or layout.shared or pack.ids.is_cuda
    trains = torch.is_grad_enabled() and any(x.requires_grad for p in layout.cached for x in p)
    return beginning_once(pack) if trains and not whole else pack


def _prefilled(decoder: Decoder, ids: tuple[int, ...], known: Prefix) -> Prefix:
    """Encode what follows `known`, in chunks: activations stay bounded however long it is."""
    made = grown(known, ids, known.layers) if known.layers else NO_PREFIX
    for start in range(len(known.ids), len(ids), 2 * PACK_TOKENS):
        end = min(start + 2 * PACK_TOKENS, len(ids))
        before = made.cut(start) if start else NO_PREFIX
        for part in decoder.capture([Row(ids=ids[start:end])], before):
            made = made if made.layers else grown(NO_PREFIX, ids, part.layers)
            for room, new in zip(made.layers, part.layers, strict=True):
                for to, given in zip(room, new, strict=True):
                    to[:, :, start:end] = given
    return made


def _moved(prefix: Prefix, device: torch.device) -> Prefix:
    """Return a prefix on `device`; on the CPU nothing is copied."""
    layers = tuple((key.to(device), value.to(device)) for key, value in prefix.layers)
    return replace(prefix, layers=layers)


def why_padded(config: Any) -> str:
    """Return why nets of this configuration cannot be packed exactly, or an empty string."""
    if config.model_type not in PACKED:
        return f"packing is not verified for the '{config.model_type}' kind"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention caps scores, which partial softmaxes cannot reproduce"
    if getattr(config, "use_bidirectional_attention", False):
        return "its attention is not causal"
    return ""
