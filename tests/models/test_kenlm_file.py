"""Binaries of KenLM: scored through its library, and told apart where that is missing."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest

from sapwood.errors import ModelError, ResourceError
from sapwood.launch import Runtime
from sapwood.models.choosing import Sampling
from sapwood.models.kenlm_file import MAGIC, KenLanguage, is_kenlm, open_kenlm
from sapwood.models.language import language_model


class Judge:
    """Answers as kenlm.Model does: a word of n letters has log10 p of -n, "new" is unknown."""

    def __init__(self, path):
        self.path = path

    def full_scores(self, text):
        for word in [*text.split(), "."]:
            yield -float(len(word)), 1, word == "new"


@pytest.fixture
def binary(tmp_path):
    path = tmp_path / "lm.binary"
    path.write_bytes(MAGIC + b" 5\n")
    return path


def test_a_binary_is_told_by_how_it_begins(binary, tmp_path):
    (tmp_path / "lm.arpa").write_text("\\data\\\n")
    assert is_kenlm(binary)
    assert not is_kenlm(tmp_path / "lm.arpa")
    assert not is_kenlm(tmp_path) and not is_kenlm(tmp_path / "none")


def test_texts_score_in_nats_with_their_end(binary, monkeypatch):
    monkeypatch.setitem(sys.modules, "kenlm", SimpleNamespace(Model=Judge))
    model = language_model(str(binary), Runtime(device="cpu", dtype="float32", threads=1))
    assert isinstance(model, KenLanguage) and model.judge.path == str(binary)
    assert (model.name, model.family) == (str(binary), "n-gram")
    found = model.scored(["a cat", ""])
    assert [own.tolist() for own in found] == [
        pytest.approx([math.log(10) * n for n in (1, 3, 1)]), pytest.approx([math.log(10)]),
    ]  # fmt: skip
    assert model.unknown(["a new cat", "new new"]) == 3
    assert model.bits_per_byte(["a cat"]) == pytest.approx(5 * math.log2(10) / 5)


def test_a_tokenizer_beside_it_parts_texts(binary, monkeypatch, tiny_tokenizer):
    monkeypatch.setitem(sys.modules, "kenlm", SimpleNamespace(Model=Judge))
    tiny_tokenizer.save_pretrained(binary.parent)
    pieces = tiny_tokenizer.tokenize("the sea")
    wanted = [math.log(10) * len(piece) for piece in pieces] + [math.log(10)]
    assert open_kenlm(binary).scored(["the sea"])[0] == pytest.approx(wanted)


def test_it_cannot_write(binary, monkeypatch):
    monkeypatch.setitem(sys.modules, "kenlm", SimpleNamespace(Model=Judge))
    model = open_kenlm(binary)
    for write in (lambda: model.written(["a"], Sampling()),
                  lambda: list(model.streamed("a", Sampling()))):  # fmt: skip
        with pytest.raises(ModelError) as raised:
            write()
        assert raised.value.code == "E-MODEL-177" and ".arpa file" in raised.value.fix


def test_without_the_extra_it_names_the_line_to_type(binary, monkeypatch):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(ResourceError) as raised:
        open_kenlm(binary)
    assert raised.value.code == "E-RESOURCE-050"
    assert raised.value.fix == "pip install 'sapwood[ngram]'"


def test_a_damaged_binary_is_told(binary):
    pytest.importorskip("kenlm", reason="the extra 'ngram' is not installed")
    with pytest.raises(ModelError) as raised:
        open_kenlm(binary)
    assert raised.value.code == "E-MODEL-178" and str(binary) in raised.value.what
