"""Span corruption, prefix-LM and UL2: T5's arithmetic, its figure, and nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import ConfigError
from sapwood.objectives import NO_TARGET, Draws, Vocabulary, Window, objective
from sapwood.objectives.prefix_lm import least
from sapwood.objectives.span import Span, corrupted, lengths, noise_mask, span_counts
from sapwood.testing.objectives import documents_of, piece_of

MANY = Vocabulary(size=9000, eos=1, sentinels=tuple(range(8999, 7999, -1)), modes=(4, 5, 6))


def test_the_figure_of_the_t5_paper():
    """Thank you <X> me to your party <Y> week . and <X> for inviting <Y> last <Z>."""
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week", "."]
    ids = np.arange(10, 10 + len(words))
    noise = np.isin(words, ["for", "inviting", "last"])
    small = Vocabulary(size=99, eos=1, sentinels=(98, 97, 96))
    names = {98: "<X>", 97: "<Y>", 96: "<Z>"} | dict(zip(ids.tolist(), words, strict=True))
    shown, hidden = corrupted(ids, noise, small, closing=True)
    assert " ".join(names[n] for n in shown) == "Thank you <X> me to your party <Y> week ."
    assert " ".join(names[n] for n in hidden) == "<X> for inviting <Y> last <Z>"
    # T5's code, other than the figure, has no closing sentinel.
    assert (
        " ".join(names[n] for n in corrupted(ids, noise, small)[1]) == "<X> for inviting <Y> last"
    )


@pytest.mark.parametrize(
    ("inputs", "density", "mean", "tokens", "targets"),
    [
        (512, 0.15, 3.0, 568, 114),
        (128, 0.15, 3.0, 141, 29),
        (256, 0.15, 3.0, 284, 58),
        (512, 0.5, 3.0, 766, 512),
        (512, 0.15, 8.0, 588, 100),
    ],
)
def test_lengths_are_those_of_t5(inputs, density, mean, tokens, targets):
    task = Span(density=density, mean=mean)
    assert task.measure(inputs, MANY).capacity == tokens
    assert lengths(tokens, density, mean) == (inputs, targets)
    text = documents_of([[10 + n % 500 for n in range(tokens * 3)]])
    draws = Draws(task, text, MANY, inputs)
    assert draws.plan(0) == 3
    for index in range(3):
        example = draws.draw(0, index)
        assert len(example["input_ids"]) == inputs
        assert len(example["labels"]) == targets


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.integers(1, 300),
    density=st.floats(0.01, 0.99),
    mean=st.floats(1, 70),
    closing=st.booleans(),
    form=st.sampled_from(["pair", "joined"]),
    seed=st.integers(0, 1000),
)
def test_the_text_comes_back(tokens, density, mean, closing, form, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(10, 7000, size=tokens).tolist()
    task = Span(density=density, mean=mean, closing=closing, form=form)
    made = task.example(Window((piece_of(ids),)), rng, MANY)
    back = task.original(made, MANY)
    assert back[~MANY.special[back]].tolist() == ids
    used = [n for n in made["input_ids"].tolist() if n in MANY.sentinels]
    target = made["labels"][made["labels"] != NO_TARGET]
    named = target[np.isin(target, MANY.sentinels)].tolist()
    spans = list(MANY.sentinels[: len(named)])
    assert named == spans  # in order, from the first
    assert used == (spans[: len(spans) - closing] + (spans if form == "joined" else []))
    if form == "pair":
        assert made["input_ids"][-1] == made["labels"][-1] == MANY.eos
    else:
        assert made["input_ids"][int(made["prefix"]) :].tolist() == target.tolist()
    if tokens > 1:
        hidden, count = span_counts(tokens, density, mean)
        assert len(target) == hidden + count + 1 + closing
        assert len(named) == count + closing
        assert abs(hidden - density * tokens) <= 1


def test_noise_begins_after_text_and_ends_the_text(rng):
    for _ in range(50):
        noise = noise_mask(100, 0.15, 3.0, rng)
        assert not noise[0]
        assert noise[-1]
        assert noise.sum() == 15
        assert (np.diff(noise.astype(int)) == 1).sum() == 5
    shares = np.mean([noise_mask(100, 0.15, 3.0, rng) for _ in range(4000)], axis=0)
    assert abs(shares[20:80].mean() - 0.15) < 0.02


def test_windows_shrink_where_sentinels_are_few():
    few = Vocabulary(size=999, eos=1, sentinels=tuple(range(998, 988, -1)))
    task = Span()
    tokens = task.measure(512, few).capacity
    assert span_counts(tokens, 0.15, 3.0)[1] == 10 < span_counts(tokens + 1, 0.15, 3.0)[1] + 1
    draws = Draws(task, documents_of([list(range(10, 910))]), few, 512)
    for index in range(draws.plan(0)):
        made = draws.draw(0, index)
        assert set(made["labels"].tolist()) & set(few.sentinels)
    with pytest.raises(ConfigError) as caught:
        Draws(
            Span(closing=True), documents_of([[5, 6]]), Vocabulary(size=9, eos=1, sentinels=(2,)), 9
        )
    assert str(caught.value).startswith("E-CONFIG-204  No examples can be drawn for 'span(closing")


def test_prefixes_are_uniform_and_seen_both_ways(rng):
    ids = list(range(20, 41))
    task = objective("prefix_lm")
    cuts = []
    for _ in range(3000):
        made = task.example(Window((piece_of(ids),)), rng, MANY)
        cut = int(made["prefix"])
        assert made["input_ids"].tolist() == [1, *ids, 1]
        assert (made["labels"][:cut] == NO_TARGET).all()
        assert made["labels"][cut:].tolist() == [*ids, 1][cut - 1 :]
        cuts.append(cut - 1)
    counts = np.bincount(cuts, minlength=21)[1:21]
    assert (min(cuts), max(cuts)) == (1, 20)
    assert ((counts - 150) ** 2 / 150).sum() < 45  # 19 degrees of freedom: one in a thousand
    assert (least(101, 0.25), least(101, 0.5), least(2, 0.5)) == (50, 1, 1)
    made = objective("prefix_lm(form=pair, density=0.25)").example(
        Window((piece_of(ids),)), rng, MANY
    )
    assert [*made["input_ids"][:-1], *made["labels"][:-1]] == ids
    assert made["input_ids"][-1] == made["labels"][-1] == 1
    assert len(made["labels"]) <= 12


def test_ul2_is_seven_denoisers_in_equal_shares_after_their_modes():
    text = documents_of([[10 + n % 500 for n in range(60_000)]])
    draws = Draws(objective("ul2"), text, MANY, 64)
    members, shares = [], {}
    for index in range(draws.plan(0)):
        made = draws.draw(0, index)
        member = int(made["member"])
        mode, denoiser = draws.objective.denoisers[member]
        assert made["input_ids"][0] == MANY.modes[mode]
        assert len(made["input_ids"]) <= 64
        targets = np.sum(~MANY.special[made["labels"]])
        whole = np.sum(~MANY.special[made["input_ids"]]) + targets
        shares.setdefault((mode, str(denoiser)), []).append(targets / whole)
        members.append(member)
    counts = np.bincount(members, minlength=7)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 23  # 6 degrees, 1 in 1000
    found = {key: float(np.mean(each)) for key, each in shares.items()}
    assert found == pytest.approx(
      {
        (0, "span"): 0.15, (0, "span(mean=8.0)"): 0.15, (1, "span(density=0.5)"): 0.5,
        (1, "span(density=0.5, mean=8.0)"): 0.5, (1, "span(mean=64.0)"): 0.15,
        (1, "span(density=0.5, mean=64.0)"): 0.5, (2, "prefix_lm(density=0.25, form=pair)"): 0.25,
      }, abs=0.03
    )  # fmt: skip
    plain = Vocabulary(size=9000, eos=1, sentinels=MANY.sentinels)
    made = Draws(objective("ul2"), text, plain, 64).draw(0, 0)
    assert made["input_ids"][0] not in MANY.modes


def test_wrong_settings_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        objective("span(density=1.0, mean=0.5, form=triple)")
    assert str(caught.value) == (
        "E-CONFIG-202  The settings of 'span' are wrong.\n"
        "  • density must be between 0 and 1\n"
        "  • mean must be 1 token or more, not 0.5\n"
        "  • form must be one of pair, joined, not 'triple'\n"
        "  Fix: start from span(density=0.15, mean=3.0, closing=False, form=pair)"
    )
    with pytest.raises(ConfigError, match="prefix_lm") as caught:
        objective("prefix_lm(density=0.6, form=x)")
    assert len(caught.value.details) == 2
    with pytest.raises(ConfigError, match="ul2"):
        objective("ul2(form=x)")
