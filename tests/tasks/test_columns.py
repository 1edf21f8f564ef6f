"""Columns are chosen by whole names and words."""

import pytest

from sapwood.errors import DataError
from sapwood.tasks.columns import choose_columns


@pytest.mark.parametrize(
    ("found", "text", "label"),
    [
        (("label", "text"), "text", "label"),
        (("idx", "sentence", "label"), "sentence", "label"),
        (("Review Text", "Sentiment"), "Review Text", "Sentiment"),
        (("reviewText", "class"), "reviewText", "class"),
        (("text", "review", "label", "labels"), "text", "label"),
        (("text", "text_id", "text_length", "label", "label_name"), "text", "label"),
        (("标题", "内容", "标签"), "内容", "标签"),
        (("title", "topic"), "title", "topic"),
        (("query", "intent", "domain"), "query", "intent"),
        (("text", "label", "score", "stars"), "text", "label"),
    ],
)
def test_choice(found, text, label):
    columns = choose_columns(found)
    assert (columns.text, columns.label) == (text, label)


@pytest.mark.parametrize("name", ["context", "hypertext", "pretext", "text_id", "texture"])
def test_a_part_of_a_word_is_no_match(name):
    with pytest.raises(DataError, match="cannot tell") as caught:
        choose_columns((name, "label"))
    assert caught.value.code == "E-DATA-004"
    assert "no column looks like the text" in str(caught.value)


def test_the_fix_names_what_is_known():
    with pytest.raises(DataError) as caught:
        choose_columns(("my data", "label"), where="a.csv")
    assert caught.value.fix == "--text 'my data' --label label"
    assert "columns found: 'my data', 'label'" in caught.value.details


def test_a_misspelt_alias_is_suggested():
    with pytest.raises(DataError, match="cannot tell") as caught:
        choose_columns(("sentense", "label"))
    assert "Did you mean 'sentense'?" in str(caught.value)


def test_ambiguity_lists_the_candidates():
    with pytest.raises(DataError) as caught:
        choose_columns(("review", "comment", "intent", "topic"))
    assert caught.value.code == "E-DATA-005"
    assert "the text could be 'review' or 'comment'" in caught.value.details
    assert "the label could be 'intent' or 'topic'" in caught.value.details
