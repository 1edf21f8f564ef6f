"""Prompters of the channel: answers before texts, the same text tokens for every label."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from sapwood.context.prompter import Context, Prompter
from sapwood.context.template import Template, default_template
from sapwood.interfaces import Example

LABELS = ("negative", "positive")
DEMOS = (
    Example(text="a fine film", label="positive", row=1),
    Example(text="dull", label="negative", row=2),
)
TEMPLATE = default_template(LABELS, ["some english text"])


def channel(tokenizer, template=TEMPLATE, shots: int = 2) -> Prompter:
    shown = DEMOS[:shots]
    return Prompter(tokenizer, Context(template=template, demonstrations=shown), channel=True)


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Build one that cuts nothing beforehand, so that merges cross from the answer to the text."""
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ:.,\n▁"})
    vocabulary = {token: n for n, token in enumerate(["<unk>", *letters])}
    merges = [("▁", "a"), ("▁a", "b"), ("x", "\n"), ("x\n", "a"), ("x\n", "b"), ("\n", "a")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60), shots=st.integers(0, 2))
def test_prefix_and_row_are_the_flipped_prompt(tiny_tokenizer, text, shots):
    prompter = channel(tiny_tokenizer, shots=shots)
    (rows,) = prompter.channel_rows([text], LABELS)
    for label, (ids, begins) in zip(LABELS, rows, strict=True):
        flipped = TEMPLATE.channel_head(DEMOS[:shots]) + "\n\n" + TEMPLATE.answer_first(label)
        whole = [*prompter.prefix, *ids]
        assert tiny_tokenizer.decode(whole, clean_up_tokenization_spaces=False) == flipped + text
        assert whole == tiny_tokenizer(flipped + text)["input_ids"]
        assert 0 < begins <= len(ids)
        end = len(tiny_tokenizer.decode(ids[begins:], clean_up_tokenization_spaces=False))
        assert end - len(text) in (0, 1)  # a token may begin with the space before the text


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_the_text_has_the_same_tokens_for_every_label(tiny_tokenizer, text):
    for template in (
        TEMPLATE,
        Template(instruction="", before="", between=" =>", words={"negative": "x", "positive": ""}),
    ):
        (rows,) = channel(tiny_tokenizer, template).channel_rows([text], LABELS)
        assert len({tuple(ids[begins:]) for ids, begins in rows}) == 1


def test_a_token_over_the_boundary_belongs_to_the_text(tiny_tokenizer):
    (rows,) = channel(tiny_tokenizer).channel_rows(["there"], LABELS)
    for ids, begins in rows:
        assert tiny_tokenizer.decode(ids[begins:]) == " there"
        assert tiny_tokenizer.decode(ids[:begins]).endswith("\nReview:")


def test_an_empty_text_has_no_tokens(tiny_tokenizer):
    (rows,) = channel(tiny_tokenizer).channel_rows([""], LABELS)
    assert all(begins == len(ids) for ids, begins in rows)


@pytest.mark.parametrize("shots", [0, 2])
def test_where_merges_differ_between_labels_answer_and_text_are_tokenised_apart(shots):
    tokenizer = merging_tokenizer()
    words = {"negative": " x", "positive": " y"}
    template = Template(instruction="", before="", between="\nIs:", words=words)
    prompter = channel(tokenizer, template, shots=shots)
    together = tokenizer(template.answer_first("negative") + "ab")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(together)[-2:] == ["x\na", "b"]  # the answer's x is in
    for text in ("ab", "b", "zab"):
        (rows,) = prompter.channel_rows([text], LABELS)
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        if text != "zab":
            assert all(ids[begins:] == own for ids, begins in rows)
        for label, (ids, begins) in zip(LABELS, rows, strict=True):
            shown = tokenizer.decode([*prompter.prefix, *ids])
            head = template.channel_head(DEMOS[:shots])
            assert shown == (head + "\n\n" if head else "") + template.answer_first(label) + text
            assert begins > 0


def test_long_texts_are_cut_as_everywhere(tiny_tokenizer):
    context = Context(template=TEMPLATE, max_text_tokens=10)
    prompter = Prompter(tiny_tokenizer, context, channel=True)
    long, short = prompter.channel_rows(["x" * 500, "x" * 10], LABELS)
    assert long == short
    assert prompter.truncated == 1


def test_the_premise_is_a_query_without_its_text(tiny_tokenizer):
    prompter = Prompter(tiny_tokenizer, Context(template=TEMPLATE, demonstrations=DEMOS))
    whole = tiny_tokenizer(TEMPLATE.head(DEMOS) + "\n\nSentiment:")["input_ids"]
    assert [*prompter.prefix, *prompter.premise()] == whole
    alone = Template(instruction="", before="Review: ", between="\nSentiment:", words={})
    bare = Prompter(tiny_tokenizer, Context(template=alone))
    assert bare.premise() == tiny_tokenizer("Sentiment:")["input_ids"]


def test_the_two_ways_are_not_mixed_up(tiny_tokenizer):
    with pytest.raises(AssertionError, match="channel_rows"):
        channel(tiny_tokenizer).rest(["x"])
    with pytest.raises(AssertionError, match="channel=True"):
        Prompter(tiny_tokenizer, Context(template=TEMPLATE)).channel_rows(["x"], LABELS)


@pytest.mark.weights("smollm2-135m", "gemma3-270m")
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m"])
@pytest.mark.parametrize("chinese", [False, True])
def test_rows_are_the_prompts_of_the_real_tokenizers(name, chinese):
    from sapwood.launch import Runtime
    from sapwood.models.load import load_base

    tokenizer = load_base(name, Runtime(device="cpu", dtype="float32", threads=1)).tokenizer
    texts = ["房间很干净", "🙂 不错"] if chinese else ["a fine film", "'s not 7 dull -- ok"]
    template = default_template(LABELS, texts)
    prompter = channel(tokenizer, template)
    for text, rows in zip(texts, prompter.channel_rows(texts, LABELS), strict=True):
        for label, (ids, begins) in zip(LABELS, rows, strict=True):
            flipped = template.channel_head(DEMOS) + "\n\n" + template.answer_first(label)
            assert [*prompter.prefix, *ids] == tokenizer(flipped + text)["input_ids"]
            assert text in tokenizer.decode(ids[begins:], clean_up_tokenization_spaces=False)
        assert len({tuple(ids[begins:]) for ids, begins in rows}) == 1


@pytest.mark.parametrize("first", ["premise", "rest"])
def test_premise_and_queries_share_a_prefix_where_the_tokenizer_does_not_split(first):
    tokenizer = merging_tokenizer()
    words = {"negative": " x", "positive": " y"}
    template = Template(
        instruction="x", before="", between="ab", separator="\n", words=words
    )  # the separator merges with what is before it and with what is after it
    prompter = Prompter(tokenizer, Context(template=template))
    if first == "premise":
        premise, (rest,) = prompter.premise(), prompter.rest(["b"])
    else:
        (rest,), premise = prompter.rest(["b"]), prompter.premise()
    assert [*prompter.prefix, *rest] == tokenizer("x\nbab")["input_ids"]
    assert [*prompter.prefix, *premise] == tokenizer("x\nab")["input_ids"]
