"""From an adaptation to probabilities: what is attached goes away, what changed is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from sapwood.adaptation import load
from sapwood.errors import ModelError
from sapwood.evaluation import CHUNK, Bases, Predictor, Reader, predicting
from sapwood.launch import Runtime
from sapwood.methods import parts

TEXTS = ["great film song", "dull plot town", "superb", "a weak and sour act " * 9]


@pytest.fixture(scope="module")
def bases():
    return Bases(Runtime(device="cpu", dtype="float32", threads=1))


@pytest.fixture
def candidate(small_run):
    return lambda name: load(small_run.out / "run" / "candidates" / name / "adaptation")


def test_a_base_is_loaded_once(bases, small_base):
    assert bases.get(str(small_base)) is bases.get(str(small_base))
    assert bases.decoder(str(small_base)) is bases.decoder(str(small_base))


@pytest.mark.parametrize("name", ["few-shot-4", "few-shot-8-bm25", "lora", "lora+context", "probe"])
def test_a_row_does_not_depend_on_the_rows_beside_it(bases, candidate, name):
    with Predictor(candidate(name), bases) as predictor:
        together = predictor.probabilities(TEXTS)
        alone = np.concatenate([predictor.probabilities([text]) for text in TEXTS])
        backwards = predictor.probabilities(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(together, alone, atol=2e-5)
    np.testing.assert_allclose(together, backwards, atol=2e-5)


def test_a_stream_is_the_whole_in_order(bases, candidate):
    texts = [f"{TEXTS[n % 4]} {n}" for n in range(CHUNK + 7)]
    with Predictor(candidate("zero-shot"), bases) as predictor:
        parts = list(predictor.stream(texts))
        whole = predictor.probabilities(texts)
    assert [len(p) for p in parts] == [CHUNK, 7]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-5)


def test_leaving_a_predictor_gives_the_plain_base_back(bases, candidate, small_base):
    net = bases.get(str(small_base)).net
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    with Predictor(candidate("lora"), bases) as predictor:
        assert parts.weights(net)
        predictor.probabilities(TEXTS)
    assert not parts.weights(net)
    after = dict(net.named_parameters())
    assert set(after) == set(before)
    assert all(torch.equal(after[n], before[n]) for n in before)


def test_an_error_inside_gives_the_plain_base_back_too(bases, candidate, small_base):
    with pytest.raises(RuntimeError), Predictor(candidate("lora"), bases):
        raise RuntimeError
    assert not parts.weights(bases.get(str(small_base)).net)


def test_two_adaptations_in_turn_do_not_touch_each_other(bases, candidate):
    def read(name):
        with Predictor(candidate(name), bases) as predictor:
            return predictor.probabilities(TEXTS)

    first = {name: read(name) for name in ("zero-shot", "lora", "lora+context", "few-shot-4")}
    for name in ("few-shot-4", "lora", "zero-shot", "lora+context", "lora"):
        np.testing.assert_array_equal(read(name), first[name])


def test_the_golden_probe_is_checked_before_anything_is_predicted(bases, candidate, small_run):
    with predicting(candidate("lora"), bases) as predictor:
        assert predictor.probabilities(TEXTS).shape == (4, 2)


def test_weights_moved_a_little_fail_the_golden_probe(bases, candidate, small_base):
    made = candidate("lora")
    for tensor in made.weights.values():
        tensor += 0.3
    with pytest.raises(ModelError, match="golden probe"), predicting(made, bases):
        pass
    assert not parts.weights(bases.get(str(small_base)).net)


def test_a_base_with_one_changed_weight_is_another_base(candidate, small_base, tmp_path):
    from safetensors.torch import load_file, save_file

    other = tmp_path / "small"
    shutil.copytree(small_base, other)
    path = other / "model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    bases = Bases(Runtime(device="cpu", dtype="float32", threads=1))
    bases._loaded[str(small_base)] = bases.get(str(other))
    with pytest.raises(ModelError) as caught:
        Predictor(candidate("lora"), bases)
    assert caught.value.code == "E-MODEL-050"


def test_scope_suffix_encodes_the_context_without_the_method(bases, candidate):
    made = candidate("lora+context")
    assert made.scope == "suffix"
    with Predictor(made, bases) as predictor:
        found = predictor.reader.prefix()
    plain = Reader(bases, made.base.name, made.context, made.labels).prefix()
    for (key, value), (other_key, other_value) in zip(found.layers, plain.layers, strict=True):
        assert torch.equal(key, other_key) and torch.equal(value, other_value)


def test_tokens_are_those_of_the_queries_not_of_the_context(bases, candidate):
    made = candidate("few-shot-16")
    with Predictor(made, bases) as predictor:
        predictor.probabilities(TEXTS[:1])
        predictor.tokens = 0
        predictor.probabilities(TEXTS[:1])
        a_query, context = predictor.tokens, len(predictor.reader.prompter.prefix)
    assert 0 < a_query < 60 < context


@pytest.mark.parametrize("name", ["probe", "knn-few-shot", "few-shot-8-bm25"])
def test_features_alone_are_those_read_with_scores_without_the_labels_tokens(
    bases, candidate, name
):
    made = candidate(name)
    words = {"negative": "a dull and sour act", "positive": "a great film"}
    context = replace(made.context, template=replace(made.context.template, words=words))
    reader = Reader(bases, made.base.name, context, made.labels)
    whole, alone = reader.read(TEXTS), reader.features(TEXTS)
    np.testing.assert_allclose(alone.features, whole.features, atol=2e-5)
    assert alone.scores.shape == (4, 0) and alone.seconds > 0
    inner = len(reader.trie.tokens) - 1
    assert inner > 3 and whole.tokens - alone.tokens == inner * len(TEXTS)


def test_a_readout_of_features_reads_no_labels(bases, candidate, monkeypatch):
    def read(*_, **__):
        raise AssertionError("scores were read")

    monkeypatch.setattr(Reader, "read", read)
    with Predictor(candidate("probe"), bases) as predictor:
        assert predictor.probabilities(TEXTS).shape == (4, 2)


def test_records_of_a_base(bases, small_base):
    reference = bases.reference(str(small_base))
    assert (reference.kind, reference.dtype) == ("decoder", "float32")
    assert len(reference.sha256) == 64
    assert json.dumps(vars(reference))


def test_an_encoder_reads_so_much_of_a_text_and_its_special_tokens(bases, tiny_checkpoint):
    from tokenizers.processors import TemplateProcessing

    name = str(tiny_checkpoint("bert"))
    tokenizer = bases.get(name).tokenizer
    (plain,) = bases.tokens(name, TEXTS[-1:])
    assert bases.tokens(name, TEXTS[-1:], limit=5) == [plain[:5]]
    assert bases.tokens(name, ["sea"], limit=500) == bases.tokens(name, ["sea"])
    kept = tokenizer.backend_tokenizer.post_processor
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    try:
        assert bases.tokens(name, TEXTS[-1:], limit=5) == [[2, *plain[:5], 1]]
    finally:
        tokenizer.backend_tokenizer.post_processor = kept
    short, long = (bases.embed(name, TEXTS[-1:], limit=n) for n in (5, None))
    assert np.abs(short - long).max() > 1e-4


def test_what_was_saved_before_a_length_was_kept_reads_all(bases, small_run, tmp_path):
    source = small_run.out / "run" / "candidates" / "tf-idf" / "adaptation"
    main = json.loads((source / "adaptation.json").read_text())
    assert main.pop("max_text_tokens") is None
    shutil.copytree(source, tmp_path / "old")
    (tmp_path / "old" / "adaptation.json").write_text(json.dumps(main))
    assert load(tmp_path / "old").max_text_tokens is None
