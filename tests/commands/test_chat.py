"""`sapwood chat` by lines of standard input, as scripts use it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

import sapwood.models.conversation as conversation


@pytest.fixture
def chat(sapwood: Callable[..., Any], small_base: Any, monkeypatch: pytest.MonkeyPatch):
    def run(lines: str | bytes, *flags: object, model: bool = True):
        raw = lines if isinstance(lines, bytes) else lines.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
        base = ("--model", small_base) if model else ()
        return sapwood(
            "chat", *base, "--device", "cpu", "--dtype", "float32", "--max-tokens", "5", *flags
        )

    return run


def test_each_line_is_answered(chat):
    ran = chat("hello\n\nhow are you\n", "--json", "--system", "be brief")
    assert ran.code == 0
    first, second = map(json.loads, ran.out.splitlines())
    assert first["message"] == "hello" and 0 < first["tokens"] <= 5
    assert second["tokens_reused"] > first["tokens_reused"]
    again = chat("hello\n\nhow are you\n", "--json", "--system", "be brief")
    assert [json.loads(x)["answer"] for x in again.out.splitlines()] == [
        first["answer"], second["answer"],
    ]  # fmt: skip


def test_plain_answers_go_to_stdout_and_talk_to_stderr(chat):
    ran = chat(
        "hello\n/context\n/help\n/unknown\n/reset\n/exit\nnot read\n", "--system", "be brief"
    )
    assert ran.code == 0 and "tokens of context" in ran.err
    assert "system: be brief" in ran.err and "4,096 tokens used" in ran.err
    assert "There is no /unknown." in ran.err and "is forgotten" in ran.err
    assert "tokens" not in ran.out


def test_context_and_demonstrations_come_first(chat, tmp_path, write_rows):
    (tmp_path / "facts.txt").write_text("The sea is cold.", encoding="utf-8")
    data = write_rows(tmp_path / "d.csv")
    ran = chat("/context\n", "--context", tmp_path / "facts.txt", "--demonstrations", data,
               "--shots", "4")  # fmt: skip
    assert ran.code == 0 and "The sea is cold." in ran.err
    assert ran.err.count("\nuser: ") == 4 and ran.err.count("\nassistant: ") == 4
    assert "assistant: positive" in ran.err and "assistant: negative" in ran.err


def test_an_error_of_one_message_does_not_end_the_conversation(chat):
    ran = chat("words " * 3000 + "\nhello\n", "--json")
    assert ran.code == 0
    error, answer = map(json.loads, ran.out.splitlines())
    assert error["error"] == "E-MODEL-030" and "there is room for 4,091" in error["what"]
    assert answer["message"] == "hello"


def test_an_interrupt_stops_the_answer_but_not_the_chat(chat, monkeypatch):
    real, calls = conversation.stream, []

    def interrupted(*given: Any, **named: Any):
        calls.append(1)
        for number, token in enumerate(real(*given, **named)):
            if len(calls) == 1 and number == 2:
                raise KeyboardInterrupt
            yield token

    monkeypatch.setattr(conversation, "stream", interrupted)
    ran = chat("hello\nagain\n", "--json")
    first, second = map(json.loads, ran.out.splitlines())
    assert ran.code == 0 and first["stopped"] and first["tokens"] == 2 and not second["stopped"]


def test_what_cannot_be_used_is_told(chat, tmp_path):
    ran = chat("hi\n", "--context", tmp_path / "none.txt")
    assert ran.code == 3 and "cannot be read: No such file" in ran.err
    (tmp_path / "raw").write_bytes(b"\xff\xfe\xff")
    assert "it is not UTF-8 text" in chat("hi\n", "--context", tmp_path / "raw").err
    ran = chat("hi\n", tmp_path)
    assert ran.code == 2 and "--model names another" in ran.err
    ran = chat("hi\n", tmp_path, model=False)
    assert ran.code == 5 and "holds no adaptation" in ran.err


def test_broken_bytes_are_read_as_far_as_they_go(chat):
    ran = chat(b"caf\xe9 \xff\n", "--json")
    assert ran.code == 0 and json.loads(ran.out)["message"].startswith("caf")


def test_a_long_context_is_stored_for_the_next_process(chat, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("SAPWOOD_HOME", str(home))
    (tmp_path / "facts.txt").write_text("The sea is cold and deep. " * 60, encoding="utf-8")
    flags = ("--json", "--context", tmp_path / "facts.txt")
    one = json.loads(chat("hello\n", *flags).out)
    assert len(list((home / "contexts").glob("*.safetensors"))) == 1
    two = json.loads(chat("hello\n", *flags).out)
    assert two["answer"] == one["answer"]
