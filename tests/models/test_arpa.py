"""ARPA files: read and written, against KenLM where it is installed and its figures where not."""

from __future__ import annotations

import gzip
import math
import random
from pathlib import Path

import numpy as np
import pytest

from sapwood.errors import ModelError
from sapwood.models import arpa
from sapwood.models.arpa import read_arpa, word_tokenizer, write_arpa
from sapwood.models.counting import Symbols
from sapwood.models.ngram import NGram, count_and_smooth, sequences_in

# What lmplz -o 2 --discount_fallback of KenLM 0.3.0 writes for the one text "a".
ONE = """\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-0.7781512\t<unk>\t0
0\t<s>\t-0.30103
-0.38021123\t</s>\t0
-0.38021123\ta\t-0.30103

\\2-grams:
-0.1497623\ta </s>
-0.1497623\t<s> a

\\end\\
"""
# A pruned model as SRILM writes them: no backoff where it is 0, spaces for tabs here and there, a
# trigram whose first two words are no bigram.
PRUNED = """
\\data\\
ngram 1=5
ngram 2=2
ngram 3=1

\\1-grams:
-1.0 </s>
-99\t<s>\t-0.5
-0.7\ta\t-0.25
-0.6\tb\t-0.125
-2.0\t<unk>

\\2-grams:
-0.3\t<s> a\t-0.4
-0.2\tb a

\\3-grams:
-0.1\ta b a

\\end\\
"""


def counted(texts, order, *, closed):
    """Return (model, words) of texts of words."""
    words = ["<unk>", "<s>", "</s>", *sorted({word for text in texts for word in text.split()})]
    ids = {word: n for n, word in enumerate(words)}
    steps = count_and_smooth(
        sequences_in(iter([[ids[w] for w in text.split()] for text in texts])),
        order=order, symbols=Symbols(size=len(words), bos=1, eos=2, unk=0), closed=closed,
    )  # fmt: skip
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, words


def some_texts(count=60, seed=0):
    rng = random.Random(seed)
    words = ["il", "été", "猫", "坐", "x-ray", "a", "b", "Ġc", "▁d", "'", "1.5", "<n>"]
    return [" ".join(rng.choices(words, [1 / (n + 1) for n in range(12)], k=rng.randint(0, 9)))
            for _ in range(count)]  # fmt: skip


def log10(model: NGram, words, text):
    """Return log10 p of each word of a text and of its end."""
    ids = {word: n for n, word in enumerate(words)}
    asked = [ids.get(word, model.symbols.unk) for word in text.split()]
    return -model.scored([asked])[0] / math.log(10)


def test_the_file_of_lmplz_is_read(tmp_path):
    (tmp_path / "one.arpa").write_text(ONE)
    model, words = read_arpa(tmp_path / "one.arpa")
    assert words == ["<unk>", "<s>", "</s>", "a"] and model.sizes == (4, 2)
    assert log10(model, words, "a") == pytest.approx([-0.1497623, -0.1497623])
    # Never seen after <s>: backoff and single word; the context <unk> has no backoff.
    assert log10(model, words, "new") == pytest.approx([-0.30103 - 0.7781512, -0.38021123])


def test_our_counts_give_that_file(tmp_path):
    model, words = counted(["a"], 2, closed=False)
    write_arpa(model, words, tmp_path / "ours.arpa")
    theirs, ours = (
        {
            line.split("\t")[1]: [float(x) for x in (line.split("\t")[0], *line.split("\t")[2:])]
            for line in text.splitlines() if "\t" in line
        }
        for text in (ONE, (tmp_path / "ours.arpa").read_text())
    )  # fmt: skip
    assert ours.keys() == theirs.keys()
    for gram, wanted in theirs.items():
        wanted = [-99.0, *wanted[1:]] if gram == "<s>" else wanted  # <s> is never predicted
        assert ours[gram] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("suffix", [".arpa", ".arpa.gz"])
def test_a_round_trip_changes_nothing(tmp_path, order, closed, suffix):
    texts = some_texts()
    model, words = counted(texts[:50], order, closed=closed)
    path = tmp_path / f"lm{suffix}"
    write_arpa(model, words, path)
    again, same = read_arpa(path, words)
    assert same == words and again.sizes == model.sizes
    for text in texts:
        assert log10(again, words, text) == pytest.approx(log10(model, words, text), abs=1e-5)
    other, own = read_arpa(path)  # by itself: words in the order of the file
    assert set(own) == set(words)
    for text in texts[50:]:
        assert log10(other, own, text) == pytest.approx(log10(model, words, text), abs=1e-5)
    write_arpa(again, words, tmp_path / f"two{suffix}")
    opened = gzip.open if suffix.endswith("gz") else open
    with opened(path, "rt", encoding="utf-8") as one:
        first = sorted(line.split("\t")[1] for line in one if "\t" in line)
    with opened(tmp_path / f"two{suffix}", "rt", encoding="utf-8") as two:
        assert sorted(line.split("\t")[1] for line in two if "\t" in line) == first


@pytest.mark.parametrize("closed", [True, False])
def test_kenlm_scores_our_file_as_we_do(tmp_path, closed, capfd):
    kenlm = pytest.importorskip("kenlm", reason="the extra 'ngram' is not installed")
    texts = some_texts(80, seed=4)
    model, words = counted(texts[:60], 4, closed=closed)
    write_arpa(model, words, tmp_path / "lm.arpa")
    judge = kenlm.Model(str(tmp_path / "lm.arpa"))
    assert judge.order == 4
    for text in [*texts, "never seen", "a b never a"]:
        theirs = [log for log, _, _ in judge.full_scores(text)]
        assert log10(model, words, text) == pytest.approx(theirs, abs=1e-5)
    capfd.readouterr()


def test_a_pruned_file_scores_as_it_says(tmp_path, capfd):
    path = tmp_path / "pruned.arpa"
    path.write_text(PRUNED)
    model, words = read_arpa(path)
    assert model.sizes == (5, 3, 1), "the bigram a b is filled in"
    # p(a) after <s>; p(b | <s> a) backs off twice; p(a | a b) is the trigram itself.
    assert log10(model, words, "a b a") == pytest.approx(
        [-0.3, -0.4 - 0.25 - 0.6, -0.1, 0 - 0.25 - 1.0]
    )
    # After b b there is no trigram; the context b a is known, its backoff is not there: 0.
    assert log10(model, words, "b b a") == pytest.approx(
        [-0.5 - 0.6, -0.125 - 0.6, -0.2, 0 - 0.25 - 1.0]
    )
    kenlm = pytest.importorskip("kenlm", reason="the extra 'ngram' is not installed")
    write_arpa(model, words, path)  # it insists on tabs and on every context
    judge = kenlm.Model(str(path))
    for text in ("a b a", "b b a", "a a", "b", "z a b a b a"):
        theirs = [log for log, _, _ in judge.full_scores(text)]
        assert log10(model, words, text) == pytest.approx(theirs, abs=1e-5)
    capfd.readouterr()


def test_a_file_without_unk_has_kenlm_s_floor(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ONE.replace("ngram 1=4", "ngram 1=3").replace("-0.7781512\t<unk>\t0\n", ""))
    model, words = read_arpa(path)
    assert "<unk>" in words
    assert log10(model, words, "zzz")[0] == pytest.approx(-100 - 0.30103)


def test_long_files_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(arpa, "LINES", 7)
    texts = some_texts(40, seed=9)
    model, words = counted(texts, 3, closed=True)
    write_arpa(model, words, tmp_path / "lm.arpa")
    again, _ = read_arpa(tmp_path / "lm.arpa", words)
    assert np.allclose(again.next_logs([1, 5])[2:], model.next_logs([1, 5])[2:], atol=1e-5)
    content = (tmp_path / "lm.arpa").read_text().replace("\t0\n", "\n").replace("\n\n", "\n\n\n")
    (tmp_path / "mixed.arpa").write_text(content)
    other, _ = read_arpa(tmp_path / "mixed.arpa", words)
    for one, two in zip(again.orders, other.orders, strict=True):
        assert np.array_equal(one.logs, two.logs) and np.array_equal(one.backoffs, two.backoffs)


@pytest.mark.parametrize(
    ("old", "new", "line", "text"),
    [
        ("\\data\\", "data", 1, r"an ARPA file begins with \data\."),
        ("ngram 2=2", "ngram 3=2", 3, "'ngram 2=NUMBER' should stand here."),
        ("\\1-grams:", "\\2-grams:", 5, r"sizes ('ngram 1=...') and then \1-grams: should stand"),
        ("ngram 1=4", "ngram 1=5", 11, "a log10, 1 words and perhaps a backoff should stand here"),
        ("ngram 1=4", "ngram 1=3", 9, "\\2-grams: should stand here, after 3 lines of 1-grams."),
        ("-0.1497623\ta </s>", "-0.1497623\ta", 12, "a log10, 2 words and perhaps a backoff"),
        ("-0.1497623\ta </s>", "minus\ta </s>", 12, "has a number that is none."),
        ("-0.1497623\ta </s>", "0.5\ta </s>", 12, "0.5 is not the log10 of a probability."),
        ("-0.1497623\ta </s>", "nan\ta </s>", 12, "nan is not the log10 of a probability."),
        ("-0.1497623\ta </s>", "-0.1\tb </s>", 12, "the word 'b' is not among the 1-grams."),
        ("\\end\\\n", "", 14, "\\end\\ is missing, so the file may be cut short."),
    ],
)
def test_a_wrong_line_is_named(tmp_path, old, new, line, text):
    path = tmp_path / "bad.arpa"
    assert old in ONE
    path.write_text(ONE.replace(old, new, 1))
    with pytest.raises(ModelError) as raised:
        read_arpa(path)
    assert raised.value.what.startswith(f"{path}:{line}: ") and text in raised.value.what
    assert raised.value.code == "E-MODEL-173" and raised.value.fix


@pytest.mark.parametrize("how", ["missing", "binary", "cut"])
def test_what_is_no_text_is_told(tmp_path, how):
    path = tmp_path / "lm.arpa"
    if how == "binary":
        path.write_bytes(b"\\data\\\nngram 1=1\n\n\\1-grams:\n-1\t\xff\xfe\n")
    if how == "cut":
        path.write_bytes(gzip.compress(ONE.encode())[:-20])
    with pytest.raises(ModelError) as raised:
        read_arpa(path)
    wanted = {"missing": "There is no ARPA file", "binary": "it is not UTF-8 text",
              "cut": "the file is damaged"}  # fmt: skip
    assert wanted[how] in raised.value.what


def test_words_that_no_file_can_hold_are_refused(tmp_path):
    model, words = counted(["a b"], 2, closed=True)
    for wrong in ("two words", "", "</s>"):
        bad = [*words[:-1], wrong]
        with pytest.raises(ModelError, match="E-MODEL-172"):
            write_arpa(model, bad, tmp_path / "lm.arpa")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_words_gets_a_tokenizer_of_words(tmp_path):
    path: Path = tmp_path / "one.arpa"
    path.write_text(ONE)
    model, words = read_arpa(path)
    tokenizer = word_tokenizer(model, words)
    assert tokenizer("a  new a")["input_ids"] == [3, 0, 3]
    assert tokenizer.decode([3, 3]) == "a a"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
