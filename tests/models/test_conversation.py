"""Conversations: only what is new runs, and old turns go when the window is full."""

from __future__ import annotations

import copy

import pytest

from sapwood.errors import ModelError
from sapwood.models.conversation import Conversation, _begun, _dialogue
from sapwood.models.decoder import Decoder
from sapwood.models.generate import Sampling

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
)
PINNED = [("system", "be brief"), ("user", "one"), ("assistant", "two")]


@pytest.fixture
def talk(tiny_net, tiny_tokenizer):
    def build(pinned=PINNED, *, template=None, tokens=6, limit=512, kind="llama", **how):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        made = Conversation(
            Decoder(tiny_net(kind)), tokenizer, pinned,
            limit=limit, sampling=Sampling(tokens=tokens, **(how or {"temperature": 1.0})),
        )  # fmt: skip
        made.begin()
        return made

    return build


def say(conversation, words):
    pieces = list(conversation.answer(words))
    assert conversation.last is not None
    return "".join(pieces), conversation.last


@pytest.mark.parametrize("template", [None, TEMPLATE, NO_SYSTEM])
def test_nothing_is_encoded_twice(talk, template):
    made = talk(template=template)
    begun = made.decoder.tokens_run
    assert begun == len(made.beginning)
    first, one = say(made, "hello there")
    assert (
        one.run == len(made._ids([*made.pinned, ("user", "hello there")])) - begun + one.tokens - 1
    )
    second, two = say(made, "and now")
    assert two.reused >= begun + len(made.tokenizer("hello there")["input_ids"])
    third, three = say(made, "more")
    assert three.run < three.reused
    assert [user for user, _ in made.turns] == ["hello there", "and now", "more"]
    assert [reply for _, reply in made.turns] == [x.strip() for x in (first, second, third)]


def test_an_answer_is_the_same_whatever_was_reused(talk):
    used, words = talk(), ("hello there", "and now", "more")
    said = [say(used, w)[0] for w in words]
    fresh = talk()
    fresh.turns = list(zip(words[:2], [x.strip() for x in said[:2]], strict=True))
    assert say(fresh, words[2])[0] == said[2]


def test_oldest_turns_go_when_the_window_is_full(talk):
    made = talk(limit=120)
    dropped = [say(made, f"message number {n}, of some length")[1].dropped for n in range(6)]
    assert dropped[0] == 0 and sum(dropped) > 0
    assert made.used() <= 120 and made.turns[-1][0].startswith("message number 5")
    assert made._ids([*made.pinned, ("user", "x")])[: len(made.beginning)] == list(made.beginning)


def test_a_message_that_is_too_long_changes_nothing(talk):
    made = talk(limit=100)
    say(made, "hello")
    before = list(made.turns)
    with pytest.raises(ModelError, match="there is room for 94"):
        list(made.answer("long words " * 60))
    assert made.turns == before
    assert say(made, "hello again")[1].tokens > 0


def test_a_beginning_without_room_is_named(talk):
    with pytest.raises(ModelError, match=r"The context has [\d,]+ tokens; with 6 for an answer"):
        talk([("system", "many words " * 100)], limit=64)


def test_an_answer_left_early_is_kept_as_far_as_it_came(talk):
    made = talk(tokens=40)
    pieces = made.answer("go on")
    start = next(pieces)
    pieces.close()
    assert made.turns == [("go on", start.strip())]
    assert made.last is not None and made.last.tokens < 40


def test_reset_keeps_the_context(talk):
    made = talk()
    say(made, "hello")
    made.reset()
    assert made.turns == [] and made.used() == len(made.beginning)
    before = made.decoder.tokens_run
    say(made, "hello")
    assert made.decoder.tokens_run - before < len(made.beginning)


def test_a_plain_dialogue_ends_before_the_user_is_put_on(talk, monkeypatch):
    made = talk(template=None)
    written = made.tokenizer(" fine.\nUser: and", add_special_tokens=False)["input_ids"]
    pieces = list(made._pieces(iter(written), []))
    assert "".join(pieces) == "fine."


def test_whole_characters_only(talk):
    made = talk(template=TEMPLATE)
    written = made.tokenizer("好的🙂", add_special_tokens=False)["input_ids"]
    pieces = list(made._pieces(iter(written), []))
    assert pieces == ["好", "的", "🙂"]


def test_plain_dialogues_speak_the_user_s_language(talk):
    def shown(pinned, messages):
        return _dialogue(messages, talk(pinned)._speakers())

    chinese = shown([("system", "请简短回答")], [("user", "你好"), ("assistant", "好")])
    assert chinese == "用户：你好\n助手：好\n助手："
    english = shown([], [("system", "s"), ("user", "a {b}"), ("assistant", "b")])
    assert english == "s\n\nUser: a {b}\nAssistant: b\nAssistant:"


def test_broken_letters_do_no_harm(talk):
    assert say(talk(), "a\ud800b")[1].tokens > 0


def test_the_beginning_of_a_stop_is_held_back():
    assert _begun("so\nUs", ["\nUser:"]) == 3
    assert _begun("so", ["\nUser:"]) == 0
    assert _begun("so\n", ["\nUser:"]) == 1


@pytest.mark.parametrize("way", [{"beams": 3}, {"contrast": 0.6, "top_k": 4}])
def test_answers_may_be_searched_for(talk, way):
    made = talk(template=TEMPLATE, **way)
    whole, turn = say(made, "hello there")
    assert whole and turn.tokens == 6 and made.turns == [("hello there", whole.strip())]
    assert say(talk(template=TEMPLATE, **way), "hello there")[0] == whole


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_stop_words_end_an_answer_and_are_not_shown(talk, template):
    free, _ = say(talk(template=template, tokens=30, temperature=0.0), "hello")
    stop = free[6:8]
    cut, turn = say(talk(template=template, tokens=30, temperature=0.0, stops=(stop,)), "hello")
    assert cut == free[: free.index(stop)] and turn.tokens < 30
