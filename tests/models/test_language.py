"""One protocol for n-gram, recurrent net and Transformer: the same marks, nats and bits a byte."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from sapwood.errors import ModelError
from sapwood.launch import Runtime
from sapwood.models.arpa import write_arpa
from sapwood.models.choosing import Sampling
from sapwood.models.counting import Symbols
from sapwood.models.language import answers, beyond, encoded, language_model
from sapwood.models.ngram import count_and_smooth, sequences_in
from sapwood.models.positions import windows
from sapwood.models.rnn import RNNConfig, RNNForCausalLM

CPU = Runtime(device="cpu", dtype="float32", threads=1)
TEXTS = ["the sea is near the town", "so it is", "猫 sat", "", "a song " * 30]


@pytest.fixture(scope="module")
def ngram_folder(tmp_path_factory, tiny_tokenizer):
    """A trigram model of a few English lines."""
    lines = ["the sea is near", "the song is on the sea", "so the town is near the sea"] * 3
    steps = count_and_smooth(
        sequences_in(iter(encoded(tiny_tokenizer, lines))),
        order=3, symbols=Symbols.of(tiny_tokenizer),
    )  # fmt: skip
    while True:
        try:
            next(steps)
        except StopIteration as end:
            folder = tmp_path_factory.mktemp("lm") / "ngram"
            end.value.save(folder, tiny_tokenizer)
            return folder


@pytest.fixture(scope="module")
def rnn_folder(tmp_path_factory, tiny_tokenizer):
    """A random recurrent net."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lm") / "rnn"
    RNNForCausalLM(RNNConfig(
        vocab_size=300, hidden_size=16, cell_size=24, num_hidden_layers=2, bos_token_id=2,
        eos_token_id=1, pad_token_id=0,
    )).save_pretrained(folder)  # fmt: skip
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(ngram_folder, rnn_folder, tiny_checkpoint):
    return {
        "n-gram": ngram_folder,
        "recurrent": rnn_folder,
        "transformer": tiny_checkpoint("qwen3"),
    }


@pytest.fixture(scope="module")
def models(folders):
    return {family: language_model(str(folder), CPU) for family, folder in folders.items()}


@pytest.mark.parametrize("family", ["n-gram", "recurrent", "transformer"])
def test_bits_a_byte_mean_the_same_in_every_family(models, family):
    model = models[family]
    assert model.family == family
    nats = model.scored(TEXTS)
    ids = encoded(model.tokenizer, TEXTS)
    assert [len(own) for own in nats] == [len(own) + 1 for own in ids], "the end counts"
    assert all((own >= 0).all() and np.isfinite(own).all() for own in nats)
    size = sum(len(text.encode()) for text in TEXTS)
    bits = sum(own.sum() for own in nats) / math.log(2) / size
    assert model.bits_per_byte(TEXTS) == pytest.approx(bits)
    found = answers(model, TEXTS)
    assert [one.bytes for one in found] == [24, 8, 7, 0, 210]
    assert [one.tokens for one in found] == [len(own) for own in nats]
    assert [one.nats for one in found] == pytest.approx([own.sum() for own in nats])


@pytest.mark.parametrize("family", ["recurrent", "transformer"])
def test_scores_are_the_net_s_own_log_softmax(models, family):
    model = models[family]
    found = model.scored(TEXTS)
    start, end = model.marks
    assert (start, end) == ((2, 1) if family == "recurrent" else model.marks)
    for ids, nats in zip(encoded(model.tokenizer, TEXTS), found, strict=True):
        row = torch.tensor([[start, *ids, end]])
        with torch.no_grad():
            logs = model.base.net(row[:, :-1]).logits[0].log_softmax(-1)
        wanted = -logs.gather(1, row[0, 1:, None])[:, 0]
        assert nats == pytest.approx(wanted.numpy(), abs=2e-4)


def test_an_n_gram_scores_as_its_table(models):
    model = models["n-gram"]
    for text, nats in zip(TEXTS, model.scored(TEXTS), strict=True):
        ids = encoded(model.tokenizer, [text])[0]
        wanted = [
            -model.model.next_logs([2, *ids[:at]])[token] for at, token in enumerate([*ids, 1])
        ]
        assert nats == pytest.approx(wanted, abs=1e-5)


def test_a_kind_that_cannot_be_packed_scores_alike(tmp_path, tiny_tokenizer):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(1)
    config = GPTNeoXConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    model = language_model(str(tmp_path), CPU)
    assert model.decoder.why_padded
    texts = TEXTS[:3]
    for ids, nats in zip(encoded(model.tokenizer, texts), model.scored(texts), strict=True):
        row = [2, *ids, 1]
        wanted = []
        for at in range(len(row) - 1):
            first = max(at // 8 - 1, 0) * 8  # windows of 16 tokens that overlap by half
            with torch.no_grad():
                logs = model.base.net(torch.tensor([row[first : at + 1]])).logits[0, -1]
            wanted.append(-float(logs.log_softmax(-1)[row[at + 1]]))
        assert nats == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize(("length", "limit"), [(10, 4), (10, 10), (10, 11), (1, 1), (9, 5), (7, 1)])
def test_windows_answer_every_token_once(length, limit):
    told = []
    for first, new in windows(length, limit):
        end = min(first + limit, length)
        assert first <= new < end
        told += range(new, end)
    assert told == list(range(length))


def test_long_texts_carry_a_recurrent_state_on(models, monkeypatch):
    from sapwood.models import positions

    whole = models["recurrent"].scored(TEXTS)
    monkeypatch.setattr(positions, "STEPS", 5)
    monkeypatch.setattr(positions, "CARRIED_TOKENS", 12)
    for one, two in zip(whole, models["recurrent"].scored(TEXTS), strict=True):
        assert one == pytest.approx(two, abs=1e-5)


@pytest.mark.parametrize("family", ["n-gram", "recurrent", "transformer"])
def test_continuations_follow_the_settings(models, family):
    model = models[family]
    prompts = ["the sea", ""]
    greedy = model.written(prompts, Sampling(tokens=6))
    assert greedy == model.written(prompts, Sampling(tokens=6))
    assert [len(several) for several in greedy] == [1, 1]
    way = Sampling(tokens=6, temperature=1.0, samples=3, seed=1)
    drawn = model.written(prompts, way)
    assert [len(several) for several in drawn] == [3, 3]
    assert drawn == model.written(prompts, way)
    beams = model.written(prompts, Sampling(tokens=6, beams=3, samples=2))
    assert [len(several) for several in beams] == [2, 2]
    for prompt, several in zip(prompts, greedy, strict=True):
        assert "".join(model.streamed(prompt, Sampling(tokens=6))) == several[0]


def test_an_n_gram_continues_with_what_it_read(models):
    assert models["n-gram"].written(["so the town"], Sampling(tokens=40)) == [[" is near the sea"]]


def test_stop_words_end_a_continuation(models):
    found = models["n-gram"].written(["so the town"], Sampling(tokens=40, stops=("near",)))
    assert found[0][0].startswith(" is near") and "sea" not in found[0][0]


def test_characters_of_several_tokens_come_whole(models):
    model = models["recurrent"]
    pieces = list(model.streamed("a", Sampling(tokens=30, temperature=1.5, seed=2)))
    text = model.written(["a"], Sampling(tokens=30, temperature=1.5, seed=2))[0][0]
    assert "".join(pieces) == text


def test_spaces_between_prompt_and_continuation_stay(tiny_tokenizer, tiny_wordpieces):
    ids = tiny_tokenizer("the sea is")["input_ids"]
    assert beyond(tiny_tokenizer, ids[:-2], ids[-2:]) == tiny_tokenizer.decode(ids[-2:])
    words = tiny_wordpieces("a b c", add_special_tokens=False)["input_ids"]
    assert beyond(tiny_wordpieces, words[:1], words[1:]) == " b c"


def test_an_arpa_file_is_a_model_of_words(tmp_path):
    words = ["<unk>", "<s>", "</s>", "the", "sea"]
    symbols = Symbols(size=5, bos=1, eos=2, unk=0)
    steps = count_and_smooth(sequences_in(iter([[3, 4], [3, 4, 3]])), order=2, symbols=symbols)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            made = end.value
            break
    write_arpa(made, words, tmp_path / "lm.arpa")
    model = language_model(str(tmp_path / "lm.arpa"), CPU)
    assert model.family == "n-gram"
    assert model.unknown(["the sea the ship", "sea"]) == 1
    assert model.scored(["the sea"])[0] == pytest.approx(made.scored([[3, 4]])[0], abs=1e-5)
    assert model.written(["the"], Sampling(tokens=1)) == [[" sea"]]


def test_an_encoder_gives_no_probabilities(tiny_checkpoint):
    with pytest.raises(ModelError) as raised:
        language_model(str(tiny_checkpoint("bert")), CPU)
    assert raised.value.code == "E-MODEL-174"
    assert "it gives a text by itself no probability" in raised.value.what


def test_a_base_without_an_end_is_told(rnn_folder, tmp_path, tiny_tokenizer):
    import shutil

    shutil.copytree(rnn_folder, tmp_path / "rnn")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        path = tmp_path / "rnn" / name
        content = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in content.items()
                                    if not k.startswith(("bos", "eos"))}))  # fmt: skip
    model = language_model(str(tmp_path / "rnn"), CPU)
    with pytest.raises(ModelError, match="E-MODEL-176"):
        model.scored(["a"])
