"""Permutation language modelling: XLNet's masks by hand, and who depends on whom in a real net."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DataCollatorForPermutationLanguageModeling

from sapwood.errors import ConfigError
from sapwood.objectives import Draws, Vocabulary, Window, objective
from sapwood.objectives.masking import words_of
from sapwood.objectives.plm import chosen_in_context, permutation_mask
from sapwood.testing import sample_documents, tiny_net
from sapwood.testing.objectives import piece_of

SMALL = Vocabulary(size=300, pad=0, cls=3, sep=4, mask=6)


def test_the_masks_of_the_xlnet_paper():
    """Figure 4, the order 3, 2, 4, 1: rows see columns; the content stream sees itself, too."""
    ranks = np.array([3, 1, 0, 2])  # of positions 1 to 4
    every, none = np.ones(4, dtype=bool), np.zeros(4, dtype=bool)
    sees = ~permutation_mask(ranks, every, none)
    query = [[0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]]
    assert sees.astype(int).tolist() == query
    content = [[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 1, 0], [0, 1, 1, 1]]
    assert (sees | np.eye(4, dtype=bool)).astype(int).tolist() == content


def test_what_is_no_target_is_seen_by_all_and_special_tokens_take_part_in_the_order():
    """Positions: text, target, target, separator; order: separator, first target, second."""
    ranks = np.array([9, 1, 2, 0])
    targets = np.array([0, 1, 1, 0], dtype=bool)
    functional = np.array([0, 0, 0, 1], dtype=bool)
    sees = ~permutation_mask(ranks, targets, functional)
    assert sees.astype(int).tolist() == [
        [1, 0, 0, 0],  # text sees text only: else a target could be seen through it
        [1, 0, 0, 1],
        [1, 1, 0, 1],
        [1, 0, 0, 1],  # the separator sees itself
    ]


def whole(ids, line="plm", seed=0, vocabulary=SMALL):
    """Return an example of one document."""
    return objective(line).example(
        Window((piece_of(ids),)), np.random.default_rng(seed), vocabulary
    )


def answers(net, example):
    """Return the net's scores of the targets, (k, vocabulary)."""
    with torch.no_grad():
        out = net(
            input_ids=torch.as_tensor(example["input_ids"])[None],
            token_type_ids=torch.as_tensor(example["token_type_ids"])[None],
            perm_mask=torch.as_tensor(example["perm_mask"])[None].float(),
            target_mapping=torch.as_tensor(example["target_mapping"])[None].float(),
        )
    return out.logits[0]


def influence(net, ids, make, places):
    """Return (targets, places): does another token at a place of the text change an answer?"""
    before = answers(net, make(ids))
    changed = []
    for place in places:
        other = list(ids)
        other[place] = 20 + (ids[place] + 7) % 250
        changed.append((answers(net, make(other)) - before).abs().amax(dim=1) > 1e-5)
    return torch.stack(changed, dim=1).numpy()


@pytest.fixture(scope="module")
def net():
    return tiny_net("xlnet")


IDS = np.random.default_rng(5).integers(20, 290, size=64).tolist()


def test_every_ordered_pair_of_targets_depends_and_none_leaks(net):
    example = whole(IDS)
    places = example["target_mapping"].argmax(axis=1)
    found = influence(net, IDS, whole, places)
    count = len(places)
    assert count in (10, 11)  # 64 / 6
    ordered = ~example["perm_mask"][np.ix_(places, places)]
    assert (found == ordered).all()
    assert found.sum() == count * (count - 1) // 2
    assert not found.diagonal().any()
    assert sorted(found.sum(axis=1).tolist()) == list(range(count))  # one order of all of them
    # What is no target is seen by every target.
    rest = [n for n in range(len(IDS)) if n not in places]
    assert influence(net, IDS, whole, rest).all()


def test_the_collator_of_transformers_is_no_permutation_language_modelling(net):
    class Tokenizer:
        mask_token, mask_token_id, pad_token, pad_token_id = "<mask>", 6, "<pad>", 0

        def get_special_tokens_mask(self, ids, already_has_special_tokens):
            return [int(n < 20) for n in ids]

    collator = DataCollatorForPermutationLanguageModeling(tokenizer=Tokenizer())

    def make(ids):
        torch.manual_seed(0)
        inputs, blocked, mapping, labels = collator.torch_mask_tokens(torch.tensor([ids]))
        chosen = (labels[0] != -100).numpy()
        return {
            "input_ids": inputs[0].numpy(),
            "token_type_ids": np.zeros(len(ids), dtype=np.int64),
            "perm_mask": blocked[0].numpy(),
            "target_mapping": mapping[0].numpy()[chosen],
        }

    example = make(IDS)
    places = example["target_mapping"].argmax(axis=1)
    assert len(places) > 4
    assert (example["input_ids"][places] == 6).all()  # the content stream has no targets
    assert not influence(net, IDS, make, places).any()  # so no target knows of another


def test_memory_sees_nothing_of_what_follows_and_is_seen_by_all_of_it(net):
    def make(ids):
        return whole(ids, "plm(reuse=0.5)")

    example = make(IDS)
    split = len(example["input_ids"]) // 2
    places = example["target_mapping"].argmax(axis=1)
    front = places < split
    assert 4 <= front.sum() <= 7
    assert 4 <= (~front).sum() <= 7
    assert example["perm_mask"][:split, split:].all()
    assert not example["perm_mask"][split:, :split].any()
    found = influence(net, IDS, make, range(len(IDS)))
    assert not found[front][:, split:].any()
    assert found[~front][:, :split].all()
    inside = found[~front][:, places[~front]]
    count = int((~front).sum())
    assert inside.sum() == count * (count - 1) // 2


def test_documents_of_an_example_do_not_see_each_other(net):
    def make(ids):
        pieces = (piece_of(ids[:30]), piece_of(ids[30:]))
        return objective("plm").example(Window(pieces), np.random.default_rng(1), SMALL)

    example = make(IDS)
    places = example["target_mapping"].argmax(axis=1)
    documents = example["documents"][places]
    assert set(documents) == {0, 1}
    found = influence(net, IDS, make, range(len(IDS)))
    assert not found[documents == 0][:, 30:].any()
    assert not found[documents == 1][:, :30].any()
    assert example["input_ids"].tolist() == [*IDS[:30], 4, 3, *IDS[30:], 4, 3]
    assert example["token_type_ids"].tolist() == [*[0] * 31, 2, *[0] * 35, 2]


def test_pairs_have_the_frame_and_the_segments_of_xlnet():
    window = Window((piece_of([50, 51, 52]), piece_of([60, 61])), 1)
    made = objective("plm+nsp").example(window, np.random.default_rng(0), SMALL)
    assert made["input_ids"].tolist() == [50, 51, 52, 4, 60, 61, 4, 3]
    assert made["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    assert made["next_sentence_label"] == 1
    assert len(made["labels"]) == 1


@settings(max_examples=80, deadline=None)
@given(
    tokens=st.integers(1, 120),
    rate=st.floats(0.05, 1.0),
    reuse=st.sampled_from([0.0, 0.3, 0.5]),
    seed=st.integers(0, 1000),
)
def test_real_tokens_stay_and_targets_are_whole_words(tokens, rate, reuse, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(20, 290, size=tokens)
    starts = rng.integers(0, 2, size=tokens)
    starts[0] = 1
    task = objective(f"plm(rate={rate}, reuse={reuse})")
    window = Window((piece_of(ids.tolist(), starts.tolist()),))
    made = task.example(window, rng, SMALL)
    assert made["input_ids"].tolist() == [*ids, 4, 3]
    mapping = made["target_mapping"]
    places = mapping.argmax(axis=1)
    assert (mapping.sum(axis=1) == 1).all()
    assert (np.diff(places) > 0).all()
    assert made["labels"].tolist() == ids[places].tolist()
    blocked = made["perm_mask"]
    assert blocked[places, places].all()
    if not reuse:
        # For every two ordered positions exactly one sees the other.
        sees = ~blocked[np.ix_(places, places)]
        assert (sees ^ sees.T ^ np.eye(len(places), dtype=bool)).all()
        first, end = words_of(starts.astype(bool), np.arange(tokens))
        inside = np.isin(np.arange(tokens), places)
        for low, high in zip(first, end, strict=True):
            assert inside[low:high].all() or not inside[low:high].any()


def test_one_in_six_tokens_is_a_target_in_spans_within_contexts(vocabulary, rng):
    draws = Draws(objective("plm"), sample_documents(300), vocabulary, 128)
    examples = [draws.draw(0, index) for index in range(draws.plan(0))]
    targets = sum(len(e["labels"]) for e in examples)
    text = sum(int((~vocabulary.special[e["input_ids"]]).sum()) for e in examples)
    assert abs(targets / text - 1 / 6) < 0.003
    starts = np.ones(420, dtype=bool)
    hits, runs = np.zeros(420), []
    for _ in range(2000):
        chosen = chosen_in_context(starts, np.arange(420), 60, rng)
        hits[chosen] += 1
        runs += np.diff(np.flatnonzero(np.diff(chosen, prepend=-2, append=999) != 1)).tolist()
    assert hits.sum() == 2000 * 60  # 420 / 7: spans give most, single words the rest
    assert hits[:60].sum() / hits[-60:].sum() == pytest.approx(1.0, abs=0.12)  # no end is favoured
    assert 1.3 < np.mean(runs) < 2.3  # 2.2 for n from 1 to 5 with 1/n, less for single words


def test_wrong_settings_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        objective("plm(rate=0, reuse=1)")
    assert caught.value.details == (
        "rate must be above 0, or nothing is learnt",
        "reuse must be below 1, or nothing follows the memory",
    )
