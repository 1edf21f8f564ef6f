"""The loss of answers in words: stories, replies, labels, frames as they are written.

Rows are packed without padding behind what they share. The head is computed at learnt positions
only, and a bounded number of them at a time: what it gives is summed into the loss, and its
gradient into the states, before the next are computed (cf. Hsu et al. 2024, arXiv 2410.10989).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sapwood.errors import ConfigError, DataError
from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix, behind
from sapwood.models.frozen import Opening
from sapwood.models.layout import Row
from sapwood.models.recomputing import recomputing
from sapwood.tasks.supervised import SupervisedRow
from sapwood.training.labels import Seat, check_trainable, packed
from sapwood.training.lean import PLAIN, Lean, frozen_below

# Logits held at once, in bytes of float32: 128 positions of a vocabulary of 262,144.
LOGIT_BYTES = 128 << 20
MEANS = ("tokens", "rows")


@dataclass(frozen=True, kw_only=True)
class AnswerTarget:
    """One row ready for training: wanted where a token is learnt, `answers` the tokens there."""

    row: Row
    answers: tuple[int, ...]


def answer_target(row: SupervisedRow, shared: int | None = None) -> AnswerTarget:
    """Return the target of a row that follows its first `shared` tokens (by default the row's own).

    What comes after the last learnt token is left out: nothing reads it.
    """
    first = row.shared if shared is None else shared
    assert row.learnt and row.learnt[0] > first, "nothing is learnt, or without a prompt"
    return AnswerTarget(
        row=Row(
            ids=list(row.ids[first : row.learnt[-1]]),
            wanted=[place - 1 - first for place in row.learnt],
        ),
        answers=tuple(row.ids[place] for place in row.learnt),
    )


def answer_targets(rows: Sequence[SupervisedRow]) -> tuple[tuple[int, ...], list[AnswerTarget]]:
    """Return (the ids that all rows share, a target for each row of which something is learnt).

    Raises DataError (E-MASK-002) when nothing is learnt of any; `check_coverage` says why.
    """
    kept = [row for row in rows if row.learnt]
    if not kept:
        raise DataError(
            "E-MASK-002",
            f"No token of {len(rows):,} rows would be learnt",
            fix="see them with: sapwood data show DATA --tokens",
        )
    least = min(row.shared for row in kept)
    beginnings = {row.ids[:least] for row in kept}
    assert len(beginnings) == 1, "rows of several contexts"
    return beginnings.pop(), [answer_target(row, least) for row in kept]


class AnswerSupervision:
    """The loss of answers under one prefix; what `fit` and `Several` train on.

    `shared`, `prefix`: see Seat; `mean`: the loss is that of "tokens", or first a row's own mean
    and then that of "rows", so that long answers count no more than short ones; `lean`: how it
    saves memory and work, after methods were attached; `logit_bytes`: most bytes of logits.

    Raises ConfigError (E-CONFIG-116) for an unknown mean, DataError (E-MASK-002) without a token to
    learn, and what `check_trainable` raises.
    """

    def __init__(
        self,
        decoder: Decoder,
        targets: Sequence[AnswerTarget],
        *,
        shared: Sequence[int] = (),
        prefix: Prefix | Callable[[], Prefix] = NO_PREFIX,
        mean: str = "tokens",
        lean: Lean = PLAIN,
        logit_bytes: int = LOGIT_BYTES,
    ) -> None:
        if mean not in MEANS:
            raise ConfigError("E-CONFIG-116", f"mean must be one of {MEANS}, got '{mean}'.")
        if not targets or not all(target.answers for target in targets):
            raise DataError("E-MASK-002", "A row without a token to learn cannot be trained")
        given = prefix
        self.seat = Seat(
            shared=tuple(shared), prefix=(lambda: given) if isinstance(given, Prefix) else given
        )
        rows = [target.row for target in targets]
        check_trainable(decoder, rows, self.seat)
        self.decoder, self.targets, self.mean = decoder, targets, mean
        self.lean, self.below, self.logit_bytes = lean, None, logit_bytes
        if lean.cache:
            opening = Opening(shared=self.seat.shared, prefix=behind(decoder, self.seat.prefix()))
            self.below = frozen_below(decoder, rows, opening, lean)

    def __len__(self) -> int:
        return len(self.targets)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return what the loss is averaged over: learnt tokens, or rows."""
        if self.mean == "rows":
            return len(numbers)
        return sum(len(self.targets[n].answers) for n in numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) pack by pack for the examples `numbers`."""
        chosen = [self.targets[n] for n in numbers]
        rows = [target.row for target in chosen]
        with recomputing(self.decoder.net, self.lean.checkpointing):
            for part, states, tokens in packed(self.decoder, rows, self.seat, budget, self.below):
                yield self.answer_loss(states, [chosen[n] for n in part]), tokens

    def answer_loss(self, states: Tensor, targets: Sequence[AnswerTarget]) -> Tensor:
        """Return the summed loss of `targets`; `states`: of all their wanted tokens, in order."""
        by_row = self.mean == "rows"
        answers = [token for target in targets for token in target.answers]
        shares = [
            1 / len(target.answers) if by_row else 1.0 for target in targets for _ in target.answers
        ]
        weights = torch.tensor(shares, device=states.device)
        wanted = torch.tensor(answers, device=states.device)
        return bounded_loss(self.decoder.net, states, wanted, weights, self.logit_bytes)


def bounded_loss(
    net: Any, states: Tensor, wanted: Tensor, weights: Tensor, logit_bytes: int = LOGIT_BYTES
) -> Tensor:
    """Return the cross-entropy of `wanted` after `states`, summed with `weights`, all (positions,).

    `states`: (positions, hidden). At most `logit_bytes` of logits exist at a time, forward and
    backward; under a head that trains they are computed a second time for the backward pass.
    """
    head = net.get_output_embeddings()
    size = max(1, logit_bytes // (4 * head.weight.shape[0]))
    starts = range(0, len(states), size)
    shares = [(states[s : s + size], wanted[s : s + size], weights[s : s + size]) for s in starts]
    if any(p.requires_grad for p in head.parameters()):
        parts = [checkpoint(_summed, net, *share, use_reentrant=False) for share in shares]
        return torch.stack(parts).sum()
    if states.requires_grad and torch.is_grad_enabled():
        loss: Tensor = _Bounded.apply(states, net, shares)  # type: ignore[no-untyped-call]
        return loss
    return torch.stack([_summed(net, *share) for share in shares]).sum()


class _Bounded(torch.autograd.Function):
    """The summed loss whose gradient on the states is computed with it, share by share."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, net: Any, shares: Any) -> Tensor:
        total = torch.zeros((), device=states.device)
        gradient, first = torch.empty_like(states), 0
        for part, wanted, weights in shares:
            with torch.enable_grad():
                own = part.detach().requires_grad_()
                loss = _summed(net, own, wanted, weights)
                (given,) = torch.autograd.grad(loss, own)
            gradient[first : first + len(own)] = given
            first += len(own)
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *given: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * given[0], None, None


def _summed(net: Any, states: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    logits = net.get_output_embeddings()(states).float()
    cap = getattr(net.config, "final_logit_softcapping", None)
    logits = logits if cap is None else torch.tanh(logits / cap) * cap
    return (functional.cross_entropy(logits, wanted, reduction="none") * weights).sum()
