"""Rows with their answers as tokens: what is learnt, and what is cut."""

import copy

import pytest

from sapwood.context.answering import Answering, tokens_of
from sapwood.context.prompter import Context, Prompter
from sapwood.context.template import Template, default_template
from sapwood.context.turns import render, shorter, spoken
from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Example, Turn

PLAIN = Template(instruction="", before="", between="\n")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3 does: what was thought in earlier turns is left out once others follow.
FORGETTING = CHATML.replace(
    "{{ m['content'] }}",
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}",
)
TALK = tuple(
    Turn(role=role, content=words)
    for role, words in (
        ("user", "hello there"),
        ("assistant", "hi"),
        ("user", "and now?"),
        ("assistant", "the end"),
    )
)


@pytest.fixture(scope="module")
def chatml(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHATML
    return tokenizer


def form(tokenizer, context=None, *, max_length=400, **settings):
    context = context or Context(template=PLAIN, max_text_tokens=400)
    return Answering(Prompter(tokenizer, context), max_length=max_length, **settings)


def learnt(row, tokenizer):
    """Return the learnt stretches of a row as text."""
    runs, before = [], None
    for place in row.learnt:
        if place - 1 != before:
            runs.append([])
        runs[-1].append(row.ids[place])
        before = place
    return [tokenizer.decode(run) for run in runs]


def test_an_answer_follows_its_prompt_as_it_is_asked_for_and_ends(tiny_tokenizer):
    made = form(tiny_tokenizer)
    row = tokens_of(Example(text="the rain", label="was late", row=7), made)
    assert learnt(row, tiny_tokenizer) == ["was late<eos>"]
    assert tiny_tokenizer.decode(row.ids) == "the rain\nwas late<eos>"
    prompt = [*made.prompter.prefix, *made.prompter.rest(["the rain"])[0]]
    assert list(row.ids[: len(prompt)]) == prompt
    assert (row.row, row.answers, row.ended, row.lost_answer) == (7, 1, 1, 0)


def test_label_words_have_the_tokens_that_a_verbalizer_scores(tiny_tokenizer):
    labels = ("positive", "negative")
    template = default_template(labels, ["a film"])
    shown = (Example(text="great", label="positive"),)
    prompter = Prompter(tiny_tokenizer, Context(template=template, demonstrations=shown, shots=1))
    made = Answering(prompter, max_length=400)
    assert made.end == "separator"
    row = tokens_of(Example(text="dull", label="negative"), made)
    ids = [row.ids[place] for place in row.learnt]
    assert ids[:-1] == prompter.labels(labels)[1]
    assert tiny_tokenizer.decode(ids) == " negative\n"
    assert row.ids[: row.shared] == prompter.prefix and row.shared > 20
    token = Answering(prompter, max_length=400, end="token")
    assert learnt(tokens_of(Example(text="dull", label="negative"), token), tiny_tokenizer) == [
        " negative<eos>"
    ]


def test_an_answer_that_ends_itself_is_not_ended_twice(tiny_tokenizer):
    made = form(tiny_tokenizer)
    row = tokens_of(Example(text="x", label="y<eos>"), made)
    assert learnt(row, tiny_tokenizer) == ["y<eos>"] and row.ended == 1


def test_a_text_gives_way_to_its_answer_and_then_the_answer_is_cut(tiny_tokenizer):
    text, answer = "x" * 60, "y" * 20
    whole = tokens_of(Example(text=text, label=answer), form(tiny_tokenizer))
    assert (whole.needs, len(whole.ids)) == (82, 82)
    row = tokens_of(Example(text=text, label=answer), form(tiny_tokenizer, max_length=50))
    assert (row.lost_right, row.lost_answer, row.ended, len(row.ids)) == (32, 0, 1, 50)
    assert row.needs == 82
    row = tokens_of(Example(text=text, label="y" * 60), form(tiny_tokenizer, max_length=50))
    assert (row.lost_right, row.lost_answer, row.ended) == (36, 36, 0)
    assert len(row.ids) == 50 and len(row.learnt) == 25
    assert tiny_tokenizer.decode(row.ids) == "x" * 24 + "\n" + "y" * 25


def test_nothing_is_learnt_without_an_answer_but_an_empty_one_is_its_end(tiny_tokenizer):
    made = form(tiny_tokenizer)
    assert tokens_of(Example(text="x"), made).learnt == ()
    assert tokens_of(Example(text="x"), made).answers == 0
    assert learnt(tokens_of(Example(text="x", label=""), made), tiny_tokenizer) == ["<eos>"]


def test_every_turn_of_the_assistant_is_learnt_to_its_end(chatml):
    row = tokens_of(Example(text="", turns=TALK, label="the end"), form(chatml))
    assert learnt(row, chatml) == ["hi<|im_end|>", "the end<|im_end|>"]
    assert (row.answers, row.ended) == (2, 2)
    asked = chatml.apply_chat_template(
        [{"role": t.role, "content": t.content} for t in TALK[:3]],
        add_generation_prompt=True,
        return_dict=True,
    )["input_ids"]
    assert list(row.ids[: len(asked)]) == list(asked)  # answers are learnt where they are asked for
    last = tokens_of(Example(text="", turns=TALK, label="the end"), form(chatml, turns="last"))
    assert learnt(last, chatml) == ["the end<|im_end|>"]
    assert last.ids == row.ids


def test_without_a_template_a_plain_dialogue_ends_where_the_other_speaks(tiny_tokenizer):
    row = tokens_of(Example(text="", turns=TALK, label="the end"), form(tiny_tokenizer))
    assert learnt(row, tiny_tokenizer) == [" hi\nUser:", " the end<eos>"]
    chinese = tuple(Turn(role=r, content=w) for r, w in (("user", "你好吗"), ("assistant", "很好")))
    row = tokens_of(Example(text="", turns=chinese, label="很好"), form(tiny_tokenizer))
    assert learnt(row, tiny_tokenizer) == ["很好<eos>"]
    assert render(tiny_tokenizer, chinese, ask=False) == "用户：你好吗\n助手：很好\n"


def test_a_long_conversation_loses_its_first_turns(chatml):
    example = Example(text="", turns=TALK, label="the end")
    whole = tokens_of(example, form(chatml))
    row = tokens_of(example, form(chatml, max_length=len(whole.ids) - 1))
    assert learnt(row, chatml) == ["the end<|im_end|>"]
    assert row.lost_left > 0 and row.needs == len(whole.ids)
    assert (row.lost_right, row.lost_answer) == (0, 0)
    short = tokens_of(example, form(chatml, max_length=len(row.ids) - 3))
    assert short.lost_answer == 2 and short.ended == 0  # the line break after the end is no answer
    assert short.lost_right == 1


def test_system_words_stay_when_turns_go():
    system = Turn(role="system", content="be brief")
    assert shorter((system, *TALK)) == (system, *TALK[2:])
    assert shorter((system, *TALK[2:])) == (system, *TALK[2:])


def test_a_template_that_rewrites_earlier_turns_is_refused(chatml):
    tokenizer = copy.deepcopy(chatml)
    tokenizer.chat_template = FORGETTING
    thought = (TALK[0], Turn(role="assistant", content="<think>hm</think>hi"), *TALK[2:])
    with pytest.raises(DataError) as caught:
        spoken(tokenizer, thought, "all")
    assert caught.value.code == "E-TPL-002"
    assert "writes turn 2 otherwise once more turns follow" in str(caught.value)
    assert "<think>" in caught.value.details[0] and "<think>" not in caught.value.details[1]
    assert caught.value.fix.endswith("--turns last")
    said = spoken(tokenizer, thought, "last")
    assert [said.text[a:b] for a, b in said.answers] == ["the end<|im_end|>\n"]


def test_system_words_go_to_the_user_where_a_template_has_no_place_for_them(chatml):
    tokenizer = copy.deepcopy(chatml)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + CHATML
    )
    said = render(tokenizer, (Turn(role="system", content="be brief"), *TALK[:1]), ask=True)
    assert "user\nbe brief\n\nhello there<|im_end|>" in said
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="refuses a conversation of the roles user: roles must"):
        render(tokenizer, TALK[:1], ask=True)


def test_settings_that_do_not_exist_are_refused(tiny_tokenizer):
    with pytest.raises(ConfigError) as caught:
        form(tiny_tokenizer, turns="first", end="eos", max_length=1)
    assert len(caught.value.details) == 3
