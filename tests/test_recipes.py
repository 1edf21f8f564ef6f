"""The recipes of docs/recipes: short, and run as their reader would run them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sapwood.testing.corpora import tiny_texts

RECIPES = sorted((Path(__file__).parents[1] / "docs" / "recipes").glob("*.py"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_short_and_says_what_it_does(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150 and text.startswith('"""')
    done = subprocess.run(
        [sys.executable, str(path), "--help"], capture_output=True, text=True, check=True
    )
    assert "--out" in done.stdout


@pytest.mark.slow
def test_from_raw_text_to_a_report(tmp_path, write_rows):
    books = tmp_path / "books"
    books.mkdir()
    for number, sentences in enumerate(tiny_texts(400)):
        (books / f"{number}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    task, out = write_rows(tmp_path / "reviews.csv"), tmp_path / "out"
    command = [
        sys.executable, str(RECIPES[0]), "--out", str(out), "--sources", str(books), "--task",
        str(task), "--model", "gpt-tiny", "--pretrain", "8s", "--adapt", "20s",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "base against ngram" in done.stdout
    report = json.loads((out / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["recommended"] and (out / "run" / "report.html").stat().st_size > 10_000
