"""Channel scores equal the naive way on each kind, packed and padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapwood.context.prompter import Context, Prompter
from sapwood.context.template import default_template
from sapwood.errors import ModelError
from sapwood.interfaces import Example
from sapwood.models.channel import channel_parts, channel_scores, channel_tokens
from sapwood.models.decoder import Decoder
from sapwood.testing import KINDS, tiny_net

ANSWERS = [[5, 6, 7], [5, 8], [9, 5, 6, 7, 3]]


@pytest.fixture
def rows() -> list[list[tuple[list[int], int]]]:
    """Texts of several lengths after three answers; the fourth has no tokens."""
    rng = np.random.default_rng(0)
    texts = [list(map(int, rng.integers(20, 300, n))) for n in (4, 30, 11, 0, 1, 25)]
    return [[([*answer, *text], len(answer)) for answer in ANSWERS] for text in texts]


@torch.no_grad()
def naive(net, rows, context=()) -> np.ndarray:
    """Return log p(text | context, answer), one full forward for each pair."""
    found = np.zeros((len(rows), len(rows[0])))
    for text, row in enumerate(rows):
        for label, (ids, begins) in enumerate(row):
            whole = torch.tensor([[*context, *ids]])
            logits = net(whole, attention_mask=torch.ones_like(whole)).logits[0].double()
            logp = logits.log_softmax(-1)
            for at in range(len(context) + begins, whole.shape[1]):
                found[text, label] += float(logp[at - 1, whole[0, at]])
    return found


def capped_net(kind: str):
    """Return a tiny net; Gemma's caps its logits as its larger sisters do."""
    net = tiny_net(kind)
    if kind == "gemma3_text":
        net.config.final_logit_softcapping = 3.0
    return net


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [0, 5, 40])
def test_scores_equal_the_naive_way(kind, context, rows):
    net = capped_net(kind)
    ids = list(range(20, 20 + context))
    expected = naive(net, rows, ids)
    if kind == "gemma3_text":
        net.config.final_logit_softcapping = None
        assert np.abs(naive(net, rows, ids) - expected).max() > 0.1  # the cap matters here
        net.config.final_logit_softcapping = 3.0
    decoder = Decoder(net)
    assert decoder.why_padded == ""
    found = channel_scores(decoder, rows, decoder.encode(ids))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert found.dtype == np.float64
    assert (found[3] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_padded_path_equals_the_packed_one(kind, rows):
    decoder = Decoder(capped_net(kind))
    context = list(range(20, 50))
    packed = channel_scores(decoder, rows, decoder.encode(context))
    decoder.why_padded = "asked for by the test"
    padded = channel_scores(decoder, rows, decoder.encode(context))
    np.testing.assert_allclose(padded, packed, rtol=0, atol=1e-4)


def test_a_kind_that_cannot_be_packed_takes_one_pass_a_row(rows):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "opt", vocab_size=300, hidden_size=32, num_hidden_layers=2, ffn_dim=64,
        num_attention_heads=4, max_position_embeddings=128, word_embed_proj_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    decoder, context = Decoder(net), [30, 31, 32]
    assert "opt" in decoder.why_padded
    found = channel_scores(decoder, rows, decoder.encode(context))
    np.testing.assert_allclose(found, naive(net, rows, context), rtol=0, atol=1e-4)
    longest = max(len(context) + len(ids) for row in rows for ids, _ in row)
    assert 0 < decoder.tokens_run <= 15 * longest
    with pytest.raises(ModelError, match="this base reads at most 128"):
        channel_scores(decoder, [[([5] * 200, 3)]])


def test_a_text_never_depends_on_its_neighbours(rows):
    decoder = Decoder(tiny_net("qwen2"))
    together = channel_scores(decoder, rows)
    alone = np.concatenate([channel_scores(decoder, [row]) for row in rows])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_permuting_the_labels_permutes_the_scores(rows):
    decoder, order = Decoder(tiny_net("gpt2")), [2, 0, 1]
    moved = channel_scores(decoder, [[row[n] for n in order] for row in rows])
    np.testing.assert_allclose(channel_scores(decoder, rows)[:, order], moved, rtol=0, atol=1e-5)


def test_parts_come_as_they_are_scored(rows):
    decoder = Decoder(tiny_net("llama"))
    parts = list(channel_parts(decoder, rows, texts=2))
    assert [(where.start, where.stop) for where, _ in parts] == [(0, 2), (2, 4), (4, 6)]
    whole = channel_scores(decoder, rows)
    np.testing.assert_allclose(np.concatenate([p for _, p in parts]), whole, rtol=0, atol=1e-5)
    assert channel_scores(decoder, []).shape == (0, 0)


def test_the_price_is_what_the_net_reads(rows):
    decoder = Decoder(tiny_net("llama"))
    channel_scores(decoder, rows)
    assert channel_tokens(rows) == decoder.tokens_run


@pytest.mark.weights("smollm2-135m", "gemma3-270m")
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m"])
def test_scores_of_real_bases_equal_the_naive_way(name):
    from sapwood.launch import Runtime
    from sapwood.models.load import load_base

    base = load_base(name, Runtime(device="cpu", dtype="float32", threads=1))
    labels = ("negative", "positive")
    demonstrations = (
        Example(text="A dull, endless film.", label="negative", row=1),
        Example(text="Funny, warm and over too soon!", label="positive", row=2),
    )
    template = default_template(labels, [d.text for d in demonstrations])
    context = Context(template=template, demonstrations=demonstrations)
    prompter = Prompter(base.tokenizer, context, channel=True)
    rows = prompter.channel_rows(["It's fine.", "房间很干净 🙂", "what a waste of time"], labels)
    expected = naive(base.net, rows, prompter.prefix)
    decoder = Decoder(base.net)
    found = channel_scores(decoder, rows, decoder.encode(prompter.prefix))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    tokens = np.array([[len(ids) - begins for ids, begins in row] for row in rows])
    np.testing.assert_allclose(found / tokens, expected / tokens, rtol=0, atol=1e-4)
