"""Labels, frames and vectors from the batch are those that the evaluation gives."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from tests.pool.conftest import RUNTIME, finding

from sapwood.adaptation import load
from sapwood.errors import ConfigError
from sapwood.evaluation import Bases, asking
from sapwood.interfaces import Example

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
    found = run_pool.classify(name.replace("+", "."), TEXTS).result(60).values
    assert [list(row) for row in found] == [["negative", "positive"]] * len(TEXTS)
    values = np.array([list(row.values()) for row in found])
    np.testing.assert_allclose(values, wanted(candidates[name], TEXTS), atol=3e-5)


def test_tokens_are_counted_with_those_that_were_in_memory(run_pool, asker, folders) -> None:
    count = run_pool.prompts.count
    one, two = (run_pool.classify("lora.context", TEXTS[:n]).result(60) for n in (1, 2))
    assert 0 < one.cached < one.prompt and two.cached == 2 * one.cached
    whole = asker.pool.classify("context", ["a fine film"]).result(60)
    ids, behind = by_name(asker.pool)["context"].asked("a fine film")
    assert whole.cached == behind.next_position > 4 * count("a fine film")
    assert whole.prompt == whole.cached + len(ids) and whole.written == 0
    bare = asker.pool.embed("prefix", ["a film", "a town"]).result(60)
    assert bare.cached == 2 * 7 and bare.prompt == 14 + count("a film") + count("a town")


def test_of_what_is_asked_alone_the_tokens_of_its_texts_are_counted(run_pool) -> None:
    said = run_pool.classify("tf-idf", TEXTS).result(60)
    assert (said.prompt, said.cached, said.written) == (0, None, 0)  # it reads no tokens
    said = run_pool.classify("channel", TEXTS).result(60)
    assert by_name(run_pool)["channel"].plain == "it scores texts given labels"
    assert said.prompt == sum(map(run_pool.prompts.count, TEXTS)) and said.cached is None


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
        values = np.array([list(row.values()) for row in future.result(60).values])
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
    found = asker.pool.classify("context", ["a fine film", "dull"]).result(60).values
    for row, own in zip(found, wanted(folders["context"], ["a fine film", "dull"]), strict=True):
        assert list(row.values()) == pytest.approx(list(own), abs=3e-5)


def test_vectors_are_unit_and_depend_on_the_adaptation(asker) -> None:
    found = asker.pool.embed(asker.pool.base, ["a film", "a town"]).result(60)
    one, two = found.values
    other, _ = asker.pool.embed("lora-8", ["a film", "a town"]).result(60).values
    assert np.linalg.norm(one) == pytest.approx(1.0)
    assert found.prompt > 4 and found.cached == found.written == 0
    assert one != two
    assert one != other


@pytest.fixture(scope="module")
def finder(small_base, tmp_path_factory) -> Path:
    return finding(Bases(RUNTIME), str(small_base), tmp_path_factory.mktemp("finder") / "finder")


def test_what_is_found_is_what_the_evaluation_finds(opened, finder) -> None:
    texts = ["Anna saw Rome", "nobody", "北京 is far 😀 away"]
    pool = opened({"finder": finder}, slots=3)
    told = pool.extract("finder", texts).result(60)
    found = told.values
    prompts = [f"Text: {text}\nFound:" for text in texts]
    assert told.cached == 0 and told.prompt == sum(map(pool.prompts.count, prompts))
    assert 0 < told.written <= 3 * 40
    assert pool.models()[1].tokens == told.written
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
        rows = [list(future.result(60).values[0].values()) for future in futures]
    finally:
        alone._attached = before
    np.testing.assert_allclose(rows, np.tile(wanted(candidates["tf-idf"], TEXTS), (10, 1)))
    assert sum(asked) == 40
    assert max(asked) <= 64
    assert len(asked) < 30
