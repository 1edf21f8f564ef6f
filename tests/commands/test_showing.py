"""`sapwood data show`: rows of any task as they are read, and as they are trained."""

import json

import pytest

from sapwood.commands.showing import marked, pieces_of
from sapwood.tasks.supervised import SupervisedRow

STORIES = [
    {"prompt": f"Once {n}", "completion": "there was a very long road\nand an end"}
    for n in range(8)
]
TALK = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "and?"},
    {"role": "assistant", "content": "so"},
]


@pytest.fixture
def written(tmp_path):
    def write(rows):
        path = tmp_path / "d.jsonl"
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        return path

    return write


def test_an_answer_in_words_stands_below_what_is_asked(sapwood, written):
    ran = sapwood("data", "show", written(STORIES), "-n", 1)
    assert ran.code == 0
    assert ran.out == "row 1\n  Once 0\n  -> there was a very long road and an end\n"


def test_a_conversation_is_shown_turn_by_turn_and_learnt_at_the_assistants(
    sapwood, written, small_base
):
    data = written([{"messages": TALK}] * 4)
    assert "  user: hello\n  assistant: hi\n" in sapwood("data", "show", data, "-n", 1).out
    given = ("data", "show", data, "-n", 1, "--tokens", "--model", small_base)
    ran = sapwood(*given)
    assert ran.code == 0, ran.err
    mark = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n"
    assert f"User: hello\nAssistant:[[ hi{mark}User:]] and?\nAssistant:[[ so<eos>]]\n" in ran.out
    last = sapwood(*given, "--turns", "last")
    assert "Assistant: hi\nUser: and?\nAssistant:[[ so<eos>]]\n" in last.out


def test_frames_are_learnt_as_they_are_written(sapwood, written, small_base):
    row = {"text": "Ada saw Rome", "entities": [{"start": 8, "end": 12, "label": "LOC"}]}
    ran = sapwood(
        "data", "show", written([row] * 4), "--task", "ner", "-n", 1, "--tokens", "--model",
        small_base,
    )  # fmt: skip
    assert ran.out.startswith("row 1  "), ran.err
    assert 'Text: Ada saw Rome\nEntities:[[ LOC: "Rome"<eos>]]\n' in ran.out


def test_rows_come_before_the_reason_that_stops_a_run(sapwood, written, small_base):
    rows = [
        {"prompt": "<|im_start|>user\nhi<|im_end|>", "completion": f"so it goes {n}"}
        for n in range(9)
    ]
    ran = sapwood(
        "data", "show", written(rows), "--task", "story", "-n", 1, "--tokens", "--json",
        "--model", small_base,
    )  # fmt: skip
    assert ran.code == 3
    shown, whole, told = (json.loads(line) for line in ran.out.splitlines())
    assert shown["row"] == 1 and whole["all"]["rows"] == 9
    assert told["error"] == "E-TPL-001"
    assert ran.err.startswith("E-TPL-001  The texts hold the control tokens of a chat template")
    assert "is no token of" in ran.err and "read letter by letter" in ran.err


def test_a_letter_over_a_boundary_is_shown_once(tiny_tokenizer):
    ids = tiny_tokenizer("a\u4e2db", add_special_tokens=False)["input_ids"]
    assert len(ids) == 5
    row = SupervisedRow(row=1, ids=tuple(ids), learnt=(2, 3, 4))
    pieces = list(pieces_of(row, tiny_tokenizer))
    assert pieces == [("a", False), ("\u4e2db", True)]


def test_what_is_learnt_is_in_colour_on_a_terminal_and_in_brackets_elsewhere():
    pieces = [("ask", False), (" yes", True)]
    assert marked(pieces, colour=False) == "ask[[ yes]]"
    assert marked(pieces, colour=True) == "\x1b[2mask\x1b[0m\x1b[32m\x1b[1m yes\x1b[0m"
