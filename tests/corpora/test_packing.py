"""Documents as arrays, and back: ids, words, sentences, bytes."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapwood.corpora import packing
from sapwood.corpora.corpus import Corpus
from sapwood.corpora.packing import _ends as ends_of
from sapwood.corpora.packing import encoded, joined, pack
from sapwood.corpora.sentences import sentence_starts
from sapwood.corpora.shelf import write_object, write_rows
from sapwood.corpora.tokenizing import KINDS, opened, train
from sapwood.corpora.words import word_starts
from sapwood.errors import ConfigError, DataError


@pytest.fixture(scope="session")
def tokenizers(kit, tmp_path_factory):
    made = {}
    for kind in KINDS:
        texts = [kit.prose(n, 30) for n in range(10)] + [kit.chinese(n, 20) for n in range(10)]
        folder = tmp_path_factory.mktemp("packing") / kind
        train(kind, lambda texts=texts: iter(texts), 900, 4, folder)
        made[kind] = opened(folder)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_words_begin_where_the_text_says(tokenizers, kind):
    text = "She walked home, didn't she? 我来到北京，天气很好。"
    (document,) = encoded(tokenizers[kind], [text], ["zh"])
    ends = ends_of(tokenizers[kind].encode(text, add_special_tokens=False).offsets, text).tolist()
    firsts = [end for end, begins in zip([0, *ends], document.starts, strict=False) if begins]
    words = [text[a:b].strip() for a, b in zip(firsts, [*firsts[1:], len(text)], strict=True)]
    assert words == [
        "She",
        "walked",
        "home",
        ",",
        "didn't",
        "she",
        "?",
        "我",
        "来到",
        "北京",
        "，",
        "天气",
        "很",
        "好",
        "。",
    ]


def test_bytes_of_unknown_characters_end_where_their_characters_do():
    text = "a☃京b"
    offsets = [(0, 1), *[(1, 3)] * 6, (3, 4)]
    assert ends_of(offsets, text).tolist() == [1, 2, 2, 2, 3, 3, 3, 4]
    assert ends_of([(0, 2), (0, 2)], "éé").tolist() == [2, 2]  # no run of bytes: left as it is
    assert ends_of([], "").tolist() == []


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_begin_where_the_text_says(tokenizers, kit, kind):
    text = kit.prose(1, 5) + "\n\n" + kit.chinese(1, 4)
    (document,) = encoded(tokenizers[kind], [text], ["zh"])
    bounds = document.sentences.tolist()
    starts = sentence_starts(text).tolist()
    assert (bounds[0], bounds[-1], len(bounds)) == (0, len(document.ids), len(starts) + 1)
    said = [
        tokenizers[kind].decode(document.ids[a:b].tolist()).replace(" ", "").strip()
        for a, b in itertools.pairwise(bounds)
    ]
    wanted = [
        text[a:b].replace(" ", "").strip()
        for a, b in zip(starts, [*starts[1:], len(text)], strict=True)
    ]
    assert said == wanted
    assert document.starts[bounds[:-1]].all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_has_the_tokens_of_its_whole(tokenizers, kit, kind, monkeypatch):
    text = "\n\n".join(
        [*(kit.prose(n, 3) for n in range(9)), *(kit.chinese(n, 3) for n in range(9))]
    )
    texts = [text, "short", "", text[::-1]]
    whole = list(encoded(tokenizers[kind], texts, ["zh"] * 4))
    assert whole[0].ids.tolist() == tokenizers[kind].encode(text, add_special_tokens=False).ids
    monkeypatch.setattr(packing, "SEGMENT", 300)
    assert len(list(packing.segments(text))) > 5 and "".join(packing.segments(text)) == text
    for one, other in zip(whole, encoded(tokenizers[kind], texts, ["zh"] * 4), strict=True):
        assert np.array_equal(one.ids, other.ids)
        assert np.array_equal(one.starts, other.starts)
        assert np.array_equal(one.sentences, other.sentences)
        assert one.bytes == other.bytes


def test_a_character_of_several_tokens_begins_once(tokenizers):
    (document,) = encoded(tokenizers["bpe"], ["☃☃ é"], ["und"])
    snow = len(tokenizers["bpe"].encode("☃").ids)
    assert snow > 1
    assert document.starts.tolist()[: 2 * snow] == ([True] + [False] * (snow - 1)) * 2


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(st.text(alphabet=st.characters(exclude_categories=("Cs",))), max_size=4))
def test_every_text_becomes_a_sound_document(tokenizers, kind, texts):
    for text, document in zip(
        texts, encoded(tokenizers[kind], texts, ["en"] * len(texts)), strict=True
    ):
        n = len(document.ids)
        assert len(document.starts) == n
        assert (document.sentences[0], document.sentences[-1]) == (0, n)
        assert np.all(np.diff(document.sentences) > 0) or n == 0
        assert document.bytes == len(text.encode())
        if n:
            assert document.starts[0]
            assert document.starts.sum() <= max(1, len(word_starts(text)))


def corpus_of(tmp_path, tokenizers, kind, rows):
    out = tmp_path / "corpus"
    write_rows(out / "documents" / "00000.jsonl.gz", rows)
    (out / "tokenizer").mkdir()
    tokenizers[kind].save(str(out / "tokenizer" / "tokenizer.json"))
    made = pack(out, 0, 900)
    shards = [{"name": f"{part}-00000", "part": part, **shard} for part, shard in made.items()]
    write_object(
        out / "corpus.json", {"schema": 1, "tokenizer": {"vocabulary": 900}, "shards": shards}
    )
    return out


@pytest.fixture
def packed(tmp_path, tokenizers, kit):
    rows = [
        {
            "id": f"d{n}",
            "text": kit.prose(n, n + 1) if n % 2 else kit.chinese(n, n + 1),
            "source": "s",
            "language": "zh",
            "part": "held" if n in (2, 5) else "train",
        }
        for n in range(8)
    ]
    return corpus_of(tmp_path, tokenizers, "bpe", rows), rows


def test_a_corpus_gives_back_its_documents(packed, tokenizers):
    out, rows = packed
    corpus = Corpus.open(out)
    assert (corpus.vocabulary, corpus.tokenizer) == (900, out / "tokenizer")
    assert len(corpus.sha256) == 64
    for name, wanted in (("train", (0, 1, 3, 4, 6, 7)), ("held", (2, 5))):
        part = corpus.part(name)
        assert len(part) == len(wanted)
        documents = [part.document(at) for at in range(len(part))]
        for document, at in zip(documents, wanted, strict=True):
            (fresh,) = encoded(tokenizers["bpe"], [rows[at]["text"]], ["zh"])
            assert np.array_equal(document.ids, fresh.ids) and document.ids.dtype == np.uint16
            assert np.array_equal(document.starts, fresh.starts)
            assert np.array_equal(document.sentences, fresh.sentences)
            assert document.bytes == fresh.bytes
        assert part.tokens == sum(len(d.ids) for d in documents)
        assert part.bytes == sum(d.bytes for d in documents)
        with pytest.raises(IndexError):
            part.document(len(part))
    assert isinstance(corpus.part("train").document(0).ids.base, np.memmap | np.ndarray)


def test_large_vocabularies_take_four_bytes(packed):
    out, _ = packed
    pack(out, 0, 70_000)
    assert Corpus.open(out).part("train").document(0).ids.dtype == np.uint32


def test_what_is_wrong_with_a_corpus_is_said(packed, tmp_path):
    out, _ = packed
    corpus = Corpus.open(out)
    with pytest.raises(ConfigError, match="no part 'test'") as named:
        corpus.part("test")
    assert named.value.code == "E-CONFIG-233"
    ids = out / "tokens" / "train-00000.ids.npy"
    ids.write_bytes(ids.read_bytes()[:-10])
    (out / "tokens" / "held-00000.bytes.npy").unlink()
    with pytest.raises(DataError) as caught:
        Corpus.open(out)
    assert caught.value.code == "E-DATA-194"
    assert len(caught.value.details) == 2
    card = json.loads((out / "corpus.json").read_text())
    (out / "corpus.json").write_text(json.dumps({**card, "schema": 2}))
    with pytest.raises(DataError, match="has schema 2"):
        Corpus.open(out)
    (out / "corpus.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        Corpus.open(out)
    with pytest.raises(DataError, match="holds no corpus") as missing:
        Corpus.open(tmp_path)
    assert missing.value.code == "E-DATA-192"
    (tmp_path / ".build").mkdir()
    with pytest.raises(DataError, match="not finished"):
        Corpus.open(tmp_path)


def test_joining_keeps_the_order_of_everything(tokenizers, kit):
    texts = [kit.prose(n, 3) for n in range(3)]
    documents = list(encoded(tokenizers["bpe"], texts, ["en"] * 3))
    arrays = joined(documents, np.uint16)
    assert arrays["documents"].tolist() == [0, 3, 6, 9]
    assert arrays["sentences"][-1] == len(arrays["ids"]) == sum(len(d.ids) for d in documents)
    assert arrays["bytes"].tolist() == [len(t.encode()) for t in texts]
