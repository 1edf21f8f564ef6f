"""Blocks see the head and themselves, queries see all: equal to one masked forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapwood.errors import ModelError
from sapwood.launch import Runtime
from sapwood.models.blocks import Blocks
from sapwood.models.decoder import Decoder
from sapwood.models.load import load_base
from sapwood.models.trie import build_trie
from sapwood.testing import KINDS, tiny_net

HEAD = (20, 21, 22, 23, 24)
BLOCKS = tuple(tuple(range(first, first + n)) for first, n in ((30, 6), (50, 13), (80, 4), (90, 9)))
PROMPTS = [[100, 101, 102], [110] * 11, [120, 121]]
LABELS = [[5], [6, 7], [6, 8, 9]]


def naive(net, head, blocks, tail) -> torch.Tensor:
    """Return log-probabilities after every token, one forward with who-sees-whom spelt out."""
    whole, start = [*head, *sum(blocks, ()), *tail], len(head) + max(map(len, blocks))
    owners = [number for number, block in enumerate(blocks) for _ in block]
    owner = torch.tensor([-1] * len(head) + owners + [-2] * len(tail))
    at = [*range(len(head)), *(len(head) + i for b in blocks for i in range(len(b)))]
    at = torch.tensor([*at, *range(start, start + len(tail))])
    causal = torch.ones(len(whole), len(whole), dtype=torch.bool).tril()
    same = (owner[:, None] == owner[None]) | (owner[None] == -1) | (owner[:, None] == -2)
    seen = causal & same
    mask = {"full_attention": seen[None, None]}
    window = getattr(net.config, "sliding_window", None) or 10**6
    mask["sliding_attention"] = (seen & (at[:, None] - at[None] < window))[None, None]
    given = mask if net.config.model_type == "gemma3_text" else seen[None, None]
    ids = torch.tensor([whole])
    return net(ids, attention_mask=given, position_ids=at[None]).logits[0].log_softmax(-1)


def naive_scores(net, head, blocks, prompts, labels) -> np.ndarray:
    found = np.zeros((len(prompts), len(labels)))
    for row, prompt in enumerate(prompts):
        for column, label in enumerate(labels):
            logp = naive(net, head, blocks, [*prompt, *label])
            first = len(logp) - len(label) - 1
            found[row, column] = sum(float(logp[first + n, t]) for n, t in enumerate(label))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [HEAD, ()])
@torch.no_grad()
def test_equals_one_masked_forward(kind, head):
    expected = naive_scores(tiny_net(kind), head, BLOCKS, PROMPTS, LABELS)
    decoder = Decoder(tiny_net(kind))
    prefix = Blocks(decoder, head).prefix(BLOCKS)
    assert not prefix.exact and prefix.next_position == len(head) + 13
    found = decoder.label_scores(PROMPTS, build_trie(LABELS), prefix)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_one_block_is_exact_in_effect():
    decoder = Decoder(tiny_net("gemma3_text"))
    exact = decoder.encode([*HEAD, *BLOCKS[1]])
    one = Blocks(decoder, HEAD).prefix(BLOCKS[1:2])
    np.testing.assert_allclose(
        decoder.features(PROMPTS, one), decoder.features(PROMPTS, exact), rtol=0, atol=2e-5
    )


def test_one_more_demonstration_is_one_more_block():
    decoder = Decoder(tiny_net("llama"))
    pool = Blocks(decoder, HEAD)
    pool.prefix(BLOCKS[:2])
    before = decoder.tokens_run
    grown = pool.prefix(BLOCKS[:3])
    assert decoder.tokens_run - before == len(BLOCKS[2])
    again = pool.prefix(BLOCKS[:3])
    assert again.layers[0][0].data_ptr() == grown.layers[0][0].data_ptr()  # nothing is copied


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_any_choice_and_order_of_known_blocks_runs_nothing(kind):
    decoder = Decoder(tiny_net(kind))
    pool = Blocks(decoder, HEAD)
    pool.prefix(BLOCKS)
    before = decoder.tokens_run
    chosen = pool.prefix([BLOCKS[3], BLOCKS[1]])
    assert decoder.tokens_run == before
    fresh = Blocks(Decoder(tiny_net(kind)), HEAD).prefix([BLOCKS[3], BLOCKS[1]])
    assert chosen.ids == fresh.ids and chosen.start == fresh.start
    np.testing.assert_allclose(
        decoder.features(PROMPTS, chosen), decoder.features(PROMPTS, fresh), rtol=0, atol=2e-5
    )


def test_the_order_of_blocks_changes_nothing():
    """Positions are shared, so attention cannot tell: PCW is free of order by construction."""
    decoder = Decoder(tiny_net("qwen3"))
    pool = Blocks(decoder, HEAD)
    one, two = pool.prefix(BLOCKS), pool.prefix(BLOCKS[::-1])
    np.testing.assert_allclose(
        decoder.features(PROMPTS, one), decoder.features(PROMPTS, two), rtol=0, atol=2e-5
    )


def test_a_full_pool_forgets_and_stays_right():
    decoder = Decoder(tiny_net("gpt2"))
    small = Blocks(decoder, HEAD, limit=20 * 4 * 2 * 2 * 32)  # 20 tokens
    expected = Blocks(Decoder(tiny_net("gpt2")), HEAD).prefix(BLOCKS)
    small.prefix(BLOCKS[:1])
    found = small.prefix(BLOCKS)
    np.testing.assert_allclose(
        decoder.features(PROMPTS, found), decoder.features(PROMPTS, expected), rtol=0, atol=2e-5
    )


def test_blocks_do_not_outlive_the_weights_that_made_them():
    key = ["first"]
    decoder = Decoder(tiny_net("llama"), weights_key=lambda: key[0])
    pool = Blocks(decoder, HEAD)
    pool.prefix(BLOCKS)
    key[0], before = "second", decoder.tokens_run
    pool.prefix(BLOCKS)
    assert decoder.tokens_run - before == len(HEAD) + sum(map(len, BLOCKS))


def test_more_fits_than_the_base_reads_and_what_does_not_is_named():
    decoder = Decoder(tiny_net("gpt2"))
    many = Blocks(decoder, HEAD).prefix([tuple(range(20, 120))[n : n + 60] for n in range(40)])
    assert len(many.ids) > 2000 and np.isfinite(decoder.features(PROMPTS, many)).all()
    with pytest.raises(ModelError, match=r"605 tokens; this base reads at most 512"):
        Blocks(decoder, HEAD).prefix([(20,) * 600])
    decoder.why_padded = "its attention is not causal"
    with pytest.raises(ModelError, match=r"cannot encode demonstrations in blocks: its attention"):
        Blocks(decoder, HEAD)


@pytest.mark.weights("smollm2-135m")
@torch.no_grad()
def test_equals_one_masked_forward_on_a_real_base():
    base = load_base("smollm2-135m", Runtime(device="cpu", dtype="float32", threads=1))
    read = lambda text: tuple(base.tokenizer(text)["input_ids"])  # noqa: E731
    head = read("Classify the sentiment of each review.")
    blocks = [read("\n\nReview: a joy\nSentiment: positive"), read("\n\nReview: dull and endless\n"
              "Sentiment: negative")]  # fmt: skip
    tails, labels = [list(read("\n\nReview: lovely\nSentiment:"))], [[3112], [5014, 7]]
    expected = naive_scores(base.net, head, blocks, tails, labels)
    decoder = Decoder(base.net)
    found = decoder.label_scores(tails, build_trie(labels), Blocks(decoder, head).prefix(blocks))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
