"""Draws: any order, any process, nothing copied, nothing lost unsaid."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Document
from sapwood.objectives import Draws, objective
from sapwood.testing import sample_documents
from sapwood.testing.objectives import Sample, documents_of

LINES = ("clm", "mlm+nsp", "plm", "span", "fim")
SCRIPT = """
import hashlib, sys
import numpy as np
from sapwood.interfaces import Document
from sapwood.objectives import Draws, Vocabulary, objective
held = np.load(sys.argv[1])
class Stored:
    def __len__(self):
        return len(held) // 3
    def document(self, n):
        ids, starts, edges = (held[f"{name}{n}"] for name in ("ids", "starts", "edges"))
        return Document(ids=ids, starts=starts, sentences=edges, bytes=len(ids))
vocabulary = eval(sys.argv[2])
for line in sys.argv[3:]:
    draws = Draws(objective(line), Stored(), vocabulary, 64, seed=3)
    for index in reversed(range(draws.plan(2))):
        example = draws.draw(2, index)
        text = b"".join(example[name].tobytes() for name in sorted(example) if name != "bytes")
        print(line, index, hashlib.sha256(text).hexdigest())
"""


def test_another_process_draws_the_same_bytes(vocabulary, tmp_path):
    text = sample_documents(20)
    held = {}
    for n, each in enumerate(text.documents):
        held |= {f"ids{n}": each.ids, f"starts{n}": each.starts, f"edges{n}": each.sentences}
    np.savez(tmp_path / "held.npz", **held)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "held.npz"), repr(vocabulary), *LINES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = {tuple(line.split()[:2]): line.split()[2] for line in done.stdout.splitlines()}
    seen = 0
    for line in LINES:
        draws = Draws(objective(line), text, vocabulary, 64, seed=3)
        for index in range(draws.plan(2)):
            example = draws.draw(2, index)
            whole = b"".join(example[name].tobytes() for name in sorted(example) if name != "bytes")
            assert told[line, str(index)] == hashlib.sha256(whole).hexdigest()
            seen += 1
    assert seen == len(told) > 50


def test_seeds_and_epochs_differ(vocabulary):
    def first(seed, epoch):
        draws = Draws(objective("mlm"), sample_documents(20), vocabulary, 64, seed=seed)
        return [draws.draw(epoch, n)["input_ids"].tobytes() for n in range(5)]

    rows = [first(0, 0), first(0, 1), first(1, 0), first(1, 1)]
    assert len({row for each in rows for row in each}) == 20


class Watched(Sample):
    """Documents that count how often they are asked for, and know their sizes."""

    def __init__(self, inner):
        object.__setattr__(self, "documents", inner.documents)
        object.__setattr__(self, "asked", [])

    def document(self, number):
        self.asked.append(number)
        return super().document(number)

    @property
    def lengths(self):
        return np.array([len(d.ids) for d in self.documents], dtype=np.uint32)

    @property
    def sentence_counts(self):
        return np.array([len(d.sentences) - 1 for d in self.documents])

    @property
    def sentence_lengths(self):
        return np.concatenate([np.diff(d.sentences) for d in self.documents])


@pytest.mark.parametrize("line", ["clm", "mlm+nsp", "span"])
def test_a_plan_needs_no_text_and_a_draw_only_its_own(line, vocabulary):
    plain = sample_documents(50)
    watched = Watched(plain)
    draws = Draws(objective(line), watched, vocabulary, 64)
    other = Draws(objective(line), plain, vocabulary, 64)
    assert draws.plan(0) == other.plan(0)
    assert watched.asked == []
    example = draws.draw(0, 5)
    assert 1 <= len(watched.asked) <= 64
    assert example["input_ids"].tolist() == other.draw(0, 5)["input_ids"].tolist()


def test_memory_mapped_text_is_read_where_it_lies(tmp_path, vocabulary):
    ids = np.random.default_rng(0).integers(24, 390, size=50_000).astype(np.uint16)
    np.save(tmp_path / "ids.npy", ids)
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    starts = np.ones(len(ids), dtype=bool)

    class Mapped:
        def __len__(self):
            return 5

        def document(self, number):
            part = slice(number * 10_000, (number + 1) * 10_000)
            edges = np.array([0, 10_000])
            return Document(ids=mapped[part], starts=starts[part], sentences=edges, bytes=40_000)

    draws = Draws(objective("clm"), Mapped(), vocabulary, 128)
    text = [draws.objective.original(draws.draw(0, n), vocabulary) for n in range(draws.plan(0))]
    found = np.bincount(np.concatenate(text), minlength=500)[24:]
    assert (found == np.bincount(ids, minlength=500)[24:]).all()


def test_layouts_of_two_epochs_are_kept(vocabulary):
    draws = Draws(objective("clm"), sample_documents(20), vocabulary, 64)
    for epoch in range(6):
        draws.plan(epoch)
    assert sorted(draws._layouts) == [4, 5]
    assert draws.draw(0, 0)["input_ids"].tolist() == Draws(
        objective("clm"), sample_documents(20), vocabulary, 64
    ).draw(0, 0)["input_ids"].tolist()  # fmt: skip


def test_what_cannot_be_drawn_is_told(vocabulary):
    draws = Draws(objective("clm"), documents_of([[30, 31]]), vocabulary, 64)
    with pytest.raises(IndexError, match="epoch 0 has examples 0 to 0, not 1"):
        draws.draw(0, 1)
    with pytest.raises(ConfigError) as caught:
        Draws(objective("mlm+nsp"), documents_of([[30]]), vocabulary, 4, seed=-1)
    assert str(caught.value) == (
        "E-CONFIG-204  No examples can be drawn for 'mlm+nsp'.\n"
        "  • the seed must be 0 or more, not -1\n"
        "  • an example of 4 tokens has room for 1 of text, too few\n"
        "  Fix: take a greater length, such as 128"
    )
    empty = Sample(documents=())
    with pytest.raises(DataError) as caught:
        Draws(objective("mlm"), empty, vocabulary, 64).plan(0)
    assert str(caught.value) == (
        "E-DATA-180  The documents give no example for 'mlm'.\n"
        "  • 0 documents, all without tokens\n"
        "  Fix: take more or longer documents, or another objective"
    )
    with pytest.raises(DataError, match="no example for 'mlm\\+sop'"):
        Draws(objective("mlm+sop"), empty, vocabulary, 64).plan(0)


def test_empty_documents_and_sentences_do_no_harm(vocabulary):
    text = documents_of([[], [30, 31], [], [32]], [], [[]], [[40], [41, 42]])
    for line in ("clm", "mlm", "mlm+sop", "nsp"):
        draws = Draws(objective(line), text, vocabulary, 64)
        held = [
            draws.objective.original(draws.draw(0, n), vocabulary) for n in range(draws.plan(0))
        ]
        ids = np.concatenate(held)
        assert set(ids[~vocabulary.special[ids]].tolist()) == {30, 31, 32, 40, 41, 42}
