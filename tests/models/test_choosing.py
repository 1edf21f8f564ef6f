"""What may come next and how probable it is: against transformers' own processors and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sapwood.errors import ConfigError
from sapwood.models.choosing import Sampling, Stops, cut_at, drawn, weighed
from sapwood.models.decoder import Decoder
from sapwood.models.generate import generate, stream
from sapwood.testing import tiny_net

PROMPT = [30, 31, 32, 33]


@settings(deadline=None)
@given(
    ids=st.lists(st.integers(0, 11), min_size=1, max_size=20),
    penalty=st.sampled_from([0.7, 1.0, 1.3]),
    size=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_penalties_equal_transformers(ids, penalty, size, seed):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 12)).astype(np.float32))
    before, whole = logits.clone(), torch.tensor([ids])
    wanted = logits.clone()
    if penalty != 1:
        wanted = RepetitionPenaltyLogitsProcessor(penalty)(whole, wanted)
    if size:
        wanted = NoRepeatNGramLogitsProcessor(size)(whole, wanted)
    sampling = Sampling(repetition_penalty=penalty, no_repeat=size)
    torch.testing.assert_close(weighed(logits, [ids], [None], sampling), wanted)
    assert torch.equal(logits, before)


@settings(deadline=None)
@given(
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([0.3, 0.8, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 0.6]),
    temperature=st.sampled_from([0.4, 1.0, 1.7]),
    seed=st.integers(0, 99),
)
def test_what_is_drawn_from_equals_transformers(top_k, top_p, min_p, temperature, seed):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 12)))
    wanted = TemperatureLogitsWarper(temperature)(None, logits)
    for warper in (
        TopKLogitsWarper(top_k) if top_k else None,
        TopPLogitsWarper(top_p) if top_p < 1 else None,
        MinPLogitsWarper(min_p) if min_p else None,
    ):
        wanted = warper(None, wanted) if warper else wanted
    shares = wanted.softmax(-1)[0].numpy()
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    grid = (np.arange(4000) + 0.5) / 4000  # evenly: no chance in the test
    found = drawn(logits.expand(len(grid), -1), grid, sampling).numpy()
    np.testing.assert_allclose(np.bincount(found, minlength=12) / 4000, shares, atol=6e-4)


def test_no_run_of_tokens_comes_twice():
    net = tiny_net("llama", vocabulary=40)  # few tokens: greedy answers repeat themselves
    free = generate(Decoder(net), [[3, 4]], sampling=Sampling(tokens=40))[0][0].ids
    pairs = list(itertools.pairwise(free))
    assert len(set(pairs)) < len(pairs)
    for way in ({}, {"beams": 3}, {"contrast": 0.5, "top_k": 3}, {"temperature": 0.8}):
        sampling = Sampling(tokens=40, no_repeat=2, **way)
        ids = generate(Decoder(net), [[3, 4]], sampling=sampling)[0][0].ids
        pairs = list(itertools.pairwise(ids))
        assert len(set(pairs)) == len(pairs), way


def test_no_stop_token_before_the_least_length():
    decoder = Decoder(tiny_net("llama"))
    free = generate(decoder, [PROMPT], sampling=Sampling(tokens=10))[0][0].ids
    stop = (free[2], free[6])
    early = generate(decoder, [PROMPT], sampling=Sampling(tokens=10, stop_ids=stop))[0][0]
    assert len(early.ids) == 2 and early.stopped
    sampling = Sampling(tokens=10, stop_ids=stop, least_tokens=5)
    late = generate(decoder, [PROMPT], sampling=sampling)[0][0]
    assert len(late.ids) >= 5 and late.ids[:2] == free[:2] and late.ids[2] != free[2]


@pytest.mark.parametrize("way", [{}, {"beams": 3}, {"contrast": 0.5, "top_k": 3}])
@pytest.mark.parametrize("packed", [True, False])
def test_stop_words_end_an_answer_where_they_first_stand(way, packed, tiny_tokenizer):
    if "contrast" in way and not packed:
        pytest.skip("refused, see test_contrastive")
    decoder = Decoder(tiny_net("llama"))
    if not packed:
        decoder.why_padded = "asked for by the test"
    free = generate(decoder, [PROMPT], sampling=Sampling(tokens=24, **way))[0][0]
    text = tiny_tokenizer.decode(free.ids, skip_special_tokens=True)
    place = next(
        n for n in range(6, len(text)) if "\N{REPLACEMENT CHARACTER}" not in text[n : n + 2]
    )
    stop = text[place : place + 2]
    sampling = Sampling(tokens=24, stops=(stop,), **way)
    found = generate(decoder, [PROMPT], sampling=sampling, tokenizer=tiny_tokenizer)[0][0]
    said = tiny_tokenizer.decode(found.ids, skip_special_tokens=True)
    assert found.stopped and len(found.ids) < 24
    assert said.count(stop) == 1 and said.index(stop) > len(said) - len(stop) - 6
    if "beams" not in way:  # a search for the best whole answers may end in another
        assert cut_at(text, [stop]) == cut_at(said, [stop])
        streamed = stream(decoder, PROMPT, sampling=sampling, tokenizer=tiny_tokenizer)
        assert tuple(streamed) == found.ids


@settings(deadline=None)
@given(st.text(max_size=12), st.text(min_size=1, max_size=4), st.text(max_size=3))
def test_words_are_seen_as_soon_as_they_are_whole(before, stop, after):
    raw = (before + stop + after).encode()

    def read(ids):
        return bytes(ids).decode("utf-8", "replace")

    stops = Stops([stop], read)
    first = next(n for n in range(len(raw) + 1) if stop in read(raw[:n]))
    reached = [n for n in range(len(raw) + 1) if stops.reached(list(raw[:n]))]
    assert reached and reached[0] <= max(first, 1)


def test_stop_words_need_a_tokenizer():
    with pytest.raises(ConfigError, match="stop words need a tokenizer"):
        generate(Decoder(tiny_net("llama")), [PROMPT], sampling=Sampling(stops=("x",)))


def test_a_number_of_its_own_gives_a_prompt_its_own_draws():
    decoder, sampling = Decoder(tiny_net("llama")), Sampling(tokens=8, temperature=1.0)
    same = generate(decoder, [PROMPT, PROMPT], sampling=sampling, numbers=[7, 7])
    other = generate(decoder, [PROMPT, PROMPT], sampling=sampling, numbers=[7, 8])
    assert same[0][0].ids == same[1][0].ids == other[0][0].ids != other[1][0].ids
