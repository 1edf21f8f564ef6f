"""The loss of a decoder whose answers are label words.

Rows are packed without padding over one shared prefix; the head is computed at supervised
positions only, and for a verbalizer over the rows of the label words only. `Supervision` is the
one with a label a row; soft labels and rows with many targets are in `bridges`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from sapwood.errors import ModelError
from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix, behind
from sapwood.models.frozen import FrozenBelow, Opening
from sapwood.models.labels import LabelHead
from sapwood.models.layout import Pack, Row, build_pack, split_by_budget
from sapwood.models.past import KeysValues
from sapwood.models.prefixes import trained_prefix
from sapwood.models.recomputing import recomputing
from sapwood.models.trie import LabelTrie
from sapwood.training.lean import PLAIN, Lean, frozen_below


@dataclass(frozen=True, kw_only=True)
class Target:
    """One example ready for training.

    `row`: prompt and answer tokens, wanted where an answer token is predicted; `nodes`: the trie
    node of each wanted position; `answers`: the token to predict there.
    """

    row: Row
    nodes: tuple[int, ...]
    answers: tuple[int, ...]


def target(prompt: Sequence[int], label: int, trie: LabelTrie) -> Target:
    """Return the training target of one prompt whose answer is label number `label`."""
    path = trie.paths[label]
    answers = tuple(token for _, token in path)
    ids = [*prompt, *answers[:-1]]
    wanted = range(len(prompt) - 1, len(ids))
    return Target(row=Row(ids=ids, wanted=wanted), nodes=tuple(n for n, _ in path), answers=answers)


@dataclass(frozen=True, kw_only=True)
class Seat:
    """What all rows of a training run follow: one of the two, or nothing.

    `shared`: token ids that are computed in every pack and carry gradients (the method acts on
    everything); `prefix` returns an encoded prefix: the method acts on the rows only, and gradients
    reach the keys and values if they are what is trained. It is called once a pack.
    """

    shared: tuple[int, ...] = ()
    prefix: Callable[[], Prefix] = lambda: NO_PREFIX

    @property
    def length(self) -> int:
        """Return the position at which rows begin."""
        return len(self.shared) or self.prefix().next_position


def packed(
    decoder: Decoder,
    rows: Sequence[Row],
    seat: Seat,
    budget: int,
    below: FrozenBelow | None = None,
) -> Iterator[tuple[list[int], Tensor, int]]:
    """Yield (row numbers, states of their wanted tokens (wanted, hidden), tokens) a pack at a time.

    States are in the order of the row numbers and keep the graph for a backward pass. With
    `below`, rows whose lower states are kept run through the upper blocks only.
    """
    room = max(1, budget - len(seat.shared))
    shares = [list(range(len(rows)))] if below is None else below.shares(rows)
    for share in shares:
        for places in split_by_budget([len(rows[n].ids) for n in share], room):
            part = [share[n] for n in places]
            some = [rows[n] for n in part]
            pack = _seated(decoder, some, seat)
            states = decoder.run(pack) if below is None else below.run(pack, some)
            yield part, states, pack.ids.shape[1]


def _seated(decoder: Decoder, rows: Sequence[Row], seat: Seat) -> Pack:
    """Return the rows as one pack after what they follow, a trained prefix of the net last.

    A shared context that carries gradients runs on its own before a trained prefix: it must not
    see it.
    """
    if trained_prefix(decoder.net) is None:
        return build_pack(rows, shared=seat.shared, device=decoder.device, **seat.prefix().seat)
    before = _computed(decoder, seat.shared) if seat.shared else seat.prefix()
    return build_pack(rows, device=decoder.device, **behind(decoder, before).seat)


def _computed(decoder: Decoder, ids: Sequence[int]) -> Prefix:
    """Return `ids` as an encoded prefix whose keys and values carry gradients."""
    layers: list[KeysValues] = []
    pack = build_pack([Row(ids=ids)], device=decoder.device)
    decoder.run(replace(pack, layout=replace(pack.layout, capture=layers)))
    return Prefix(ids=tuple(ids), layers=tuple(layers))


def check_trainable(decoder: Decoder, rows: Sequence[Row], seat: Seat) -> None:
    """Raise ModelError: E-MODEL-031 the base cannot be packed, E-MODEL-030 a row is too long."""
    if decoder.why_padded:
        raise ModelError(
            "E-MODEL-031",
            f"This base cannot be tuned yet: {decoder.why_padded}.",
            fix="prompt it instead, or choose a Llama, Qwen, Gemma 3 or GPT-2 kind",
        )
    trained = trained_prefix(decoder.net)
    before = seat.length + (0 if trained is None else trained.tokens)
    decoder.check_length([len(row.ids) for row in rows], before)


class Supervision:
    """The loss of examples, each with one label, under one prefix.

    `shared`, `prefix`: see Seat; `prefix` may be encoded already or a function that returns it;
    `lean`: how it saves memory and work, after methods were attached.
    """

    def __init__(
        self,
        decoder: Decoder,
        targets: Sequence[Target],
        trie: LabelTrie,
        *,
        shared: Sequence[int] = (),
        prefix: Prefix | Callable[[], Prefix] = NO_PREFIX,
        loss: str = "labels",
        lean: Lean = PLAIN,
    ) -> None:
        given = prefix
        self.seat = Seat(
            shared=tuple(shared), prefix=(lambda: given) if isinstance(given, Prefix) else given
        )
        rows = [t.row for t in targets]
        check_trainable(decoder, rows, self.seat)
        self.decoder, self.targets, self.trie, self.loss = decoder, targets, trie, loss
        self.head = LabelHead(decoder.net, trie)
        self.lean, self.below = lean, None
        if lean.cache:
            before = behind(decoder, self.seat.prefix())
            opening = Opening(shared=self.seat.shared, prefix=before)
            self.below = frozen_below(decoder, rows, opening, lean)

    def __len__(self) -> int:
        return len(self.targets)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return what the loss is averaged over: examples, or answer tokens for "vocabulary"."""
        if self.loss == "labels":
            return len(numbers)
        return sum(len(self.targets[n].answers) for n in numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) pack by pack for the examples `numbers`."""
        chosen = [self.targets[n] for n in numbers]
        rows = [target.row for target in chosen]
        with recomputing(self.decoder.net, self.lean.checkpointing):
            for part, states, tokens in packed(self.decoder, rows, self.seat, budget, self.below):
                yield self.answer_loss(states, [chosen[n] for n in part]), tokens

    def answer_loss(self, states: Tensor, targets: Sequence[Target]) -> Tensor:
        """Return the summed loss of `targets`; `states`: of all their wanted tokens, in order."""
        answers = [token for t in targets for token in t.answers]
        if self.loss == "labels":
            return self.head.loss(states, [node for t in targets for node in t.nodes], answers)
        logits = self.decoder.net.get_output_embeddings()(states).float()
        wanted = torch.tensor(answers, device=states.device)
        return functional.cross_entropy(logits, wanted, reduction="sum")
