"""The kernel on the three real bases: packed equals naive to 1e-4 in float32, on real text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapwood.context.prompter import Context, Prompter
from sapwood.context.template import default_template
from sapwood.interfaces import Example
from sapwood.launch import Runtime
from sapwood.models.decoder import Decoder
from sapwood.models.encoder import Encoder
from sapwood.models.load import load_base
from sapwood.models.trie import build_trie

RUNTIME = Runtime(device="cpu", dtype="float32", threads=torch.get_num_threads())
ENGLISH = [
    Example(text="A dull, endless film with no idea of its own.", label="very negative", row=1),
    Example(text="Funny, warm and over too soon!", label="positive", row=2),
    Example(text="It's fine — nothing more.", label="neutral", row=3),
    Example(text="🙂 loved it", label="very positive", row=4),
]
CHINESE = [
    Example(text="房间很干净，服务也不错，下次还会来。", label="positive", row=1),
    Example(text="电池不行，用了两天就坏了。", label="negative", row=2),
    Example(text="还可以吧。", label="neutral", row=3),
]


def naive(net, prompts: list[list[int]], labels: list[list[int]]) -> np.ndarray:
    """Return log p(label | prompt) by one full forward for each pair."""
    found = np.zeros((len(prompts), len(labels)))
    for row, prompt in enumerate(prompts):
        for column, label in enumerate(labels):
            ids = torch.tensor([[*prompt, *label]])
            logp = net(ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)
            steps = range(len(prompt) - 1, len(prompt) + len(label) - 1)
            found[row, column] = sum(
                float(logp[at, token]) for at, token in zip(steps, label, strict=True)
            )
    return found


@pytest.mark.parametrize(
    ("name", "examples"),
    [
        pytest.param("smollm2-135m", ENGLISH, marks=pytest.mark.weights("smollm2-135m")),
        pytest.param("gemma3-270m", CHINESE, marks=pytest.mark.weights("gemma3-270m")),
    ],
)
@pytest.mark.parametrize("repeats", [0, 1, 20])  # 20: longer than Gemma's window of 512 tokens
@torch.no_grad()
def test_packed_scores_equal_the_naive_way(name, examples, repeats):
    base = load_base(name, RUNTIME)
    labels = sorted({str(e.label) for e in examples})
    template = default_template(labels, [e.text for e in examples])
    shown = tuple(examples[:2] * repeats)
    prompter = Prompter(base.tokenizer, Context(template=template, demonstrations=shown))
    texts = [e.text for e in examples[2:]] + [examples[0].text * 3]
    words = prompter.labels(labels)
    rest = prompter.rest(texts)
    whole = [prompter.whole(text, shown) for text in texts]
    assert [[*prompter.prefix, *tail] for tail in rest] == whole  # tokens of the prompt, exactly
    expected = naive(base.net, whole, words)
    decoder = Decoder(base.net)
    found = decoder.label_scores(rest, build_trie(words), decoder.encode(prompter.prefix))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.weights("minilm-l6")
@torch.no_grad()
def test_packed_encoder_equals_each_text_alone():
    base = load_base("minilm-l6", RUNTIME)
    rows = base.tokenizer([e.text for e in ENGLISH + CHINESE] * 8)["input_ids"]
    alone = [base.net(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy() for ids in rows[:7]]
    found = Encoder(base.net).features(rows)
    np.testing.assert_allclose(found, np.stack(alone * 8), rtol=0, atol=1e-4)
