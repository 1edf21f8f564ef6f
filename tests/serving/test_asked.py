"""The bounds of every entry, what is known of and refused, and how problems are told."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

WRITE = "/v1/completions"
ASK: dict[str, Any] = {"model": "reviews", "prompt": "a b"}


def error_of(answer: httpx.Response) -> Any:
    return answer.json()["error"]


LONG = "x" * 400_001


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("model", ""), ("model", "m" * 257), ("model", None), ("model", ["reviews"]),
        ("n", 0), ("n", 9), ("n", -1), ("n", 1.5), ("n", "many"), ("n", True and 1e300),
        ("max_tokens", 0), ("max_tokens", -5), ("max_tokens", 131_073), ("max_tokens", 1 << 80),
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", "hot"),
        ("top_p", 0), ("top_p", 1.1), ("top_p", -1),
        ("top_k", -1), ("top_k", 1_001), ("min_p", -0.1), ("min_p", 1),
        ("repetition_penalty", 0), ("repetition_penalty", 11),
        ("seed", 1 << 63), ("seed", -(1 << 63) - 1), ("seed", 0.5),
        ("stop", ""), ("stop", [""]), ("stop", ["s"] * 9), ("stop", "s" * 65), ("stop", [1]),
        ("logprobs", -1), ("logprobs", 21), ("logprobs", True and "5x"),
        ("presence_penalty", 0.1), ("frequency_penalty", -0.1), ("logit_bias", {"1": 100}),
        ("prompt", LONG), ("prompt", ["a"] * 33), ("prompt", []), ("prompt", [[]]),
        ("prompt", [-1]), ("prompt", [1 << 31]), ("prompt", [1.0]), ("prompt", [True]),
        ("prompt", {"text": "a"}), ("prompt", None), ("prompt", [None]), ("prompt", ["a", 5]),
        ("user", "u" * 513), ("metadata", {str(n): "" for n in range(17)}), ("metadata", {"a": 1}),
        ("best_of", 2), ("echo", True), ("suffix", "end"), ("stream", "perhaps"),
        ("stream_options", {"what": 1}),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_bounds_of_completions(raw: httpx.Client, server: Any, entry: str, value: Any) -> None:
    before = len(server.engine.wishes)
    answer = raw.post(WRITE, json={**ASK, entry: value})
    error = error_of(answer)
    assert answer.status_code == 400 and error["code"] == "E-CONFIG-293", error
    assert error["param"].split(".")[0] == entry and f"• {entry}" in error["message"]
    assert len(answer.content) < 4_000 and len(server.engine.wishes) == before


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("messages", [{"role": "user", "content": "a"}] * 257),
        ("messages", [{"role": "user", "content": LONG}]),
        ("messages", [{"role": "user", "content": []}]),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": "a"}] * 65}]),
        ("messages", [{"role": "root", "content": "a"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": "a", "template": "{{ 7 * 7 }}"}]),
        ("messages", "hello"),
        ("max_completion_tokens", 0),
        ("top_logprobs", 21),
        ("modalities", ["audio"]),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "", "schema": {}}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bounds_of_chat(raw: httpx.Client, entry: str, value: Any) -> None:
    asked_for = {"model": "reviews", "messages": [{"role": "user", "content": "a"}], entry: value}
    answer = raw.post("/v1/chat/completions", json=asked_for)
    error = error_of(answer)
    assert answer.status_code == 400 and error["code"] == "E-CONFIG-293", error
    assert error["param"].split(".")[0] == entry


@pytest.mark.parametrize("route", ["/v1/classify", "/v1/extract", "/v1/embeddings"])
@pytest.mark.parametrize("given", [[], ["a"] * 65, LONG, [LONG], None, 5, [5], {"a": "b"}],
                         ids=lambda value: str(value)[:20])  # fmt: skip
def test_bounds_of_reading(raw: httpx.Client, route: str, given: Any) -> None:
    answer = raw.post(route, json={"model": "reviews", "input": given})
    assert answer.status_code == 400 and error_of(answer)["code"] == "E-CONFIG-293"
    assert error_of(answer)["param"].split(".")[0] == "input"


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("chat_template", "{{ cycler.__init__.__globals__.os.popen('id').read() }}"),
        ("chat_template_kwargs", {"chat_template": "{% for i in range(10**9) %}{% endfor %}"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"), ("functions", [{"name": "f"}]), ("function_call", "auto"),
        ("audio", {"voice": "alloy"}), ("prediction", {"type": "content", "content": "a"}),
        ("web_search_options", {}), ("reasoning_effort", "high"), ("verbosity", "low"),
        ("logit_bias", {"1": -100}), ("presence_penalty", 1),
    ],
)  # fmt: skip
def test_what_is_not_served_is_said_to_be(raw: httpx.Client, entry: str, value: Any) -> None:
    body = {"model": "reviews", "messages": [{"role": "user", "content": "a"}], entry: value}
    answer = raw.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert error_of(answer)["message"] == (
        "E-CONFIG-293  The request cannot be used.\n"
        f"  • {entry}: this server does not do that; leave it out\n"
        "  Fix: see docs/serving.md, or GET /openapi.json"
    )
    assert error_of(answer)["param"] == entry


def test_a_schema_has_bounds(raw: httpx.Client) -> None:
    def ask(schema: Any) -> httpx.Response:
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        body = {"model": "reviews", "messages": [{"role": "user", "content": "a"}]}
        return raw.post("/v1/chat/completions", json={**body, "response_format": form})

    deep: Any = {}
    for _ in range(15):
        deep = {"a": deep}
    assert ask(deep).status_code == 200
    assert ask({"a": deep}).status_code == 400
    assert ask({"enum": ["x" * 32_000]}).status_code == 200
    answer = ask({"enum": ["x" * 32_768]})
    assert (
        answer.status_code == 400 and "more than 32,768 characters" in error_of(answer)["message"]
    )


def test_problems_are_told_in_bounds(raw: httpx.Client) -> None:
    body = {**ASK, **{f"entry{n}": n for n in range(1_000)}, "é\u202e\n" * 500: 1}
    message = error_of(raw.post(WRITE, json=body))["message"]
    assert message.count("•") == 10 and len(message) < 1_000 and "\u202e" not in message
