"""Contrastive search equals the formula of its paper, written down plainly."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from sapwood.errors import ModelError
from sapwood.models.decoder import Decoder
from sapwood.models.generate import Sampling, generate, stream
from sapwood.models.grammar import Guides
from sapwood.testing import tiny_net

CONTEXT = tuple(range(20, 50))


def prompts(seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [list(map(int, rng.integers(20, 300, n))) for n in (4, 17, 1, 9)]


@torch.no_grad()
def plain(net, context, prompt, tokens, alpha, k):
    """Return the tokens that (1 - a) p(v|x) - a max cos(h_v, h_j) chooses, all run anew each time.

    j runs over the tokens after the context.
    """
    ids = [*context, *prompt]
    for _ in range(tokens):
        shares, candidates = net(torch.tensor([ids])).logits[0, -1].softmax(-1).topk(k)
        scores = []
        for share, token in zip(shares, candidates.tolist(), strict=True):
            out = net(torch.tensor([[*ids, token]]), output_hidden_states=True)
            hidden = out.hidden_states[-1][0, len(context) :]
            likeness = torch.cosine_similarity(hidden[-1:], hidden[:-1]).max()
            scores.append(float((1 - alpha) * share - alpha * likeness))
        ids.append(candidates.tolist()[int(np.argmax(scores))])
    return tuple(ids[len(context) + len(prompt) :])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("context", [(), CONTEXT])
def test_it_is_the_formula(kind, context):
    sampling = Sampling(tokens=10, contrast=0.6, top_k=5)
    decoder = Decoder(tiny_net(kind))
    found = generate(decoder, prompts(), decoder.encode(context), sampling=sampling)
    expected = [plain(tiny_net(kind), context, p, 10, 0.6, 5) for p in prompts()]
    assert [own[0].ids for own in found] == expected
    greedy = generate(decoder, prompts(), decoder.encode(context), sampling=Sampling(tokens=10))
    assert [own[0].ids for own in greedy] != expected
    streamed = stream(decoder, prompts()[1], decoder.encode(context), sampling=sampling)
    assert tuple(streamed) == expected[1]


def test_hardly_any_contrast_is_greedy():
    decoder = Decoder(tiny_net("llama"))
    sampling = Sampling(tokens=12, contrast=1e-9, top_k=4)
    found = generate(decoder, prompts(), sampling=sampling)
    greedy = generate(decoder, prompts(), sampling=Sampling(tokens=12))
    for one, two in zip(found, greedy, strict=True):
        assert one[0].ids == two[0].ids
        assert one[0].log_probability == pytest.approx(two[0].log_probability, abs=1e-3)


def test_rows_that_end_leave_the_others_as_they_were():
    decoder = Decoder(tiny_net("llama"))
    free = generate(decoder, prompts(), sampling=Sampling(tokens=10, contrast=0.6, top_k=4))
    stops = (free[0][0].ids[1], free[1][0].ids[4])
    sampling = Sampling(tokens=10, contrast=0.6, top_k=4, stop_ids=stops)
    found = generate(decoder, prompts(), sampling=sampling)
    for one, whole in zip(found, free, strict=True):
        ids = whole[0].ids
        end = next((n for n, token in enumerate(ids) if token in stops), len(ids))
        assert one[0].ids == ids[:end]
        assert one[0].stopped == (end < len(ids))


def test_it_follows_a_grammar(tiny_tokenizer):
    end = [tiny_tokenizer.eos_token_id]
    guides = Guides(copy.deepcopy(tiny_tokenizer), 300, end)
    grammar = 'start: ("red" | "green" | "blue") " car"?'
    sampling = Sampling(tokens=20, contrast=0.6, top_k=4, stop_ids=tuple(end))
    found = generate(
        Decoder(tiny_net("llama")),
        prompts(),
        sampling=sampling,
        guides=[guides.guide(grammar) for _ in prompts()],
    )
    words = [tiny_tokenizer.decode(own[0].ids).removesuffix(" car") for own in found]
    assert set(words) <= {"red", "green", "blue"} and all(own[0].stopped for own in found)


def test_a_base_that_cannot_be_packed_says_so():
    other = Decoder(tiny_net("llama"))
    other.why_padded = "asked for by the test"
    with pytest.raises(ModelError) as caught:
        generate(other, prompts(), sampling=Sampling(contrast=0.6, top_k=4))
    assert caught.value.code == "E-MODEL-039"
    assert caught.value.what == (
        "This base cannot answer by contrastive search: asked for by the test."
    )
