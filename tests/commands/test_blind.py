"""`sapwood compare --blind` asks people, `--votes` counts them."""

from __future__ import annotations

import json

import pytest

from sapwood.pages.blind import as_lines

CPU = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture
def asked(sapwood, story, writing, stories, tmp_path):
    """A page about two adaptations, its key and the two folders."""
    other = writing(shown=2)
    page = tmp_path / "page.html"
    ran = sapwood(
        "compare", story, other, "--blind", page, "--data", stories, "-n", 4, "--json", *CPU
    )
    assert ran.code == 0, ran.err
    return json.loads(ran.out), page, (story, other)


def vote(made, sides, folder, name="votes.json"):
    votes = {str(n): side for n, side in enumerate(sides, 1)}
    content = {
        "schema": "sapwood.blind-votes/1",
        "ballot": made["ballot"],
        "voter": "",
        "votes": votes,
    }
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_both_write_to_the_same_prompts(sapwood, asked, stories):
    made, page, folders = asked
    key = json.loads((page.parent / "page.key.json").read_text())
    assert made["questions"] == len(key["left"]) == 4 and key["rows"] == [1, 2, 3, 4]
    text = page.read_text()
    assert str(folders[0]) not in text and str(folders[1]) not in text
    for folder in folders:
        ran = sapwood("predict", folder, "--data", stories, "--json", *CPU)
        said = [json.loads(line)["answer"] for line in ran.out.splitlines()]
        assert all(f">{as_lines(answer) or 'nothing'}</span>" in text for answer in said[:4])
    assert text.count('name="1"') == text.count('name="4"') == 3 and 'name="5"' not in text


def test_votes_are_counted_by_the_key_beside_them(sapwood, asked, tmp_path):
    made, page, folders = asked
    key = json.loads((page.parent / "page.key.json").read_text())
    sides = ["left" if left == str(folders[0]) else "right" for left in key["left"]]
    path = vote(made, sides, page.parent)
    ran = sapwood("compare", "--votes", path, "--json")
    found = json.loads(ran.out)
    assert found["wins"] == {str(folders[0]): 4, str(folders[1]): 0}
    ran = sapwood("compare", "--votes", path)
    assert ran.code == 0
    assert f"{folders[0]} is preferred to {folders[1]}: in 4 of 4 decided questions" in ran.out
    assert "Voters: 1; questions undecided: 0, without a vote: 0" in ran.out
    away = tmp_path / "downloads"
    away.mkdir()
    elsewhere = vote(made, sides, away)
    ran = sapwood("compare", "--votes", elsewhere)
    assert ran.code == 3 and "E-COMPARE-005  The key of these votes is not next to them" in ran.err
    ran = sapwood("compare", "--votes", elsewhere, "--votes", path, "--key", made["key"], "--json")
    assert json.loads(ran.out)["voters"] == 2


def test_votes_on_another_page_are_refused(sapwood, asked):
    made, page, _ = asked
    path = vote({"ballot": "0" * 12}, ["left"] * 4, page.parent)
    ran = sapwood("compare", "--votes", path, "--key", made["key"])
    assert ran.code == 3 and "E-COMPARE-006  These votes are on another page" in ran.err
    path.write_text("{}")
    ran = sapwood("compare", "--votes", path, "--key", made["key"])
    assert ran.code == 3 and "it is no sapwood.blind-votes/1" in ran.err
    path.write_text("{")
    assert "is not JSON" in sapwood("compare", "--votes", path).err
    assert "cannot be read" in sapwood("compare", "--votes", page.parent / "none.json").err


def test_what_cannot_be_compared_blindly_says_why(sapwood, story, small_run, stories, tmp_path):
    page = tmp_path / "p.html"
    ran = sapwood("compare", story, "--blind", page)
    assert ran.code == 2
    assert "a blind comparison is between two adaptations, got 1" in ran.err
    assert "the prompts are missing: --data FILE" in ran.err
    ran = sapwood("compare", story, small_run.out, "--blind", page, "--data", stories)
    assert ran.code == 2 and "for classification, whose answers are right or wrong" in ran.err
    ran = sapwood("compare", story, story, "--blind", page, "--data", stories)
    assert ran.code == 2 and "both folders are the same one" in ran.err
    assert not page.exists()


def test_the_same_words_everywhere_leave_nothing_to_choose(
    sapwood, story, writing, stories, tmp_path
):
    page = tmp_path / "p.html"
    ran = sapwood("compare", story, writing(), "--blind", page, "--data", stories, *CPU)
    assert ran.code == 3 and "E-COMPARE-004  Both wrote the same words to all 5 prompts" in ran.err
    ran = sapwood(
        "compare", story, writing(), "--blind", page, "--data", stories, "--beams", 2, *CPU
    )
    assert ran.code == 3 and not page.exists()
