"""A BERT with its masked-language-model head as the base: asked for label words, and tuned.

The net is a tiny one that learns, here, to fill in masks of reviews with their sentiment: whether
asking it and tuning it work shows on what it knows.
"""

import json
import random

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from sapwood.adaptation import load
from sapwood.errors import ModelError
from sapwood.evaluation import Bases, Predictor, check_golden
from sapwood.evaluation.masked import MaskedReader
from sapwood.launch import Runtime
from sapwood.methods import parts
from sapwood.search.encoders import check_wanted
from sapwood.search.job import Job, Tuning, read_material
from sapwood.search.ladder import climb, ladder
from sapwood.search.workbench import Workbench

RUNTIME = Runtime(device="cpu", dtype="float32", threads=1)
TELLS = {
    "positive": ["great", "lovely", "superb", "happy", "fine"],
    "negative": ["awful", "dreary", "weak", "sour", "dull"],
}
NEUTRAL = ["film", "cast", "plot", "end", "song", "town", "lamp", "set", "cut", "road", "sea"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
REST = ["review", "sentiment", ":", ".", "positive", "negative", "rather", "good", "bad"]
STEPS, ROWS = 200, 32


def sentence(rng):
    """Return (text, label) of a review with one word that tells."""
    label = rng.choice(sorted(TELLS))
    words = [rng.choice(TELLS[label]), *rng.choices(NEUTRAL, k=3)]
    rng.shuffle(words)
    return " ".join(words), label


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *TELLS["positive"], *TELLS["negative"], *NEUTRAL, *REST]
    places = {word: n for n, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(places, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, places[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A tiny BERT that learnt to fill in the masks of reviews, on disk."""
    torch.manual_seed(0)
    rng = random.Random(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    net = BertForMaskedLM(config).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(STEPS):
        pairs = [sentence(rng) for _ in range(ROWS)]
        said = [f"Review: {text}\nSentiment: {label}." for text, label in pairs]
        ids = torch.tensor(tokenizer(said)["input_ids"])
        hidden = torch.tensor(np.random.default_rng(rng.randrange(9**9)).random(ids.shape) < 0.15)
        hidden[:, -3] = True  # the sentiment is always asked for
        gold = torch.where(hidden, ids, -100)
        loss = net(input_ids=ids.masked_fill(hidden, tokenizer.mask_token_id), labels=gold).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("bert") / "reviewer"
    net.eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def bases():
    return Bases(RUNTIME)


@pytest.fixture
def bench(folder, bases, write_rows, tmp_path):
    def make(*only, flip=False, **tuning):
        rng = random.Random(7)
        rows = [sentence(rng) for _ in range(200)]
        if flip:  # words that the net learnt mean something else here
            rows = [(t, {"positive": "bad", "negative": "rather good"}[x]) for t, x in rows]
        data = write_rows(tmp_path / "reviews.csv", rows)
        job = Job(
            data=str(data), out=tmp_path / "out", model=folder, seconds=600.0,
            only=("majority", *only) if only else (), tuning=Tuning(**{"epochs": 3.0, **tuning}),
        )  # fmt: skip
        place = job.out / "run"
        place.mkdir(parents=True, exist_ok=True)
        return Workbench(job, read_material(job), bases, place)

    return make


def run(bench):
    for _ in climb(bench):
        pass
    return bench.results


def test_the_ladder_has_what_the_head_makes_possible(bench):
    names = [c.name for c in ladder(bench())]
    assert names == ["majority", "tf-idf", "knn", "probe", "zero-shot", "few-shot-4", "masked-lora",
                     "lora"]  # fmt: skip
    assert [c.name for c in ladder(bench("head", "ia3"))] == [
        "majority", "masked-ia3", "head", "ia3",
    ]  # fmt: skip


def test_without_an_example_the_learnt_words_are_found_at_the_mask(bench):
    result = run(bench("zero-shot"))["zero-shot"]
    assert result["status"] == "finished", result["why"]
    assert result["dev"]["low"] > 0.8
    assert set(result["notes"]["bias"]) >= {"content-free", "domain", "labels"}


def test_tuning_learns_labels_that_mean_something_else_and_have_two_tokens(bench):
    results = run(bench("zero-shot", "lora", flip=True, learning_rate=1e-2, epochs=6.0))
    assert results["masked-lora"]["status"] == "finished", results["masked-lora"]["why"]
    assert results["masked-lora"]["dev"]["low"] > 0.8
    curve = results["masked-lora"]["curve"]
    assert curve["loss"][-1] < 0.5 * curve["loss"][0]


@pytest.mark.parametrize(
    "name", ["zero-shot", "few-shot-4", "masked-lora", "masked-prompt(tokens=4)"]
)
def test_what_was_made_is_read_again_as_it_was_scored(bench, bases, folder, name):
    family = name.removeprefix("masked-") if "masked" in name else name.removesuffix("-4")
    made = bench(family, learning_rate=1e-2)
    result = run(made)[name]
    assert result["status"] == "finished", result["why"]
    place = made.candidate_folder(name)
    adaptation = load(place / "adaptation")
    assert (adaptation.base.kind, adaptation.readout_name) == ("encoder", "verbalizer")
    assert bool(adaptation.context.shots) == (name == "few-shot-4")
    with Predictor(adaptation, bases) as predictor:
        check_golden(predictor)
        found = predictor.probabilities([e.text for e in made.splits.dev])
        assert predictor.tokens > 0
    np.testing.assert_allclose(found, np.load(place / "dev" / "probabilities.npy"), atol=1e-5)
    assert not list(parts.parts(bases.get(folder).net))


def test_a_run_from_the_command_line(sapwood, folder, write_rows, tmp_path):
    rng = random.Random(3)
    data = write_rows(tmp_path / "reviews.csv", [sentence(rng) for _ in range(200)])
    out = tmp_path / "run"
    ran = sapwood("adapt", data, "-m", folder, "--encoder", "none", "--epochs", "1", "--out", out,
                  "--device", "cpu", "--dtype", "float32")  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads((out / "report.json").read_text())
    names = {c["name"] for c in report["candidates"] if c["status"] == "finished"}
    assert {"zero-shot", "masked-lora", "lora", "tf-idf"} <= names
    made = out / "run" / "candidates" / "zero-shot" / "adaptation"
    said = sapwood("predict", made, "film superb cast road", "sea lamp dull end", "--json",
                   "--device", "cpu", "--dtype", "float32")  # fmt: skip
    labels = [json.loads(line)["label"] for line in said.out.splitlines()]
    assert labels == ["positive", "negative"]


def test_demonstrations_that_do_not_fit_are_left_out_and_long_texts_are_cut(bench, bases, folder):
    made = bench()
    context = made.context(made.splits.train[:20], shots=20)
    reader = MaskedReader(bases, folder, context, made.labels)
    assert 0 < reader.head.count("Review") < 20
    (row,) = reader.rows(["film " * 200 + "great"])
    assert all(len(ids) <= 64 and ids[-3] == reader.words.mask for ids in row.values())


def test_an_encoder_without_the_head_says_so(bases, bench, tmp_path, tokenizer, folder):
    from transformers import AutoModel

    plain = tmp_path / "plain"
    AutoModel.from_pretrained(folder).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    assert bases.get(str(plain)).masked is None
    made = bench()
    with pytest.raises(
        ModelError, match="has no masked-language-model head, so it cannot be asked"
    ):
        MaskedReader(bases, str(plain), made.context(), made.labels)
    job = Job(data="d", out=tmp_path, model="enc", seconds=9.0, only=("zero-shot",))
    with pytest.raises(ModelError, match=r"without a masked-language-model head.*no zero-shot"):
        check_wanted(job)
    check_wanted(job, masked=True)
    wide = Job(data="d", out=tmp_path, model="enc", seconds=9.0, only=("zero-shot", "channel"))
    with pytest.raises(ModelError, match="which is asked for label words alone: no channel"):
        check_wanted(wide, masked=True)
