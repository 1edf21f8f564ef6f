"""The official client against every route of its API, word for word."""

from __future__ import annotations

import base64
import struct
from typing import Any

import httpx
import openai
import pytest

ASK: Any = {"model": "reviews", "messages": [{"role": "user", "content": "one two three"}]}


def test_models_are_listed_with_their_parent(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models][:2] == ["small", "reviews"]
    extra = models[1].model_extra or {}
    assert models[1].owned_by == "sapwood" and extra["parent"] == "small"
    assert extra["task"] == "classification" and extra["labels"] == ["bad", "good"]
    assert (models[0].model_extra or {})["parent"] is None
    assert client.models.retrieve("reviews").id == "reviews"


def test_an_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("reviewz")
    assert caught.value.code == "E-CONFIG-280"
    assert "No model 'reviewz' is served here. Did you mean 'reviews'?" in caught.value.message
    with pytest.raises(openai.NotFoundError, match="E-CONFIG-280"):
        client.chat.completions.create(**{**ASK, "model": "nobody"})


def test_chat_in_one_piece(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK)
    assert answer.object == "chat.completion" and answer.model == "reviews"
    (choice,) = answer.choices
    assert choice.message.content == " one two three" and choice.message.role == "assistant"
    assert choice.finish_reason == "stop" and choice.logprobs is None
    usage = answer.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 3, 10)
    assert usage.prompt_tokens_details.cached_tokens == 3


def test_chat_streamed(client: openai.OpenAI, raw: httpx.Client) -> None:
    asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**asked))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == " one two three"
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, None, None, "stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage and chunks[-1].usage.total_tokens == 10
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1
    text = raw.post("/v1/chat/completions", json={**ASK, "stream": True}).text
    assert text.endswith("data: [DONE]\n\n") and '"usage"' not in text


def test_samples_have_an_index_each(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK, n=3, temperature=0.7, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage and answer.usage.completion_tokens == 9
    assert answer.usage.prompt_tokens == 7
    chunks = list(client.chat.completions.create(**ASK, n=2, stream=True))
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: " one two three", 1: " one two three"}


def test_stop_and_length(client: openai.OpenAI) -> None:
    stopped = client.chat.completions.create(**ASK, stop=["three"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (" one two", "stop")
    cut = client.chat.completions.create(**ASK, max_completion_tokens=2).choices[0]
    assert (cut.message.content, cut.finish_reason) == (" one two", "length")
    cut = client.chat.completions.create(**ASK, max_tokens=1).choices[0]
    assert (cut.message.content, cut.finish_reason) == (" one", "length")


def test_what_is_asked_reaches_the_engine(client: openai.OpenAI, server: Any) -> None:
    client.chat.completions.create(
        model="reviews",
        messages=[
            {"role": "developer", "content": "Be short."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}],
            },
        ],
        temperature=0.5, top_p=0.9, seed=-1, stop="z", max_tokens=9, n=2,
        user="u", metadata={"a": "b"}, store=False,
        extra_body={"top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2},
    )  # fmt: skip
    wish = server.engine.wishes[-1]
    assert [(t.role, t.content) for t in wish.turns] == [("system", "Be short."), ("user", "a b")]
    asked = wish.sampling
    assert (asked.temperature, asked.top_p, asked.top_k, asked.min_p) == (0.5, 0.9, 7, 0.1)
    assert (asked.repetition_penalty, asked.seed, asked.stops) == (1.2, (1 << 63) - 1, ("z",))
    assert (asked.tokens, asked.samples, asked.beams) == (9, 2, 1)
    client.chat.completions.create(**ASK)
    usual = server.engine.wishes[-1].sampling
    assert (usual.temperature, usual.tokens, usual.samples, usual.stops) == (0.0, 256, 1, ())
    client.chat.completions.create(**ASK)
    assert server.engine.wishes[-1].sampling.seed != usual.seed


def test_chat_logprobs(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2).choices[0]
    assert choice.logprobs and choice.logprobs.content
    first = choice.logprobs.content[0]
    assert (first.token, first.logprob, first.bytes) == (" one", -0.5, list(b" one"))
    assert [(t.token, t.logprob) for t in first.top_logprobs] == [(" one0", -1.0), (" one1", -2.0)]
    chunks = list(client.chat.completions.create(**ASK, logprobs=True, stream=True))
    logs = [c.choices[0].logprobs for c in chunks]
    assert [t.token for log in logs for t in (log and log.content) or []] == [
        " one", " two", " three",
    ]  # fmt: skip


def test_json_forms(client: openai.OpenAI, server: Any) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    named = {"name": "a", "schema": schema, "strict": True}
    form: Any = {"type": "json_schema", "json_schema": named}
    answer = client.chat.completions.create(**ASK, response_format=form)
    assert answer.choices[0].message.content == '{"answer": "yes"}'
    assert server.engine.wishes[-1].schema == (
        '{"type": "object", "properties": {"answer": {"type": "string"}}}'
    )
    client.chat.completions.create(**ASK, response_format={"type": "json_object"})
    assert server.engine.wishes[-1].schema == "{}"
    client.chat.completions.create(**ASK, response_format={"type": "text"})
    assert server.engine.wishes[-1].schema == ""


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a b", [" a b"]),
        (["a b", "c"], [" a b", " c"]),
        ([5, 6], [" 5 6"]),
        ([[5, 6], [7]], [" 5 6", " 7"]),
        ("", [" nothing"]),
    ],
)
def test_completions_of_each_kind_of_prompt(
    client: openai.OpenAI, prompt: Any, texts: list[str]
) -> None:
    answer = client.completions.create(model="reviews", prompt=prompt)
    assert [choice.text for choice in answer.choices] == texts
    assert answer.object == "text_completion"
    assert answer.usage and answer.usage.prompt_tokens == 7 * len(texts)


def test_completions_number_samples_after_prompts(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="reviews", prompt=["a", "b"], n=2)
    found = [(c.index, c.text) for c in answer.choices]
    assert found == [(0, " a"), (1, " a"), (2, " b"), (3, " b")]
    chunks = list(client.completions.create(model="reviews", prompt=["a b", "c"], stream=True))
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: " a b", 1: " c"}


def test_completion_logprobs(client: openai.OpenAI) -> None:
    logs = client.completions.create(model="reviews", prompt="a bc", logprobs=1).choices[0].logprobs
    assert logs is not None
    assert logs.tokens == [" a", " bc"] and logs.token_logprobs == [-0.5, -0.5]
    assert logs.top_logprobs == [{" a0": -1.0}, {" bc0": -1.0}] and logs.text_offset == [0, 2]


def test_embeddings_in_both_formats(client: openai.OpenAI, raw: httpx.Client) -> None:
    made = client.embeddings.create(model="small", input=["ab", "a b c"])  # base64 on the way
    assert [row.embedding for row in made.data] == [[2.0, 0.5, -0.25], [5.0, 0.5, -0.25]]
    assert (made.usage.prompt_tokens, made.usage.total_tokens) == (4, 4)
    body = {"model": "small", "input": "ab", "encoding_format": "base64"}
    packed = raw.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    assert struct.unpack("<3f", base64.b64decode(packed)) == (2.0, 0.5, -0.25)
    plain = raw.post("/v1/embeddings", json={"model": "small", "input": "ab"}).json()
    assert plain["data"][0]["embedding"] == [2.0, 0.5, -0.25]


def test_classify(raw: httpx.Client) -> None:
    answer = raw.post("/v1/classify", json={"model": "reviews", "input": "a fine film"}).json()
    assert answer == {
        "object": "list", "model": "reviews",
        "data": [{
            "index": 0, "label": "good",
            "labels": [
                {"label": "good", "probability": 0.75}, {"label": "bad", "probability": 0.25},
            ],
        }],
        "usage": {
            "prompt_tokens": 8, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 5},
        },
    }  # fmt: skip
    many = raw.post("/v1/classify", json={"model": "reviews", "input": ["fine", "dull"]}).json()
    assert [row["label"] for row in many["data"]] == ["good", "bad"]
    assert many["usage"]["prompt_tokens"] == 12
    assert many["usage"]["prompt_tokens_details"] == {"cached_tokens": 10}
    alone = raw.post("/v1/classify", json={"model": "alone-one", "input": "dull"}).json()
    assert alone["usage"] == {"prompt_tokens": 6, "total_tokens": 6}  # what is cached is not known
    refused = raw.post("/v1/classify", json={"model": "small", "input": "x"})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "E-CONFIG-281"


def test_extract_counts_characters(raw: httpx.Client) -> None:
    answer = raw.post("/v1/extract", json={"model": "reviews", "input": "北京 is 🎈 far"}).json()
    (row,) = answer["data"]
    assert row["frames"][0] == {
        "label": "first",
        "head": {"start": 0, "end": 2, "label": "", "text": "北京"},
        "arguments": [{"start": 2, "end": 11, "label": "rest", "text": " is 🎈 far"}],
    }
    assert row["frames"][1] == {"label": "whole", "head": None, "arguments": []}
    assert row["words"] == "first: 北京"
    assert answer["usage"] == {
        "prompt_tokens": 9, "total_tokens": 11, "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 5},
    }  # fmt: skip


def test_the_document_tells_what_reading_answers(raw: httpx.Client) -> None:
    document = raw.get("/openapi.json").json()
    shapes = document["components"]["schemas"]
    for path, name in (("classify", "Classified"), ("extract", "Extracted"),
                       ("embeddings", "Vectors")):  # fmt: skip
        answers = document["paths"][f"/v1/{path}"]["post"]["responses"]["200"]
        shown = answers["content"]["application/json"]["schema"]["$ref"]
        assert shown == f"#/components/schemas/{name}"
        assert set(shapes[name]["required"]) == {"object", "model", "usage", "data"}
    assert set(shapes["Usage"]["properties"]) == {
        "prompt_tokens", "total_tokens", "completion_tokens", "prompt_tokens_details",
    }  # fmt: skip


def test_an_error_before_the_first_word_has_its_status(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{**ASK, "model": "torn-one"}, stream=stream)
        assert caught.value.code == "E-MODEL-030"


def test_an_error_amid_a_stream_is_raised_by_the_client(client: openai.OpenAI) -> None:
    words = []
    with pytest.raises(openai.APIError, match="E-MODEL-120"):
        for chunk in client.chat.completions.create(**{**ASK, "model": "broken-one"}, stream=True):
            words.append(chunk.choices[0].delta.content)
    assert words == ["", " one", " two"]


@pytest.mark.parametrize(
    ("entry", "value", "what"),
    [
        ("tools", [{"type": "function"}], "tools: this server does not do that; leave it out"),
        ("logit_bias", {"5": 1}, "logit_bias: this server does not do that; leave it out"),
        ("frequency_penalty", 0.5, "frequency_penalty: this server does not do that; leave it out"),
        ("chat_template", "{{ 1 }}", "chat_template: this server does not do that; leave it out"),
        ("temprature", 1, "temprature: there is no such entry"),
        ("n", 9, "n: Input should be less than or equal to 8"),
        ("n", 10**400, "n: "),
        ("temperature", -1, "temperature: Input should be greater than or equal to 0"),
        ("top_p", 0, "top_p: Input should be greater than 0"),
        ("stop", ["x"] * 9, "stop"),
        ("stop", "", "stop"),
        ("seed", 1 << 64, "seed: "),
        ("max_tokens", 0, "max_tokens: "),
        ("top_logprobs", 21, "top_logprobs: "),
        ("messages", [], "messages: "),
        ("messages", [{"role": "tool", "content": "x"}], "messages.0.role: "),
        ("messages", [{"role": "user", "content": "", "tool_calls": [{}]}], "messages.0.tool_"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content"),
        ("response_format", {"type": "grammar"}, "response_format"),
    ],
)  # fmt: skip
def test_bounds_are_told_by_entry(raw: httpx.Client, entry: str, value: Any, what: str) -> None:
    answer = raw.post("/v1/chat/completions", json={**ASK, entry: value})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["code"] == "E-CONFIG-293", error
    assert f"• {what}" in error["message"], error["message"]
    assert error["param"].split(".")[0] == entry and error["type"] == "invalid_request_error"


def test_every_problem_is_told_at_once(raw: httpx.Client) -> None:
    error = raw.post("/v1/completions", json={"model": 5, "n": 0}).json()["error"]
    for entry in ("model", "prompt", "n"):
        assert f"• {entry}: " in error["message"]


def test_a_schema_too_large_or_deep_is_refused(raw: httpx.Client) -> None:
    deep: Any = {}
    for _ in range(17):
        deep = {"a": deep}
    for schema in (deep, {"enum": ["x" * 40_000]}):
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        answer = raw.post("/v1/chat/completions", json={**ASK, "response_format": form})
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "E-CONFIG-307"
