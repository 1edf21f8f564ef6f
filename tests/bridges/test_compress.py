"""A context as a prefix: the same answers untouched, exact gradients, fewer tokens, resuming."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sapwood.adaptation import load, save
from sapwood.bridges.answers import attached, content_hash, probabilities
from sapwood.bridges.compress import STARTS, Compression, compress, shortened
from sapwood.errors import ConfigError, DataError, ModelError
from sapwood.evaluation import Predictor
from sapwood.interfaces import Example
from sapwood.methods import parts
from sapwood.methods.keys_values import cache_name
from sapwood.methods.lora import Lora
from sapwood.methods.prefix import split_layers, stack_layers
from sapwood.models.decoder import Decoder, Prefix
from sapwood.models.trie import build_trie
from sapwood.testing import KINDS
from sapwood.training import Recipe, Supervision, target

TEXTS = ["great film tonight", "an awful plot", "superb cast and song", "dull", "weak end here"]


def compressed(bases, made, rows=(), **given):
    events = list(drained(compress(bases, made, rows, **given)))
    return events[-1]


def drained(generator):
    """Yield a generator's events, then its result."""
    result = yield from generator
    yield result


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_every_token_untrained_answers_as_the_context_does(bases, prompted, kind):
    made = prompted(kind)
    with Predictor(made, bases) as predictor:
        expected = predictor.probabilities(TEXTS)
    result = compressed(bases, made)
    np.testing.assert_allclose(probabilities(bases, result, TEXTS), expected, rtol=0, atol=1e-4)
    assert result.parts()["context"] is None
    assert result.parts()["prefix"].endswith("tokens, from 4 demonstrations")
    assert result.evidence["compressed"]["sha256"] == content_hash(made)


def test_under_lora_too_and_through_the_disk(bases, prompted, tmp_path):
    made = prompted("llama")
    net = bases.get(made.base.name).net
    method = Lora(rank=2, targets=("q_proj", "v_proj"))
    method.attach(net, seed=1)
    for tensor in parts.weights(net).values():
        torch.nn.init.normal_(tensor, std=0.2)
    made = replace(
        made, method=method, weights={n: t.detach().clone() for n, t in parts.weights(net).items()}
    )
    parts.detach(net)
    with Predictor(made, bases) as predictor:
        expected = predictor.probabilities(TEXTS)
    save(compressed(bases, made), tmp_path / "a")
    again = load(tmp_path / "a")
    assert (tmp_path / "a" / "prefix" / "adapter_model.safetensors").exists()
    assert again.method is not None and again.prefix is not None
    np.testing.assert_allclose(probabilities(bases, again, TEXTS), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_prefix_equal_autograd_over_concatenated_keys(tiny_net, kind):
    net = tiny_net(kind)
    decoder, trie = Decoder(net), build_trie([[10, 11], [10, 12], [20]])
    start = stack_layers(decoder.encode(range(40, 52)).layers)
    prompts, gold = [[30, 31, 32], [33], [34, 35, 36, 37]], [0, 2, 1]
    targets = [target(p, g, trie) for p, g in zip(prompts, gold, strict=True)]

    packed = start.clone().requires_grad_()
    supervision = Supervision(
        decoder,
        targets,
        trie,
        prefix=lambda: Prefix(
            ids=(0,) * 12, layers=split_layers(packed, torch.float32, torch.device("cpu"))
        ),
    )
    for loss, _ in supervision.losses([0, 1, 2], 10):
        loss.backward()

    from transformers import DynamicCache

    plain = start.clone().requires_grad_()
    total = torch.zeros(())
    for one in targets:
        layers = split_layers(plain, torch.float32, torch.device("cpu"))
        cache = DynamicCache()
        for number, (key, value) in enumerate(layers):
            cache.update(key, value, number)
        ids = torch.tensor([list(one.row.ids)])
        logits = net(input_ids=ids, **{cache_name(net): cache}).logits[0]
        for place, node, answer in zip(one.row.wanted, one.nodes, one.answers, strict=True):
            children = list(trie.children[node])
            total = total - logits[place, children].log_softmax(-1)[children.index(answer)]
    total.backward()
    torch.testing.assert_close(packed.grad, plain.grad, atol=1e-5, rtol=1e-4)
    assert float(packed.grad.abs().max()) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_moved_keys_are_those_of_their_new_position(tiny_net, kind):
    """The first layer's keys depend on token and position alone."""
    decoder = Decoder(tiny_net(kind))
    ids = [40, 41, 42, 43, 44, 45, 46]
    whole = stack_layers(decoder.encode(ids).layers)
    last = shortened(whole, decoder, Compression(tokens=3, start="last"))
    fresh = stack_layers(decoder.encode([40, 45, 46]).layers)
    if kind != "gpt2":  # its keys hold their positions, where they stay
        torch.testing.assert_close(last[:, 0], fresh[:, 0], atol=1e-5, rtol=0)
    assert torch.equal(last[:, 1], whole[[0, 5, 6], 1])
    assert torch.equal(shortened(whole, decoder, Compression(tokens=99)), whole)
    for start in STARTS:
        assert len(shortened(whole, decoder, Compression(tokens=3, start=start))) == 3
    pooled = shortened(whole, decoder, Compression(tokens=1, start="pooled"))
    torch.testing.assert_close(pooled[0, 1], whole[:, 1].mean(0))


def rows_of(reviews, count=24):
    return [Example(text=t, label=g, row=n) for n, (t, g) in enumerate(reviews(count))]


def test_training_a_short_prefix_lowers_the_loss(bases, prompted, reviews):
    settings = Compression(tokens=6, recipe=Recipe(learning_rate=3e-2, epochs=8, batch_size=8))
    result = compressed(bases, prompted("llama"), rows_of(reviews), settings=settings)
    curve = result.evidence["compressed"]["curve"]["loss"]
    assert len(curve) == 24
    assert np.mean(curve[-4:]) < 0.5 * np.mean(curve[:4])
    assert result.prefix.describe() == "6 tokens, from 4 demonstrations (last), trained"
    assert result.readout.normalise == "trie"
    found = probabilities(bases, result, result.golden.texts)
    np.testing.assert_allclose(found, result.golden.probabilities, atol=1e-6)


def test_a_run_that_was_stopped_goes_on_to_the_same_prefix(bases, prompted, reviews, tmp_path):
    made, rows = prompted("llama"), rows_of(reviews)
    settings = Compression(tokens=6, recipe=Recipe(learning_rate=1e-2, epochs=2, batch_size=8))
    whole = compressed(bases, made, rows, settings=settings)
    events = compress(bases, made, rows, settings=settings, folder=tmp_path)
    while next(events).done < 3:
        pass
    events.close()
    assert (tmp_path / "checkpoint-3").is_dir()
    rest = list(drained(compress(bases, made, rows, settings=settings, folder=tmp_path)))
    assert [e.done for e in rest[1:-1]] == [4, 5, 6]
    assert torch.equal(rest[-1].prefix.tensor, whole.prefix.tensor)
    other = replace(settings, start="even")
    again = list(drained(compress(bases, made, rows, settings=other, folder=tmp_path)))
    assert [e.done for e in again[1:-1]] == [1, 2, 3, 4, 5, 6]


def test_a_shorter_prefix_that_is_not_trained_has_its_bias_fitted_again(bases, prompted, reviews):
    settings = Compression(tokens=4, recipe=None)
    result = compressed(bases, prompted("llama"), rows_of(reviews), settings=settings)
    assert result.prefix.describe() == "4 tokens, from 4 demonstrations (last)"
    assert result.readout.bias.source == "labels"


def test_what_cannot_be_compressed_says_why(bases, prompted):
    made = prompted("llama")
    with pytest.raises(ConfigError, match="demonstrations of its own"):
        compressed(bases, replace(made, context=replace(made.context, sharing="query")))
    with pytest.raises(ConfigError, match=r"has a prefix already: .* tokens, from"):
        compressed(bases, compressed(bases, made))
    with pytest.raises(DataError, match="not among the 2 known labels"):
        compressed(bases, made, [Example(text="x", label="odd")])
    with pytest.raises(ConfigError) as caught:
        Compression(tokens=0, start="middle")
    assert len(caught.value.details) == 2
    assert not list(parts.parts(bases.get(made.base.name).net))


def test_a_base_with_other_weights_is_refused(bases, prompted):
    made = prompted("llama")
    wrong = replace(made, base=replace(made.base, sha256="0" * 64))
    refused = pytest.raises(ModelError, match="not the one this adaptation was made for")
    with refused, attached(bases, wrong):
        pass


@pytest.mark.weights("smollm2-135m")
def test_a_real_context_answers_the_same_as_a_prefix(prompted_on):
    from sapwood.evaluation import Bases
    from sapwood.launch import choose_runtime

    real = Bases(choose_runtime("cpu", "float32"))
    made = prompted_on(real, "smollm2-135m")
    with Predictor(made, real) as predictor:
        expected = predictor.probabilities(TEXTS)
    found = probabilities(real, compressed(real, made), TEXTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
