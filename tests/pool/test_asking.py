"""Labels, frames and vectors from the batch are those that the evaluation gives."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from tests.pool.conftest import RUNTIME

from sapwood.adaptation import load
from sapwood.errors import ConfigError
from sapwood.evaluation import Bases, asking
from sapwood.interfaces import Example, Schema

TEXTS = ["great film song", "dull plot town", "superb", "a weak and sour act " * 9]
# Those that the batch takes, and those that are asked alone.
MIXED = ("zero-shot", "few-shot-4", "few-shot-8-bm25", "few-shot-16", "lora", "lora+context",
         "probe")  # fmt: skip
ALONE = ("tf-idf", "majority")


@pytest.fixture(scope="module")
def candidates(small_run) -> dict[str, Path]:
    """Return the adaptation of each candidate of a run by a name that can be served."""
    found = (small_run.out / "run" / "candidates").glob("*/adaptation")
    return {path.parent.name: path for path in found}


@pytest.fixture(scope="module")
def run_pool(small_base, candidates):
    from sapwood.pool.pool import open_pool

    served = {name.replace("+", "."): path for name, path in candidates.items()}
    pool = open_pool(str(small_base), served, runtime=RUNTIME, slots=5, resident=32)
    yield pool
    pool.stop(2)


def wanted(folder: Path, texts: list[str]) -> np.ndarray:
    with asking(load(folder), Bases(RUNTIME)) as asked:
        return asked.said([Example(text=text) for text in texts])


@pytest.mark.parametrize("name", [*MIXED, *ALONE])
def test_labels_are_those_of_the_evaluation(run_pool, candidates, name: str) -> None:
    found = run_pool.classify(name.replace("+", "."), TEXTS).result(60)
    assert [list(row) for row in found] == [["negative", "positive"]] * len(TEXTS)
    values = np.array([list(row.values()) for row in found])
    np.testing.assert_allclose(values, wanted(candidates[name], TEXTS), atol=3e-5)


def by_name(pool) -> dict:
    return {found.name: found for found in pool.shelf.memory.all()}


def test_which_are_asked_alone_is_known(run_pool, candidates) -> None:
    plain = {name: bool(found.plain) for name, found in by_name(run_pool).items()}
    assert {name for name, alone in plain.items() if not alone} >= {
        name.replace("+", ".") for name in MIXED
    }
    assert all(plain[name] for name in ALONE)


def test_many_are_asked_at_once(run_pool, candidates) -> None:
    names = [name for name in MIXED for _ in range(3)]
    futures = [run_pool.classify(name.replace("+", "."), TEXTS) for name in names]
    for name, future in zip(names, futures, strict=True):
        values = np.array([list(row.values()) for row in future.result(60)])
        np.testing.assert_allclose(values, wanted(candidates[name], TEXTS), atol=3e-5)


def test_what_cannot_be_asked_so_is_said(asker) -> None:
    pool = asker.pool
    with pytest.raises(ConfigError) as error:
        pool.classify("lora-8", ["x"]).result(60)
    assert error.value.code == "E-CONFIG-281"
    with pytest.raises(ConfigError, match="'context' finds nothing in texts"):
        pool.extract("context", ["x"]).result(60)
    with pytest.raises(ConfigError, match="Did you mean 'lora-8'"):
        pool.classify("lora8", ["x"])


def test_an_adaptation_with_a_context_writes_under_it(asker, folders) -> None:
    said = asker.say("context", "a fine film")
    other = asker.say("lora-16", "a fine film")
    assert said != other
    found = asker.pool.classify("context", ["a fine film", "dull"]).result(60)
    for row, own in zip(found, wanted(folders["context"], ["a fine film", "dull"]), strict=True):
        assert list(row.values()) == pytest.approx(list(own), abs=3e-5)


def test_vectors_are_unit_and_depend_on_the_adaptation(asker) -> None:
    (one, two), tokens = asker.pool.embed(asker.pool.base, ["a film", "a town"]).result(60)
    (other, _), _ = asker.pool.embed("lora-8", ["a film", "a town"]).result(60)
    assert np.linalg.norm(one) == pytest.approx(1.0)
    assert tokens > 4
    assert one != two
    assert one != other


@pytest.fixture(scope="module")
def finder(small_base, tmp_path_factory) -> Path:
    """An adaptation that writes the entities of a text under its grammar."""
    from sapwood.adaptation import Adaptation, save
    from sapwood.context.prompter import Context
    from sapwood.context.template import Template
    from sapwood.evaluation import sealed
    from sapwood.readouts.written import Written

    bases = Bases(RUNTIME)
    schema = Schema(types=("PER", "LOC"))
    made = Adaptation(
        task="entities",
        labels=schema.types,
        readout_name="generate",
        readout=Written(task="entities", schema=schema, tokens=40),
        base=bases.reference(str(small_base)),
        context=Context(template=Template(instruction="", before="Text: ", between="\nFound:")),
    )
    folder = tmp_path_factory.mktemp("finder") / "finder"
    save(sealed(made, bases, [Example(text="Anna in Rome")]), folder)
    return folder


def test_what_is_found_is_what_the_evaluation_finds(opened, finder) -> None:
    texts = ["Anna saw Rome", "nobody", "北京 is far 😀 away"]
    pool = opened({"finder": finder}, slots=3)
    found = pool.extract("finder", texts).result(60)
    with asking(load(finder), Bases(RUNTIME)) as asked:
        alone = asked.found([Example(text=text) for text in texts])
    assert [answer.frames for answer in found] == [answer.frames for answer in alone]
    assert [answer.words for answer in found] == [answer.words for answer in alone]


def test_requests_for_one_that_is_asked_alone_are_read_together(run_pool, candidates) -> None:
    asked = []
    alone = run_pool.shelf.alone
    before = alone._attached

    def counted(resident):
        reader = before(resident)

        class Counting:
            def said(self, rows):
                asked.append(len(rows))
                return reader.said(rows)

        return Counting()

    alone._attached = counted
    try:
        held = alone._thread.submit(lambda: time.sleep(0.3))
        futures = [run_pool.classify("tf-idf", [text]) for text in TEXTS * 10]
        held.result()
        rows = [list(future.result(60)[0].values()) for future in futures]
    finally:
        alone._attached = before
    np.testing.assert_allclose(rows, np.tile(wanted(candidates["tf-idf"], TEXTS), (10, 1)))
    assert sum(asked) == 40
    assert max(asked) <= 64
    assert len(asked) < 30
