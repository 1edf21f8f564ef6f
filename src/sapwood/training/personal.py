"""One small adaptation a user over a task adaptation that all share, trained in one pass.

A row goes through {shared: 1, its user's: 1} (cf. per-user PEFT over a task's, Tan et al., arXiv
2402.04401). Beside it, in the same steps, the same task adaptation is trained without users: what
a user gains is measured against that one, on held-out rows.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sapwood.errors import DataError, ModelError
from sapwood.interfaces import Floats, Integers
from sapwood.methods.bank import Bank
from sapwood.methods.lora import Lora
from sapwood.methods.sharing import Use
from sapwood.metrics import paired_difference
from sapwood.models.decoder import PACK_TOKENS, Decoder
from sapwood.models.labels import LabelHead
from sapwood.models.layout import build_pack, split_by_budget
from sapwood.models.trie import LabelTrie
from sapwood.training.labels import Supervision, target
from sapwood.training.loop import Recipe
from sapwood.training.several import Member, Round, Several

ALONE, SHARED, USER = "alone", "shared", "user "
CHECKPOINT_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class People:
    """Rows with their users: `prompts` token ids, `gold` label numbers and `users` names, (rows,).

    `shared`: token ids before every prompt; `trie`: the labels'.
    """

    prompts: Sequence[Sequence[int]]
    gold: Sequence[int]
    users: Sequence[str]
    trie: LabelTrie
    shared: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Personal:
    """How to personalise.

    `rank`: of the shared adaptation; `user_rank`: of a user's; `fewest`: a user with fewer rows to
    train on has the shared one only; `held_out` in (0, 1): share of each user's rows to measure on.
    """

    rank: int = 8
    user_rank: int = 1
    fewest: int = 8
    held_out: float = 0.2
    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Accuracy on held-out rows without and with the user's adaptation, and the difference.

    `low`, `high`: its 95 % interval, paired; `own`: whether the user has an adaptation.
    """

    user: str
    rows: int
    own: bool
    alone: float
    personal: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Personalised:
    """The trained bank, attached to its base, and what it gained: for each user and `overall`."""

    bank: Bank
    users: tuple[str, ...]
    gains: tuple[Gain, ...]
    overall: Gain

    def adaptation(self, user: str) -> tuple[Lora, dict[str, Tensor]]:
        """Return what one user is served with as one plain LoRA and its tensors.

        Users without an adaptation of their own, unknown ones too, get the shared one.
        """
        shared = self.bank.methods[SHARED]
        assert isinstance(shared, Lora)
        kept = self.bank.stored(SHARED)
        if user not in self.users:
            return shared, kept
        own = self.bank.methods[USER + user]
        assert isinstance(own, Lora)
        rank = shared.rank + own.rank
        scales = (shared.alpha / shared.rank, own.alpha / own.rank)
        made = {}
        for path, tensor in self.bank.stored(USER + user).items():
            pair = (kept[path], tensor)
            if path.endswith("lora_A.weight"):
                made[path] = torch.cat(pair)
            else:
                made[path] = torch.cat([t * s for t, s in zip(pair, scales, strict=True)], 1)
        return Lora(rank=rank, alpha=float(rank), targets=shared.targets), made


def personalise(
    decoder: Decoder, people: People, settings: Personal, *, folder: Path | None = None
) -> Generator[Round, None, Personalised]:
    """Yield after every step; return what was trained, with its gains.

    The bank stays attached: `bank.detach()` gives the base back. With a `folder` for checkpoints a
    run that was stopped goes on where it was. Raises DataError (E-DATA-097)
    when no user has rows enough, ModelError (E-MODEL-032) when training diverges.
    """
    train, held = _split(people, settings)
    counts: dict[str, int] = {}
    for n in train:
        counts[people.users[n]] = counts.get(people.users[n], 0) + 1
    users = tuple(user for user, count in counts.items() if count >= settings.fewest)
    if not users or not held:
        raise DataError(
            "E-DATA-097",
            f"No user has {settings.fewest} rows to train on and some to measure on.",
            details=[f"'{u}' has {c}" for u, c in sorted(counts.items(), key=lambda x: -x[1])[:5]],
            fix="give more rows a user, or ask for fewer",
        )
    bank = _bank(decoder, users, settings)
    try:
        yield from _trained(_members(bank, decoder, people, train, settings), folder)
        gains, overall = _gains(bank, decoder, people, held)
    except BaseException:
        bank.detach()
        raise
    return Personalised(bank=bank, users=users, gains=gains, overall=overall)


def _split(people: People, settings: Personal) -> tuple[list[int], list[int]]:
    """Return (rows to train on, held-out rows); drawn for each user by itself."""
    own: dict[str, list[int]] = {}
    for n, user in enumerate(people.users):
        own.setdefault(user, []).append(n)
    held: set[int] = set()
    for user, rows in own.items():
        digest = sha256(f"{settings.recipe.seed} {user}".encode()).digest()
        order = np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(len(rows))
        held |= {rows[n] for n in order[: round(settings.held_out * len(rows))]}
    return [n for n in range(len(people.users)) if n not in held], sorted(held)


def _bank(decoder: Decoder, users: Sequence[str], settings: Personal) -> Bank:
    whole = Lora(rank=settings.rank, alpha=2.0 * settings.rank)
    small = Lora(rank=settings.user_rank, alpha=2.0 * settings.user_rank)
    methods = {ALONE: whole, SHARED: whole, **{USER + user: small for user in users}}
    return Bank(decoder.net, methods, seed=settings.recipe.seed)


def _use(bank: Bank, user: str) -> Use:
    own = USER + user
    return {SHARED: 1.0, own: 1.0} if own in bank.methods else {SHARED: 1.0}


def _members(
    bank: Bank, decoder: Decoder, people: People, train: Sequence[int], settings: Personal
) -> Several:
    targets = [target(people.prompts[n], people.gold[n], people.trie) for n in train]
    lossy = Supervision(
        decoder, targets, people.trie, shared=people.shared, loss=settings.recipe.loss
    )
    alone = Member(name=ALONE, supervision=lossy, recipe=settings.recipe)
    personal = Member(
        name="personal",
        supervision=lossy,
        recipe=settings.recipe,
        trains=tuple(name for name in bank.names if name != ALONE),
        use=lambda n: _use(bank, people.users[train[n]]),
    )
    return Several(bank, [alone, personal])


def _trained(several: Several, folder: Path | None) -> Generator[Round, None, None]:
    net, saved = several.bank.net, time.monotonic()
    if folder is not None:
        several.resume(folder)
    net.train()
    try:
        for step in several.steps():
            for why in step.stopped.values():
                raise ModelError("E-MODEL-032", why, fix="lower the rate: --learning-rate")
            if folder is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                several.save(folder)
                saved = time.monotonic()
            yield step
    except GeneratorExit:  # the caller stops here, between two steps
        if folder is not None:
            several.save(folder)
        raise
    finally:
        net.eval()


def _gains(
    bank: Bank, decoder: Decoder, people: People, held: Sequence[int]
) -> tuple[tuple[Gain, ...], Gain]:
    prompts = [[*people.shared, *people.prompts[n]] for n in held]
    gold = np.array([people.gold[n] for n in held])
    users = [people.users[n] for n in held]
    uses: list[list[Use]] = [[{ALONE: 1.0} for _ in users], [_use(bank, user) for user in users]]
    right = [
        (mixed_scores(bank, decoder, prompts, people.trie, use).argmax(1) == gold).astype(float)
        for use in uses
    ]
    places: dict[str, list[int]] = {}
    for place, user in enumerate(users):
        places.setdefault(user, []).append(place)
    gains = [_gain(user, np.array(at), right, bank) for user, at in places.items()]
    return tuple(gains), _gain("", np.arange(len(held)), right, bank)


def _gain(user: str, at: Integers, right: Sequence[Floats], bank: Bank) -> Gain:
    alone, personal = right[0][at], right[1][at]
    difference, low, high = paired_difference(personal, alone)
    return Gain(
        user=user,
        rows=len(at),
        own=USER + user in bank.methods,
        alone=float(alone.mean()),
        personal=float(personal.mean()),
        difference=difference,
        low=low,
        high=high,
    )


@torch.no_grad()
def mixed_scores(
    bank: Bank,
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    trie: LabelTrie,
    uses: Sequence[Mapping[str, float]],
) -> Floats:
    """Return log p(label | prompt) among the labels, (prompts, labels), each by its own `uses`.

    `uses`: what each prompt goes through, {name: weight}.
    """
    rows = [trie.row(prompt) for prompt in prompts]
    decoder.check_length([len(row.ids) for row in rows])
    nodes, head = len(trie.tokens), LabelHead(decoder.net, trie)
    scores = np.zeros((len(rows), len(trie.paths)))
    for part in split_by_budget([len(row.ids) for row in rows], PACK_TOKENS):
        pack = build_pack([rows[n] for n in part], device=decoder.device)
        with bank.using({place: uses[n] for place, n in enumerate(part)}, pack.rows):
            states = decoder.run(pack)
        found = head.scores(states.view(len(part), nodes, -1), "trie")
        scores[part] = found.double().cpu().numpy()
    return scores
