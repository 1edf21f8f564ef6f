"""kNN prompting and the prompted probe (PALP) under demonstrations, on a tiny net."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sapwood.context.prompter import Context, Prompter
from sapwood.context.template import default_template
from sapwood.interfaces import Example
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.readouts.knn import NearestNeighbours
from sapwood.readouts.probe import Probe
from sapwood.testing import tiny_net

LABELS = ("negative", "positive")
TELLS = {"negative": "awful", "positive": "lovely"}
DEMOS = (
    Example(text="an awful film", label="negative", row=1),
    Example(text="a lovely film", label="positive", row=2),
)


def examples(count: int, seed: int) -> list[Example]:
    rng = np.random.default_rng(seed)
    found = []
    for row in range(count):
        label = LABELS[int(rng.integers(2))]
        noise = rng.choice(["town", "cast", "plot", "road", "lamp", "sea"], 3)
        found.append(Example(text=f"{noise[0]} {noise[1]} {TELLS[label]}", label=label, row=row))
    return found


@pytest.fixture(scope="module")
def read(tiny_tokenizer):
    """Return features and label scores of texts under a context, and of the slow way."""
    net = tiny_net("llama")
    template = default_template(LABELS, ["english"])
    context = Context(template=template, demonstrations=DEMOS, shots=2)
    decoder, prompter = Decoder(net), Prompter(tiny_tokenizer, context)

    def quickly(rows):
        prompts = prompter.rest([e.text for e in rows])
        prefix = decoder.encode(prompter.prefix)
        trie = build_trie(prompter.labels(LABELS))
        return decoder.features(prompts, prefix), decoder.label_scores(prompts, trie, prefix)

    @torch.no_grad()
    def slowly(rows):
        plain, features, scores = tiny_net("llama"), [], []
        for example in rows:
            prompt = template.prompt(DEMOS, example.text)
            stem = tiny_tokenizer(prompt, return_tensors="pt")["input_ids"]
            features.append(plain.model(stem).last_hidden_state[0, -1].numpy())
            row = []
            for label in LABELS:
                ids = tiny_tokenizer(prompt + template.words[label], return_tensors="pt")
                ids = ids["input_ids"]
                logp = plain(ids).logits[0].log_softmax(-1)
                after = range(stem.shape[1], ids.shape[1])
                row.append(sum(float(logp[n - 1, ids[0, n]]) for n in after))
            scores.append(row)
        return np.array(features), np.array(scores)

    return quickly, slowly


def nearest(anchors, gold, queries, readout: NearestNeighbours, distance: str) -> np.ndarray:
    """Return class probabilities by the definition of the vote, one pair at a time."""
    if distance == "kl":
        anchors, queries = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (anchors, queries))
    centre = anchors.mean(0)
    out = []
    for query in queries:
        if distance == "kl":
            away = np.array([(p * np.log(p / query)).sum() for p in anchors])
        else:
            a, q = anchors - centre, query - centre
            away = 1 - a @ q / np.linalg.norm(a, axis=1) / np.linalg.norm(q)
        near = np.argsort(away, kind="stable")[: readout.k]
        shares = np.bincount(gold, minlength=2) + 0.5
        tally = readout.smoothing * shares / shares.sum()
        for i in near:
            tally[gold[i]] += np.exp(-(away[i] - away[near[0]]) / readout.temperature)
        out.append(tally / tally.sum())
    return np.array(out)


@pytest.mark.parametrize("distance", ["cosine", "kl"])
def test_knn_prompting_is_its_definition_under_demonstrations(read, distance):
    quickly, slowly = read
    train, asked = examples(40, 0), examples(12, 1)
    which = 1 if distance == "kl" else 0
    gold = [e.label for e in train]
    readout = NearestNeighbours.fit(quickly(train)[which], gold, labels=LABELS, distance=distance)
    assert readout.reads == ("scores" if distance == "kl" else "features")
    found = readout.probabilities(quickly(asked)[which])
    index = np.array([LABELS.index(str(g)) for g in gold])
    expected = nearest(slowly(train)[which], index, slowly(asked)[which], readout, distance)
    assert np.allclose(found, expected, atol=2e-3)  # the vote divides by a small temperature


def test_anchors_are_those_of_the_context(read, tiny_tokenizer):
    quickly, _ = read
    train = examples(40, 0)
    bare = Prompter(tiny_tokenizer, Context(template=default_template(LABELS, ["english"])))
    decoder = Decoder(tiny_net("llama"))
    rest = bare.rest([e.text for e in train])
    alone = decoder.features(rest, decoder.encode(bare.prefix))
    assert np.abs(alone - quickly(train)[0]).max() > 0.05


def test_palp_is_a_regression_on_the_prompted_features(read):
    quickly, slowly = read
    train, asked = examples(60, 0), examples(20, 1)
    gold = [e.label for e in train]
    probe = Probe.fit(quickly(train)[0], gold, labels=LABELS)
    assert probe.reads == "features"
    found = probe.probabilities(quickly(asked)[0])
    right = [LABELS[i] == e.label for i, e in zip(found.argmax(1), asked, strict=True)]
    assert np.mean(right) > 0.9
    features, queries = slowly(train)[0].astype(np.float64), slowly(asked)[0]
    mean, scale = features.mean(0), features.std(0)
    strength = probe.logistic.strength
    model = LogisticRegression(C=strength, tol=1e-8, max_iter=3000)
    model.fit((features - mean) / scale, gold)
    expected = model.predict_proba((queries - mean) / scale)
    assert np.allclose(found, expected, atol=0.02)  # ours stops at a gradient of 1e-4
