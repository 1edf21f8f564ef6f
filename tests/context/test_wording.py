"""The words in which each task is asked for, and how answers follow them."""

import pytest

from sapwood.context.template import Template, default_template
from sapwood.context.wording import template_for


@pytest.mark.parametrize(
    ("between", "label", "wanted"),
    [
        ("\nMood:", "fine", " fine"),
        ("", "fine", " fine"),
        ("", "很好", "很好"),
        ("\n情感：", "fine", "fine"),
        ("\n", "fine", "fine"),
        ("\nMood:", "", ""),
    ],
)
def test_a_space_stands_before_an_answer_where_the_language_has_one(between, label, wanted):
    assert Template(instruction="", before="", between=between).answer(label) == wanted


def test_each_task_has_a_template_in_the_language_of_its_texts():
    kinds = ("PER", "LOC")
    english = template_for("entities", kinds, ["Ada saw Rome"])
    assert english.prompt([], "Ada") == (
        "List the entities of each text (PER, LOC), or none.\n\nText: Ada\nEntities:"
    )
    assert template_for("events", kinds, ["他去了北京"]).prompt([], "他") == (
        "列出每段文本中的事件（PER、LOC）及其触发词和论元，没有则写none。\n\n文本：他\n事件："
    )
    assert template_for("story", (), ["Once"]).query("Once") == "Beginning: Once\nStory:"
    assert template_for("classification", ("a", "b"), ["x"]) == default_template(("a", "b"), ["x"])
