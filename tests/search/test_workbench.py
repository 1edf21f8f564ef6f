"""What a run knows before it tries anything: the order of its rows, the room for a text."""

import json
import shutil

import pytest

from sapwood.evaluation import Bases
from sapwood.launch import Runtime
from sapwood.search.job import Job, read_material
from sapwood.search.ladder import climb
from sapwood.search.workbench import Workbench

RUNTIME = Runtime(device="cpu", dtype="float32", threads=1)


@pytest.fixture
def bench(tmp_path):
    """Maker of workbenches over a data file."""

    def make(data, base, *only):
        job = Job(
            data=str(data), out=tmp_path / "out", model=str(base), seconds=600.0, only=only
        )  # fmt: skip
        return Workbench(job, read_material(job), Bases(RUNTIME), tmp_path)

    return make


def test_development_rows_of_a_sorted_file_come_mixed(bench, small_base, write_rows, tmp_path):
    """The first rows of a sorted file are of one label, and of no use to judge by."""
    data = write_rows(tmp_path / "sorted.csv", count=400)
    head, *rows = data.read_text().splitlines(keepends=True)
    data.write_text(head + "".join(sorted(rows, key=lambda row: row.split(",")[1])))
    made = bench(data, small_base)
    assert {e.label for e in made.splits.dev[:8]} == set(made.labels)


def test_texts_are_cut_to_what_a_short_base_reads(bench, small_base, write_rows, tmp_path):
    """A base that was pretrained on rows of 256 tokens failed on a text of 300."""
    short = tmp_path / "short"
    shutil.copytree(small_base, short)
    for name, key in (
        ("config.json", "max_position_embeddings"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        content = json.loads((short / name).read_text())
        (short / name).write_text(json.dumps({**content, key: 160}))
    data = write_rows(tmp_path / "long.csv")
    head, *rows = (line.split(",") for line in data.read_text().splitlines())
    lines = [f"{(text + ' ') * 40},{label}" for text, label in rows]
    data.write_text("\n".join([",".join(head), *lines, ""]))
    made = bench(data, short, "zero-shot", "probe")
    assert 1 < made.text_tokens < 160
    assert bench(data, small_base).text_tokens == made.job.max_length
    list(climb(made))
    assert {name: made.results[name]["status"] for name in ("zero-shot", "probe")} == {
        "zero-shot": "finished", "probe": "finished",
    }  # fmt: skip


def test_features_do_not_stand_in_for_scores_but_scores_for_features(
    bench, small_base, write_rows, tmp_path
):
    made = bench(write_rows(tmp_path / "rows.csv"), small_base)
    reader, rows = made.reader(made.context()), made.splits.dev[:8]

    def read(key, **settings):
        return finish(made.read(reader, rows, name="any", key=key, **settings))

    alone = read("one", scored=False)
    assert alone.scores.shape == (8, 0) and not made.query_tokens
    scored = read("one")
    assert scored.scores.shape == (8, 2) and made.query_tokens == scored.tokens / 8
    assert read("one", scored=False) is scored and read("two", scored=False) is not alone


def finish(making):
    """Return what a generator of events returns."""
    try:
        while True:
            next(making)
    except StopIteration as done:
        return done.value
