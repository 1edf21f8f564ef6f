"""Personalisation: users who disagree are told apart, and what is served is what trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapwood.errors import DataError, ModelError
from sapwood.methods.folder import attach_trained
from sapwood.methods.parts import parts
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.testing import tiny_net
from sapwood.training import Recipe
from sapwood.training.personal import People, Personal, mixed_scores, personalise

TRIE = build_trie([[10], [20, 21]])


def people(rows=96, few=3):
    """Two users who answer the opposite of each other, and one with too few rows."""
    rng = np.random.default_rng(0)
    users = [("ann", "bob")[n % 2] for n in range(rows)] + ["cy"] * few
    signs = rng.integers(0, 2, len(users))
    prompts = [[*rng.integers(60, 90, 4).tolist(), 30 + int(s)] for s in signs]
    gold = [int(s) ^ (user == "bob") for s, user in zip(signs, users, strict=True)]
    return People(prompts=prompts, gold=gold, users=users, trie=TRIE, shared=(5, 6))


def finish(run):
    rounds = []
    while True:
        try:
            rounds.append(next(run))
        except StopIteration as end:
            return rounds, end.value


SETTINGS = Personal(
    rank=4, user_rank=2, fewest=8, held_out=0.25,
    recipe=Recipe(learning_rate=2e-2, batch_size=12, epochs=8),
)  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return finish(personalise(Decoder(tiny_net("llama")), people(), SETTINGS))


def test_users_who_disagree_gain_and_those_with_few_rows_share(made):
    rounds, found = made
    assert {name for r in rounds for name in r.steps} == {"alone", "personal"}
    assert found.users == ("ann", "bob")
    own = {gain.user: gain for gain in found.gains}
    assert own["ann"].own and own["bob"].own and not own["cy"].own
    assert own["ann"].rows == own["bob"].rows == 12 and own["cy"].rows == 1
    assert found.overall.rows == 25
    assert found.overall.alone < 0.8 < found.overall.personal
    assert found.overall.difference > 0 and found.overall.low > 0
    for gain in found.gains:
        assert gain.low <= gain.difference <= gain.high
        assert gain.difference == pytest.approx(gain.personal - gain.alone)


def test_what_a_user_is_served_with_is_one_plain_lora_that_answers_the_same(made):
    _, found = made
    bank, rows = found.bank, people()
    prompts = [[5, 6, *prompt] for prompt in rows.prompts[:6]]
    decoder = Decoder(bank.net)
    for user in ("ann", "cy", "stranger"):
        known = user in found.users
        use = {"shared": 1.0, f"user {user}": 1.0} if known else {"shared": 1.0}
        expected = mixed_scores(bank, decoder, prompts, TRIE, [use] * 6)
        net = tiny_net("llama")
        method, tensors = found.adaptation(user)
        assert method.rank == (6 if known else 4)
        attach_trained(net, method, tensors, where="here")
        scores = Decoder(net).label_scores(prompts, TRIE, normalise="trie")
        np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_mixed_scores_are_those_of_each_alone(made):
    _, found = made
    decoder = Decoder(found.bank.net)
    prompts = [[5, 6, *prompt] for prompt in people().prompts[:6]]
    uses = [{"alone": 1.0}, {}, {"shared": 1.0}, {"user ann": 1.0}, {}, {"shared": 0.5}]
    scores = mixed_scores(found.bank, decoder, prompts, TRIE, uses)
    for number, use in enumerate(uses):
        with torch.no_grad(), found.bank.using(use):
            one = decoder.label_scores([prompts[number]], TRIE, normalise="trie")
        np.testing.assert_allclose(scores[number], one[0], atol=1e-5)


def test_too_few_rows_and_divergence_leave_the_plain_base():
    net = tiny_net("llama")
    with pytest.raises(DataError, match="No user has 8 rows") as caught:
        finish(personalise(Decoder(net), people(6), SETTINGS))
    assert caught.value.details[0] == "'ann' has 2"
    wild = Personal(fewest=2, recipe=Recipe(learning_rate=1e30, batch_size=4, epochs=3))
    with pytest.raises(ModelError, match="diverged at step"):
        finish(personalise(Decoder(net), people(12), wild))
    assert not list(parts(net))
