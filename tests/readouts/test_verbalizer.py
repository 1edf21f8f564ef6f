"""Scorers and the verbalizer: each score is its definition, computed the slow way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapwood.context.prompter import Context, Prompter
from sapwood.context.template import default_template
from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Example
from sapwood.models.channel import channel_scores
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.readouts import bias
from sapwood.readouts.verbalizer import (
    SCORERS,
    Verbalizer,
    divided,
    find_scorer,
    label_lengths,
)
from sapwood.testing import KINDS, tiny_net

LABELS = ("bad", "rather_good", "superb")
DEMOS = (
    Example(text="a fine film", label="superb", row=1),
    Example(text="dull", label="bad", row=2),
)
TEXTS = ["lovely, mostly", "not one bit of it", "ok"]
TEMPLATE = default_template(LABELS, TEXTS)


@torch.no_grad()
def log_probability(net, tokenizer, before: str, after: str) -> list[float]:
    """Return log p of each token of `after` (a token over the boundary is of it)."""
    coded = tokenizer(before + after, return_offsets_mapping=True, return_tensors="pt")
    ids = coded["input_ids"]
    logits = net(ids, attention_mask=torch.ones_like(ids)).logits[0].double()
    cap = getattr(net.config, "final_logit_softcapping", None)
    assert cap is None or logits.abs().max() <= cap
    first = next(n for n, (_, end) in enumerate(coded["offset_mapping"][0]) if end > len(before))
    return [
        float(logits[n - 1].log_softmax(-1)[ids[0, n]]) for n in range(first, ids.shape[1])
    ]  # fmt: skip


def naive(net, tokenizer, scorer: str) -> np.ndarray:
    """Return the scores of TEXTS by their definition, one forward for each text and label."""
    found = np.zeros((len(TEXTS), len(LABELS)))
    for row, text in enumerate(TEXTS):
        for column, label in enumerate(LABELS):
            words = TEMPLATE.words[label]
            if scorer == "channel":
                head = TEMPLATE.channel_head(DEMOS) + "\n\n" + TEMPLATE.answer_first(label)
                found[row, column] = sum(log_probability(net, tokenizer, head, text))
                continue
            each = log_probability(net, tokenizer, TEMPLATE.prompt(DEMOS, text), words)
            by = {"direct": 1, "direct-tokens": len(each), "direct-bytes": len(words) - 1}
            found[row, column] = sum(each) / by[scorer]
    return found


def scored(net, tokenizer, scorer: str, labels=LABELS) -> np.ndarray:
    """Return the same scores the way the package computes them."""
    decoder, made = Decoder(net), SCORERS[scorer]
    context = Context(template=TEMPLATE, demonstrations=DEMOS)
    prompter = Prompter(tokenizer, context, channel=made.channel)
    ids = prompter.labels(labels)
    divisor = label_lengths([TEMPLATE.words[y] for y in labels], ids, made.length)
    if made.channel:
        rows = prompter.channel_rows(TEXTS, labels)
        scores = channel_scores(decoder, rows, decoder.encode(prompter.prefix))
    else:
        rest = prompter.rest(TEXTS)
        scores = decoder.label_scores(rest, build_trie(ids), decoder.encode(prompter.prefix))
    return divided(scores, divisor)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_are_their_definition(kind, scorer, tiny_tokenizer):
    net = tiny_net(kind)
    if kind == "gemma3_text":
        net.config.final_logit_softcapping = 3.0
    expected = naive(net, tiny_tokenizer, scorer)
    np.testing.assert_allclose(scored(net, tiny_tokenizer, scorer), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scorer", SCORERS)
def test_permuting_the_labels_permutes_the_scores(scorer, tiny_tokenizer):
    net, order = tiny_net("qwen2"), [2, 0, 1]
    moved = scored(net, tiny_tokenizer, scorer, tuple(LABELS[n] for n in order))
    found = scored(net, tiny_tokenizer, scorer)
    np.testing.assert_allclose(found[:, order], moved, rtol=0, atol=1e-5)


def test_pmi_is_the_premise_bias_on_direct_scores(tiny_tokenizer):
    net = tiny_net("llama")
    head = TEMPLATE.head(DEMOS) + "\n\n"
    asked = np.array(
        [
            sum(log_probability(net, tiny_tokenizer, head + TEMPLATE.premise(), words))
            for words in TEMPLATE.words.values()
        ]
    )
    pmi = naive(net, tiny_tokenizer, "direct") - asked
    decoder = Decoder(net)
    prompter = Prompter(tiny_tokenizer, Context(template=TEMPLATE, demonstrations=DEMOS))
    trie, prefix = build_trie(prompter.labels(LABELS)), decoder.encode(prompter.prefix)
    fitted = bias.premise(decoder.label_scores([prompter.premise()], trie, prefix))
    found = fitted.apply(decoder.label_scores(prompter.rest(TEXTS), trie, prefix))
    np.testing.assert_allclose(found, bias.log_softmax(pmi), rtol=0, atol=1e-4)


@pytest.mark.weights("smollm2-135m")
def test_scores_of_a_real_base_are_their_definition():
    from sapwood.launch import Runtime
    from sapwood.models.load import load_base

    base = load_base("smollm2-135m", Runtime(device="cpu", dtype="float32", threads=1))
    for scorer in ("direct", "direct-tokens", "direct-bytes", "channel"):
        expected = naive(base.net, base.tokenizer, scorer)
        found = scored(base.net, base.tokenizer, scorer)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def made(**settings) -> Verbalizer:
    shift = bias.Bias(source="labels", shift=np.array([1.0, 0.5, -1.5]), slope=0.7)
    return Verbalizer(labels=LABELS, bias=shift, **settings)


@pytest.mark.parametrize("length", ["none", "tokens", "bytes"])
@pytest.mark.parametrize("scorer", ["direct", "channel"])
def test_saved_and_rebuilt_is_bit_equal(length, scorer):
    divisor = label_lengths([" bad", " rather good", " superb"], [[1], [2, 3], [4]], length)
    readout = made(length=length, scorer=scorer, divisor=divisor)
    settings, arrays = readout.state()
    again = Verbalizer.from_state(settings, arrays)
    scores = -np.random.default_rng(0).gamma(2.0, 3.0, (20, 3))
    assert np.array_equal(readout.probabilities(scores), again.probabilities(scores))
    assert (again.scorer, again.length, again.reads) == (scorer, length, "scores")
    expected = np.exp(readout.bias.apply(scores / divisor))
    assert np.array_equal(readout.probabilities(scores), expected)


def test_what_an_older_version_saved_still_loads():
    settings, arrays = made().state()
    del settings["scorer"], settings["length"]
    again = Verbalizer.from_state(settings, {"shift": arrays["shift"]})
    scores = np.array([[-1.0, -2.0, -3.0]])
    assert np.array_equal(again.probabilities(scores), made().probabilities(scores))
    assert again.scorer == "direct"


def test_probabilities_of_a_row_do_not_depend_on_the_other_rows():
    readout = made(divisor=np.array([1.0, 2.0, 1.0]), length="tokens")
    scores = -np.random.default_rng(1).gamma(2.0, 3.0, (9, 3))
    alone = np.concatenate([readout.probabilities(row[None]) for row in scores])
    assert np.array_equal(readout.probabilities(scores), alone)
    order = np.random.default_rng(2).permutation(9)
    assert np.array_equal(readout.probabilities(scores[order]), alone[order])


def test_lengths_in_tokens_and_bytes():
    words, ids = [" 好", " very bad"], [[5, 6, 7], [8, 9]]
    assert label_lengths(words, ids, "tokens").tolist() == [3, 2]
    assert label_lengths(words, ids, "bytes").tolist() == [3, 8]
    assert label_lengths(words, ids, "none").tolist() == [1, 1]
    with pytest.raises(ConfigError, match=r"Unknown length 'byte'\. Did you mean 'bytes'"):
        label_lengths(words, ids, "byte")


def test_scorers_that_are_none_and_scores_of_other_labels_are_refused():
    with pytest.raises(ConfigError, match=r"Unknown scorer 'chanel'\. Did you mean 'channel'"):
        find_scorer("chanel")
    readout = made(divisor=np.ones(3))
    with pytest.raises(DataError, match=r"shape \(rows, 3\), got \(2, 4\)"):
        readout.probabilities(np.zeros((2, 4)))
