"""Beam search equals transformers' own in tokens and scores, and finds what is most probable."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from transformers import GenerationConfig
from transformers.generation import RepetitionPenaltyLogitsProcessor

from sapwood.errors import ConfigError, ModelError
from sapwood.launch import Runtime
from sapwood.models.decoder import Decoder
from sapwood.models.generate import Sampling, generate, stream
from sapwood.models.grammar import Guides
from sapwood.models.load import load_base
from sapwood.testing import tiny_net

KINDS = ("llama", "gpt2", "gemma3_text", "qwen3")
CONTEXT = tuple(range(20, 50))


def prompts(seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [list(map(int, rng.integers(20, 300, n))) for n in (4, 17, 1, 9)]


def reference(net, ids, sampling, processors=()):
    """Return transformers' answers, without the stop token, and their scores."""
    whole = torch.tensor([ids])
    config = GenerationConfig(
        max_new_tokens=sampling.tokens, do_sample=False, num_beams=sampling.beams,
        num_return_sequences=sampling.samples, length_penalty=sampling.length_penalty,
        eos_token_id=list(sampling.stop_ids) or None, pad_token_id=0,
        min_new_tokens=sampling.least_tokens or None,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    made = net.generate(
        whole, attention_mask=torch.ones_like(whole), generation_config=config,
        logits_processor=list(processors),
    )  # fmt: skip
    answers = []
    for row in made.sequences[:, len(ids) :].tolist():
        end = next((n for n, t in enumerate(row) if t in sampling.stop_ids), len(row))
        answers.append(tuple(row[:end]))
    return answers, made.sequences_scores.tolist()


def check(found, wanted) -> None:
    answers, scores = wanted
    assert [one.ids for one in found] == answers
    assert [one.score for one in found] == pytest.approx(scores, abs=2e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [CONTEXT, ()])
def test_beams_equal_transformers_in_tokens_and_scores(kind, context):
    sampling = Sampling(tokens=10, beams=4, samples=3)
    decoder = Decoder(tiny_net(kind))
    found = generate(decoder, prompts(), decoder.encode(context), sampling=sampling)
    for prompt, own in zip(prompts(), found, strict=True):
        check(own, reference(tiny_net(kind), [*context, *prompt], sampling))


@pytest.mark.parametrize("penalty", [-0.5, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("beams", [2, 5])
def test_stop_tokens_and_length_penalties_equal_transformers(penalty, beams):
    # tokens that a free search writes, so that beams end at different lengths
    free = generate(Decoder(tiny_net("llama")), prompts(), sampling=Sampling(tokens=8, beams=beams))
    ends = tuple({own[0].ids[2] for own in free} | {free[0][0].ids[5]})
    sampling = Sampling(
        tokens=12, beams=beams, samples=beams, length_penalty=penalty, stop_ids=ends
    )
    found = generate(Decoder(tiny_net("llama")), prompts(3), sampling=sampling)
    found += generate(Decoder(tiny_net("llama")), prompts(), sampling=sampling)
    assert any(one.stopped for own in found for one in own)
    for prompt, own in zip([*prompts(3), *prompts()], found, strict=True):
        check(own, reference(tiny_net("llama"), prompt, sampling))


def test_penalties_and_the_least_length_equal_transformers():
    prompt, net = prompts()[1], tiny_net("qwen2")
    free = generate(Decoder(tiny_net("qwen2")), [prompt], sampling=Sampling(tokens=6, beams=3))
    stop = (free[0][0].ids[1],)
    sampling = Sampling(
        tokens=8, beams=3, least_tokens=4, repetition_penalty=0.6, stop_ids=stop, samples=3
    )
    found = generate(Decoder(net), [prompt], sampling=sampling)[0]
    own = RepetitionPenaltyLogitsProcessor(0.6, prompt_ignore_length=len(prompt))
    check(found, reference(tiny_net("qwen2"), prompt, sampling, [own]))
    assert all(len(one.ids) >= 4 for one in found)
    assert found[0].log_probability != pytest.approx(found[0].score * 8)  # the base's own


def test_enough_beams_find_the_most_probable_answer_of_all():
    net = tiny_net("llama", vocabulary=24)
    prompt = [5, 9, 7]
    sampling = Sampling(tokens=2, beams=24, length_penalty=0.0)
    (best,), = generate(Decoder(net), [prompt], sampling=sampling)  # fmt: skip
    pairs = list(itertools.product(range(24), repeat=2))
    logs = net(torch.tensor([[*prompt, *pair] for pair in pairs])).logits.log_softmax(-1)
    totals = {
        pair: float(row[2, pair[0]] + row[3, pair[1]])
        for pair, row in zip(pairs, logs, strict=True)
    }
    assert best.ids == max(totals, key=totals.__getitem__)
    assert best.score == pytest.approx(max(totals.values()), abs=1e-4)
    assert best.log_probability == pytest.approx(best.score, abs=1e-4)


def test_one_prompt_is_answered_alike_alone_and_among_others():
    decoder, sampling = Decoder(tiny_net("gemma3_text")), Sampling(tokens=9, beams=3)
    together = generate(decoder, prompts(), decoder.encode(CONTEXT), sampling=sampling)
    for prompt, own in zip(prompts(), together, strict=True):
        alone = generate(decoder, [prompt], decoder.encode(CONTEXT), sampling=sampling)[0]
        assert [one.ids for one in alone] == [one.ids for one in own]
    streamed = stream(decoder, prompts()[0], decoder.encode(CONTEXT), sampling=sampling)
    assert tuple(streamed) == together[0][0].ids


def test_a_base_that_cannot_be_packed_gives_the_same_beams():
    packed, other = Decoder(tiny_net("llama")), Decoder(tiny_net("llama"))
    other.why_padded = "asked for by the test"
    sampling = Sampling(tokens=7, beams=3, samples=2, no_repeat=2, repetition_penalty=1.2)
    expected = generate(packed, prompts(), packed.encode(CONTEXT), sampling=sampling)
    found = generate(other, prompts(), other.encode(CONTEXT), sampling=sampling)
    for one, two in zip(found, expected, strict=True):
        assert [c.ids for c in one] == [c.ids for c in two]
        assert [c.score for c in one] == pytest.approx([c.score for c in two], abs=1e-3)
        assert [c.log_probability for c in one] == pytest.approx(
            [c.log_probability for c in two], abs=1e-3
        )


@pytest.fixture(scope="module")
def guides(tiny_tokenizer):
    return Guides(copy.deepcopy(tiny_tokenizer), 300, [tiny_tokenizer.eos_token_id])


def test_every_beam_follows_the_grammar(guides, tiny_tokenizer):
    answers = ("red", "green", "blue", "grey")
    grammar = "start: " + " | ".join(f'"{word}"' for word in answers)
    end = (tiny_tokenizer.eos_token_id,)
    sampling = Sampling(tokens=12, beams=4, samples=4, stop_ids=end, length_penalty=0.0)
    decoder, given = Decoder(tiny_net("llama")), prompts()
    found = generate(
        decoder, given, sampling=sampling, guides=[guides.guide(grammar) for _ in given]
    )
    for prompt, own in zip(given, found, strict=True):
        words = [tiny_tokenizer.decode(one.ids) for one in own]
        assert len({one.ids for one in own}) == len(own)
        assert set(words) <= set(answers) and all(one.stopped for one in own)
        # complete words end without a stop token; the score is the base's own probability of them
        assert [one.score for one in own] == pytest.approx(
            [_log(decoder.net, prompt, one.ids) for one in own], abs=1e-3
        )
        assert [one.score for one in own] == sorted((one.score for one in own), reverse=True)


def _log(net, prompt, ids) -> float:
    whole = [*prompt, *ids]
    logs = net(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(logs[n - 1, whole[n]]) for n in range(len(prompt), len(whole)))


def test_what_a_grammar_and_a_setting_exclude_is_refused(guides):
    guide = [guides.guide('start: "red"')]
    wrong = Sampling(tokens=12, beams=2, no_repeat=2, least_tokens=3)
    with pytest.raises(ConfigError) as caught:
        generate(Decoder(tiny_net("llama")), prompts()[:1], sampling=wrong, guides=guide)
    assert caught.value.code == "E-CONFIG-130"
    assert list(caught.value.details) == [
        "no_repeat forbids tokens that a grammar may demand",
        "least_tokens forbids tokens that a grammar may demand",
    ]
    other = Decoder(tiny_net("llama"))
    other.why_padded = "asked for by the test"
    with pytest.raises(ModelError, match="beam search under a grammar: asked for by the test"):
        generate(other, prompts()[:1], sampling=Sampling(beams=2), guides=guide)


def test_ways_to_choose_exclude_each_other():
    with pytest.raises(ConfigError) as caught:
        Sampling(temperature=0.7, beams=3, samples=4, contrast=0.6, top_k=1)
    assert list(caught.value.details) == [
        "temperature and beams and contrast are ways to choose: name one",
        "3 beams give at most as many samples, not 4",
        "contrast chooses among top_k of 2 or more tokens",
        "contrast gives one answer: samples must be 1",
    ]


@pytest.mark.weights("smollm2-135m")
def test_beams_equal_transformers_on_a_real_base():
    base = load_base("smollm2-135m", Runtime(device="cpu", dtype="float32", threads=1))
    context = "The capital of France is Paris.\nThe capital of Italy is Rome.\n"
    ids = base.tokenizer(context)["input_ids"]
    texts = ["The capital of Spain is", "Once upon a time", "2 + 2 ="]
    tails = [base.tokenizer(text)["input_ids"] for text in texts]
    stop = (base.tokenizer.eos_token_id,)
    sampling = Sampling(tokens=12, beams=4, samples=2, stop_ids=stop)
    expected = [reference(base.net, [*ids, *tail], sampling) for tail in tails]
    decoder = Decoder(base.net)
    found = generate(decoder, tails, decoder.encode(ids), sampling=sampling)
    for own, wanted in zip(found, expected, strict=True):
        check(own, wanted)
