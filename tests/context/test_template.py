"""Templates and prompters: what the model reads, and that prefix + rest is the whole prompt."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context.prompter import Context, Prompter
from sapwood.context.template import Template, default_template, is_chinese
from sapwood.errors import ConfigError
from sapwood.interfaces import Example

DEMOS = (
    Example(text="a fine film", label="positive", row=1),
    Example(text="dull", label="negative", row=2),
)


def test_the_english_prompt_as_the_model_reads_it():
    template = default_template(["negative", "positive"], ["some english text"])
    assert template.prompt(DEMOS, "great") == (
        "Classify the sentiment of each review as negative or positive.\n\n"
        "Review: a fine film\nSentiment: positive\n\n"
        "Review: dull\nSentiment: negative\n\n"
        "Review: great\nSentiment:"
    )


def test_the_flipped_prompt_as_the_model_reads_it():
    template = default_template(["negative", "positive"], ["some english text"])
    assert template.channel_head(DEMOS) == (
        "Classify the sentiment of each review as negative or positive.\n\n"
        "Sentiment: positive\nReview: a fine film\n\n"
        "Sentiment: negative\nReview: dull"
    )
    assert template.answer_first("negative") == "Sentiment: negative\nReview: "
    chinese = default_template(["negative", "positive"], ["房间很干净"])
    assert chinese.answer_first("positive") == "情感：好评\n评论："
    assert chinese.premise() == "情感："


@pytest.mark.parametrize(
    ("between", "words", "flipped"),
    [
        (" =>", " good", "=> good In: "),
        ("\n", "good", "good\nIn: "),
        ("->", " good", "-> good\nIn: "),
        ("", " good", "good\nIn: "),
    ],
)
def test_a_flipped_answer_keeps_the_gap_of_its_template(between, words, flipped):
    template = Template(instruction="", before="In: ", between=between, words={"+": words})
    assert template.answer_first("+") == flipped


def test_the_chinese_prompt_as_the_model_reads_it():
    template = default_template(["negative", "positive"], ["房间很干净"])
    assert template.prompt((), "不错") == "判断每条评论的情感（差评、好评）。\n\n评论：不错\n情感："
    assert template.words == {"negative": "差评", "positive": "好评"}


def test_many_labels_are_not_listed_and_read_as_words():
    labels = [f"card_problem_{n}" for n in range(30)]
    template = default_template(labels, ["why was my card refused"])
    assert template.instruction == "Classify the category of each text."
    assert template.words["card_problem_3"] == " card problem 3"


def test_two_labels_with_the_same_words_are_refused():
    with pytest.raises(ConfigError, match="Two labels have the same words: ' a b'"):
        default_template(["a_b", "a b"], ["text"])


def test_what_is_chinese():
    assert is_chinese(["味道好, ok"])
    assert not is_chinese(["The word 好 means good in Chinese, they say."])


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=60), shots=st.integers(0, 2))
def test_prefix_and_rest_are_the_whole_prompt(tiny_tokenizer, text, shots):
    template = Template(
        instruction="Say which.",
        before="In: ",
        between="\nOut:",
        words={"positive": " positive", "negative": " negative"},
    )
    prompter = Prompter(tiny_tokenizer, Context(template=template, demonstrations=DEMOS[:shots]))
    (rest,) = prompter.rest([text])
    assert [*prompter.prefix, *rest] == prompter.whole(text, DEMOS[:shots])
    assert len(rest) > 0


def test_long_texts_lose_their_end_and_are_counted(tiny_tokenizer):
    template = default_template(["negative", "positive"], ["english"])
    context = Context(template=template, max_text_tokens=10)
    prompter = Prompter(tiny_tokenizer, context)
    (long,) = prompter.rest(["x" * 500])
    (short,) = prompter.rest(["x" * 10])
    assert long == short
    assert prompter.truncated == 1


def test_label_words_are_tokenised_as_they_follow_a_query(tiny_tokenizer):
    template = default_template(["negative", "positive"], ["english"])
    prompter = Prompter(tiny_tokenizer, Context(template=template))
    words = prompter.labels(["negative", "positive"])
    (rest,) = prompter.rest(["fine"])
    whole = tiny_tokenizer(template.prompt((), "fine") + " positive")["input_ids"]
    assert [*prompter.prefix, *rest, *words[1]] == whole
