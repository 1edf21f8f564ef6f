"""Decoding under a prefix equals transformers' own generate, token for token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from sapwood.errors import ConfigError, ModelError
from sapwood.launch import Runtime
from sapwood.models.blocks import Blocks
from sapwood.models.decoder import Decoder, Prefix
from sapwood.models.generate import Sampling, generate, stream
from sapwood.models.load import load_base
from sapwood.testing import tiny_net

KINDS = ("llama", "gpt2", "gemma3_text", "qwen3")
CONTEXT = tuple(range(20, 60))


def prompts(seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [list(map(int, rng.integers(20, 300, n))) for n in (4, 17, 1, 9)]


def reference(net, ids, tokens, stop=()) -> tuple[int, ...]:
    """Return transformers' greedy answer without the stop token."""
    whole = torch.tensor([ids])
    config = GenerationConfig(
        max_new_tokens=tokens, do_sample=False, eos_token_id=list(stop) or None, pad_token_id=0
    )
    mask = torch.ones_like(whole)
    made = net.generate(whole, attention_mask=mask, generation_config=config)[0, len(ids) :]
    return tuple(token for token in made.tolist() if token not in stop)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [CONTEXT, ()])
def test_greedy_equals_transformers(kind, context):
    given = prompts()
    expected = [reference(tiny_net(kind), [*context, *p], 20) for p in given]
    decoder = Decoder(tiny_net(kind))
    prefix = decoder.encode(context)
    found = generate(decoder, given, prefix, sampling=Sampling(tokens=20))
    assert [row[0].ids for row in found] == expected
    for prompt, wanted in zip(given, expected, strict=True):
        assert tuple(stream(decoder, prompt, prefix, sampling=Sampling(tokens=20))) == wanted


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_stop_tokens_end_an_answer_and_are_no_part_of_it(kind):
    given = prompts()
    free = generate(Decoder(tiny_net(kind)), given, sampling=Sampling(tokens=12))
    stop = free[0][0].ids[5], free[1][0].ids[3]
    expected = [reference(tiny_net(kind), p, 12, stop) for p in given]
    found = generate(Decoder(tiny_net(kind)), given, sampling=Sampling(tokens=12, stop_ids=stop))
    assert [row[0].ids for row in found] == expected
    assert found[0][0].stopped and len(found[0][0].ids) <= 5


def test_a_base_that_cannot_be_packed_answers_alike():
    given, packed = prompts(), Decoder(tiny_net("llama"))
    expected = generate(packed, given, packed.encode(CONTEXT), sampling=Sampling(tokens=9))
    other = Decoder(tiny_net("llama"))
    other.why_padded = "asked for by the test"
    prefix = other.encode(CONTEXT)
    found = generate(other, given, prefix, sampling=Sampling(tokens=9))
    assert [row[0].ids for row in found] == [row[0].ids for row in expected]
    for one, two in zip(found, expected, strict=True):
        assert one[0].log_probability == pytest.approx(two[0].log_probability, abs=1e-3)
    assert tuple(stream(other, given[0], prefix, sampling=Sampling(tokens=9))) == found[0][0].ids
    four = Sampling(tokens=3, temperature=1, samples=4)
    drawn = generate(other, given[:1], prefix, sampling=four)
    assert len(drawn[0]) == 4 and len({c.ids for c in drawn[0]}) > 1


def test_log_probability_is_the_base_s_own():
    decoder = Decoder(tiny_net("qwen2"))
    made = generate(decoder, [[30, 31]], sampling=Sampling(tokens=6, temperature=1.3, top_p=0.9))
    ids = torch.tensor([[30, 31, *made[0][0].ids]])
    logp = tiny_net("qwen2")(ids).logits[0].log_softmax(-1)
    naive = sum(float(logp[n + 1, t]) for n, t in enumerate(made[0][0].ids))
    assert made[0][0].log_probability == pytest.approx(naive, abs=1e-3)


def test_an_answer_does_not_depend_on_its_neighbours():
    decoder = Decoder(tiny_net("gemma3_text"))
    drawn = Sampling(tokens=15, temperature=0.8, top_p=0.95, seed=3, samples=3)
    given = prompts()
    together = generate(decoder, given, decoder.encode(CONTEXT), sampling=drawn)
    alone = generate(decoder, given[:1], decoder.encode(CONTEXT), sampling=drawn)
    assert [c.ids for c in together[0]] == [c.ids for c in alone[0]]
    assert len({c.ids for c in together[0]}) == 3
    again = generate(decoder, given, decoder.encode(CONTEXT), sampling=drawn)
    assert [[c.ids for c in row] for row in again] == [[c.ids for c in row] for row in together]


def test_draws_follow_the_probabilities_within_the_nucleus():
    net = tiny_net("llama")
    shares = (net(torch.tensor([[30, 31, 32]])).logits[0, -1].double() / 0.7).softmax(-1)
    order = shares.argsort(descending=True)
    inside = int((shares[order].cumsum(0) < 0.6).sum()) + 1
    kept = set(order[:inside].tolist())
    drawn = Sampling(tokens=1, temperature=0.7, top_p=0.6, samples=3000)
    found = generate(Decoder(net), [[30, 31, 32]], sampling=drawn)[0]
    counts = np.bincount([c.ids[0] for c in found], minlength=300) / 3000
    assert set(np.flatnonzero(counts)) <= kept
    expected = torch.zeros(300, dtype=torch.double)
    expected[order[:inside]] = shares[order[:inside]] / shares[order[:inside]].sum()
    assert np.abs(counts - expected.numpy()).max() < 0.04


def test_a_stream_leaves_what_it_encoded_behind():
    decoder = Decoder(tiny_net("gemma3_text"))
    prefix = decoder.encode(CONTEXT)
    answer = list(stream(decoder, [61, 62], prefix, sampling=Sampling(tokens=8)))
    before = decoder.tokens_run
    turn = decoder.encode([*CONTEXT, 61, 62, *answer, 70, 71])
    assert decoder.tokens_run - before == 3  # the last token of the answer, and the new ones
    fresh = Decoder(tiny_net("gemma3_text"))
    expected = fresh.features(prompts(), fresh.encode(turn.ids))
    np.testing.assert_allclose(decoder.features(prompts(), turn), expected, rtol=0, atol=3e-5)


def test_a_stream_that_is_left_early_remembers_what_ran():
    decoder = Decoder(tiny_net("llama"))
    running = stream(decoder, [61, 62], decoder.encode(CONTEXT), sampling=Sampling(tokens=50))
    first = [next(running), next(running)]
    running.close()
    before = decoder.tokens_run
    decoder.encode([*CONTEXT, 61, 62, *first, 80])
    assert decoder.tokens_run - before == 2


def test_the_context_is_not_run_again():
    decoder = Decoder(tiny_net("llama"))
    prefix, before = decoder.encode(CONTEXT), decoder.tokens_run
    given = prompts()
    generate(decoder, given, prefix, sampling=Sampling(tokens=5))
    assert decoder.tokens_run - before == sum(map(len, given)) + 4 * len(given)


def test_greedy_under_blocks_equals_a_naive_loop():
    decoder = Decoder(tiny_net("gemma3_text"))
    prefix = Blocks(decoder, CONTEXT[:5]).prefix([CONTEXT[5:12], CONTEXT[12:30]])
    prompt = [33, 34, 35]
    wanted = list(prompt)
    for _ in range(6):  # each token from the whole prompt so far, nothing kept
        state = torch.from_numpy(decoder.features([wanted], prefix))
        wanted.append(int(decoder.net.get_output_embeddings()(state).argmax()))
    found = generate(decoder, [prompt], prefix, sampling=Sampling(tokens=6))
    assert list(found[0][0].ids) == wanted[3:]


def test_what_does_not_fit_is_named_before_anything_runs():
    decoder = Decoder(tiny_net("gpt2"))
    with pytest.raises(ModelError, match=r"530 tokens; this base reads at most 512"):
        generate(decoder, [[20] * 500], sampling=Sampling(tokens=30))
    with pytest.raises(ModelError, match=r"530 tokens"):
        next(stream(decoder, [20] * 500, Prefix(), sampling=Sampling(tokens=30)))
    assert decoder.tokens_run == 0


def test_wrong_settings_are_named_together():
    with pytest.raises(ConfigError) as caught:
        Sampling(tokens=0, temperature=-1, top_p=0, samples=0)
    assert len(caught.value.details) == 4


@pytest.mark.weights("smollm2-135m")
def test_greedy_equals_transformers_on_a_real_base():
    base = load_base("smollm2-135m", Runtime(device="cpu", dtype="float32", threads=1))
    context = "The capital of France is Paris.\nThe capital of Italy is Rome.\n"
    ids = base.tokenizer(context)["input_ids"]
    texts = ["The capital of Spain is", "Once upon a time", "2 + 2 ="]
    tails = [base.tokenizer(text)["input_ids"] for text in texts]
    stop = (base.tokenizer.eos_token_id,)
    expected = [reference(base.net, [*ids, *tail], 24, stop) for tail in tails]
    decoder = Decoder(base.net)
    sampling = Sampling(tokens=24, stop_ids=stop)
    found = generate(decoder, tails, decoder.encode(ids), sampling=sampling)
    assert [row[0].ids for row in found] == expected
