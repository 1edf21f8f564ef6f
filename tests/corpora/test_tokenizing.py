"""Tokenizers: the size asked for, specials in place, nothing lost, the same every time."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapwood.corpora.merges import MARK, alphabet
from sapwood.corpora.tokenizing import KINDS, adopt, fewest, opened, train, vocabulary_size
from sapwood.errors import ConfigError, ModelError


@pytest.fixture(scope="session")
def texts(kit):
    return [kit.prose(n, 40) for n in range(30)] + [kit.chinese(n, 30) for n in range(10)]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, texts):
    """Folders of one tokenizer a kind, of 900 tokens with 10 sentinels."""
    folders = {}
    for kind in KINDS:
        folders[kind] = tmp_path_factory.mktemp("tokenizers") / kind
        train(kind, lambda: iter(texts), 900, 10, folders[kind])
    return folders


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_it_with_its_special_tokens(trained, kind):
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(trained[kind])
    size = len(found)
    assert size <= 900 and size == vocabulary_size(opened(trained[kind]))
    assert size == 900 or kind != "bpe"
    names = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")
    ids = [getattr(found, f"{name}_token_id") for name in names]
    assert None not in ids and len(set(ids)) == len(ids)
    assert found.convert_tokens_to_ids("<extra_id_0>") == size - 1
    assert found.convert_tokens_to_ids("<extra_id_9>") == size - 10
    for token in ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "[NLU]", "[NLG]", "[S2S]"):
        assert found.tokenize(f"a{token}b").count(token) == 1
    assert found.mask_token in found.tokenize(f"the {found.mask_token} of")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@given(text=st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_nothing_is_lost(trained, kind, text):
    if any(sign in text for sign in (MARK, "<", "[")):  # marks of the tokenizers themselves
        return
    made = opened(trained[kind])
    assert made.decode(made.encode(text, add_special_tokens=False).ids) == text


def test_wordpiece_splits_as_bert_does(trained):
    made = opened(trained["wordpiece"])
    assert made.encode("the river").tokens == ["[CLS]", "the", "river", "[SEP]"]
    tokens = made.encode("在河边。☃", add_special_tokens=False).tokens
    assert tokens == ["在", "河", "边", "。", "[UNK]"]
    pieces = made.encode("riversides", add_special_tokens=False).tokens
    assert pieces[0] == "river" and all(piece.startswith("##") for piece in pieces[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_in_every_process(tmp_path, trained, texts, kind):
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    code = (
        "import json, sys; from pathlib import Path; from sapwood.corpora.tokenizing import train\n"
        "texts = json.loads(Path(sys.argv[1]).read_text())\n"
        "train(sys.argv[2], lambda: iter(texts), 900, 10, Path(sys.argv[3]))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "texts.json"), kind, str(tmp_path / "out")],
        check=True, timeout=120, env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (trained[kind] / name).read_bytes()


def test_wordpiece_is_as_good_as_the_librarys(trained, texts):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    other = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    other.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    other.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=877, special_tokens=["[UNK]"], show_progress=False
    )
    other.train_from_iterator(texts, trainer)
    ours = opened(trained["wordpiece"])
    lengths = [
        sum(len(e.ids) for e in made.encode_batch(texts, add_special_tokens=False))
        for made in (ours, other)
    ]
    assert lengths[0] <= 1.02 * lengths[1]


def test_unigram_is_as_good_as_the_librarys(trained, texts):
    """By the likelihood of its own training text: bits a character, and tokens."""
    from tokenizers import Tokenizer, models, trainers

    ours = opened(trained["unigram"])
    other = Tokenizer(models.Unigram())
    other.pre_tokenizer = ours.pre_tokenizer
    trainer = trainers.UnigramTrainer(
        vocab_size=900 - 10 - 13 - 256,
        special_tokens=["<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    other.train_from_iterator(texts, trainer)

    def nats(made):
        scores = [score for _, score in json.loads(made.to_str())["model"]["vocab"]]
        total = count = 0
        for one in made.encode_batch(texts, add_special_tokens=False):
            total -= sum(scores[i] for i in one.ids if i < len(scores))
            count += len(one.ids)
        return total, count

    mine, theirs = nats(ours), nats(other)
    assert mine[0] <= 1.02 * theirs[0]
    assert mine[1] <= 1.05 * theirs[1]


def test_the_alphabet_is_what_is_frequent():
    texts = ["aaaa bbb cc d\n"]
    assert alphabet(lambda: iter(texts), 3) == ["a", "b", "c"]
    assert alphabet(lambda: iter(texts), 99) == ["a", "b", "c", "d"]


def test_a_small_corpus_holds_fewer_pieces(tmp_path):
    for kind in KINDS:
        size = train(
            kind, lambda: iter(["a few words", "a few more words"]), 2000, 3, tmp_path / kind
        )
        assert fewest(kind, 3) - 321 < size < 500


def test_a_tokenizer_is_adopted_whole(tmp_path, trained):
    assert adopt(trained["bpe"], tmp_path / "mine") == 900
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "mine" / name).read_bytes() == (trained["bpe"] / name).read_bytes()
    with pytest.raises(ConfigError, match="is neither a folder nor one of bpe, wordpiece, unigram"):
        adopt(tmp_path / "none", tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json") as caught:
        adopt(tmp_path / "empty", tmp_path / "x")
    assert caught.value.code == "E-MODEL-180"
    (tmp_path / "empty" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        adopt(tmp_path / "empty", tmp_path / "x")


def test_the_environment_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    train("bpe", lambda: iter(["a b c"]), 400, 1, tmp_path / "t")
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    assert hashlib.sha256((tmp_path / "t" / "tokenizer.json").read_bytes()).hexdigest()
