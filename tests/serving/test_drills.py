"""What goes wrong in the life of a server: clients leave, crowds come, engines die."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from tests.serving.conftest import KEY, FakeEngine

from sapwood.serving.refusals import ClientGone
from sapwood.serving.settings import Limits
from sapwood.serving.streams import Stream

BEARER = {"Authorization": f"Bearer {KEY}"}
WRITE, CLASSIFY = "/v1/completions", "/v1/classify"
SECRET = "the-secret-of-a-prompt"
LONG = " ".join(f"word{number}" for number in range(200))  # ten seconds of a slow model


@pytest.fixture
def client(serve: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Opener of servers, each with a client that has the key."""
    made: list[httpx.Client] = []

    def start(*names: str, **given: Any) -> Any:
        server = serve(*names, **given)
        made.append(httpx.Client(base_url=server.url, headers=BEARER, timeout=30, verify=False))
        server.client = made[-1]
        return server

    yield start
    for one in made:
        one.close()


def events(text: str) -> list[Any]:
    """Return the content of a stream's events, [DONE] as it is."""
    found = [piece.removeprefix("data: ") for piece in text.split("\n\n") if piece]
    return [piece if piece == "[DONE]" else json.loads(piece) for piece in found]


def post(port: int, path: str, body: Any, *, cut: int | None = None) -> socket.socket:
    """Send a request, or its first bytes, and return the line it went over."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    line = socket.create_connection(("127.0.0.1", port), timeout=10)
    line.sendall(head.encode() + content[:cut])
    return line


def test_a_client_that_leaves_a_stream_cancels_it(client: Any, eventually: Any) -> None:
    server = client("slow-one")
    body = {"model": "slow-one", "prompt": LONG, "stream": True}
    with server.client.stream("POST", WRITE, json=body) as answer:
        assert next(answer.iter_lines()).startswith("data: ")
    eventually(lambda: server.engine.tickets[0].cancelled.is_set())
    eventually(lambda: server.engine.running == 0)
    eventually(lambda: server.log.lines[-1:] and server.log.lines[-1]["status"] == 499)
    assert 0 < server.log.lines[-1]["tokens"] < 200


@pytest.mark.parametrize("model", ["slow-one", "stuck-one"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_answer_cancels_it(
    client: Any, eventually: Any, model: str, stream: bool
) -> None:
    server = client(model)
    line = post(server.port, WRITE, {"model": model, "prompt": [LONG, LONG], "stream": stream})
    eventually(lambda: len(server.engine.tickets) == 2)
    assert not server.engine.tickets[0].cancelled.is_set()
    line.close()
    eventually(lambda: all(ticket.cancelled.is_set() for ticket in server.engine.tickets))
    eventually(lambda: server.engine.running == 0)
    eventually(lambda: [said["status"] for said in server.log.lines] == [499])


def test_a_client_that_leaves_amid_its_question(client: Any, eventually: Any) -> None:
    server = client()
    post(server.port, WRITE, {"model": "reviews", "prompt": "a b"}, cut=12).close()
    eventually(lambda: [said["status"] for said in server.log.lines] == [499])
    assert server.engine.wishes == []


def test_a_client_that_waits_for_labels_and_leaves(client: Any, eventually: Any) -> None:
    server = client("slow-one")
    post(server.port, CLASSIFY, {"model": "slow-one", "input": "a"}).close()
    eventually(lambda: [said["status"] for said in server.log.lines] == [499])
    eventually(lambda: server.engine.running == 0)
    assert server.client.get("/readyz").status_code == 200


def test_a_client_that_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapwood.serving.streams._LAST_WORDS", 0.1)
    sent: list[Any] = []
    released: list[bool] = []

    async def parts() -> AsyncIterator[Any]:
        while True:
            yield {"word": "a"}

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 3:  # as if the line were full
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def answer() -> None:
        until = time.perf_counter() + 0.1
        stream = Stream(parts(), until=until, release=lambda: released.append(True))
        await asyncio.wait_for(stream({"type": "http"}, receive, send), 5)

    with pytest.raises(ClientGone):
        asyncio.run(answer())
    assert released and len(sent) == 5  # the last one tells why; nobody took it


def test_overload_is_told_and_all_that_is_taken_is_answered(client: Any) -> None:
    server = client(engine=FakeEngine(["slow-one"], capacity=4))

    def ask(number: int) -> tuple[int, Any]:
        body = {"model": "slow-one", "prompt": f"one {number}"}
        answer = server.client.post(WRITE, json=body)
        if answer.status_code == 200:
            assert answer.json()["choices"][0]["text"] == f" one {number}"
        else:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (429, "E-RESOURCE-070")
            assert error["type"] == "rate_limit_error" and answer.headers["retry-after"] == "3"
            assert error["message"].endswith("Fix: try again in 2 s")
        return answer.status_code, number

    with ThreadPoolExecutor(24) as crowd:
        answers = list(crowd.map(ask, range(96)))
    taken = sum(status == 200 for status, _ in answers)
    assert 4 <= taken < 96 and len(server.engine.wishes) == taken
    assert ask(1000) == (200, 1000) and server.engine.running == 0


def test_of_many_prompts_all_are_taken_or_none(client: Any, eventually: Any) -> None:
    server = client(engine=FakeEngine(["slow-one"], capacity=4))
    for stream in (False, True):
        body = {"model": "slow-one", "prompt": [LONG] * 6, "stream": stream}
        assert server.client.post(WRITE, json=body).status_code == 429
        assert all(ticket.cancelled.is_set() for ticket in server.engine.tickets)
        eventually(lambda: server.engine.running == 0)


def test_labels_know_overload_too(client: Any) -> None:
    server = client(engine=FakeEngine(["reviews"], capacity=0))
    answer = server.client.post(CLASSIFY, json={"model": "reviews", "input": "a"})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "3"


def test_the_official_client_tries_again_by_itself(client: Any) -> None:
    engine = FakeEngine(["reviews"], capacity=0)
    server = client(engine=engine)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as asker:
        with pytest.raises(openai.RateLimitError) as caught:
            asker.completions.create(model="reviews", prompt="a")
        assert caught.value.response.headers["retry-after"] == "3"
        engine.capacity = 1
        assert asker.completions.create(model="reviews", prompt="a").choices[0].text == " a"


def test_an_answer_has_its_time(client: Any, eventually: Any) -> None:
    server = client("slow-one", "stuck-one", limits=Limits(seconds=0.3))
    for model in ("slow-one", "stuck-one"):
        answer = server.client.post(WRITE, json={"model": model, "prompt": LONG})
        assert answer.status_code == 504
        assert answer.json()["error"]["message"] == (
            "E-RESOURCE-076  The answer took longer than a request may.\n"
            "  Fix: ask for fewer tokens, or for less at once"
        )
    streamed = server.client.post(WRITE, json={"model": "slow-one", "prompt": LONG, "stream": True})
    *pieces, told, end = events(streamed.text)
    assert streamed.status_code == 200 and end == "[DONE]" and len(pieces) > 1
    assert told["error"]["code"] == "E-RESOURCE-076" and told["error"]["type"] == "server_error"
    labels = server.client.post(CLASSIFY, json={"model": "slow-one", "input": "a"})
    assert labels.status_code == 504
    assert all(ticket.cancelled.is_set() for ticket in server.engine.tickets)
    eventually(lambda: server.engine.running == 0)
    eventually(lambda: len(server.log.lines) == 4)
    assert {said["code"] for said in server.log.lines} == {"E-RESOURCE-076"}


def test_while_it_drains_what_runs_ends_and_nothing_new_begins(client: Any) -> None:
    server = client("slow-one")
    words = " ".join("abcdefghij")
    body = {"model": "slow-one", "prompt": words, "stream": True}
    with server.client.stream("POST", WRITE, json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.desk.draining.set()
        refused = httpx.post(server.url + WRITE, headers=BEARER, json={**body, "stream": False})
        assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
        assert refused.json()["error"]["message"].startswith(
            "E-RESOURCE-077  This server is shutting down."
        )
        ready = server.client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/metrics").status_code == 200
        for path in ("/v1/models", "/openapi.json"):
            assert server.client.get(path).status_code == 503
        assert server.client.get("/v1/models", headers={"Authorization": ""}).status_code == 401
        assert server.engine.stop(5) == 0
        rest = events("\n\n".join(line for line in lines if line))
    assert rest[-1] == "[DONE]"
    assert "".join(piece["choices"][0]["text"] for piece in rest[:-1]) == " b c d e f g h i j"


def test_what_does_not_end_in_time_is_cancelled_and_told(client: Any) -> None:
    server = client("slow-one")

    def ask(stream: bool) -> httpx.Response:
        body = {"model": "slow-one", "prompt": LONG, "stream": stream}
        answer: httpx.Response = server.client.post(WRITE, json=body)
        return answer

    with ThreadPoolExecutor(2) as askers:
        asked = [askers.submit(ask, stream) for stream in (False, True)]
        while server.engine.running < 2:
            time.sleep(0.01)
        time.sleep(0.2)
        server.desk.draining.set()
        assert server.engine.stop(0.1) == 2
        whole, streamed = (one.result() for one in asked)
    assert whole.status_code == 503 and whole.json()["error"]["code"] == "E-RESOURCE-077"
    *_, told, end = events(streamed.text)
    assert told["error"]["code"] == "E-RESOURCE-077" and end == "[DONE]"


def test_a_dead_engine_turns_readiness_red(client: Any) -> None:
    server = client()
    assert "sapwood_alive 1.0" in server.client.get("/metrics").text
    server.engine.die()
    ready = server.client.get("/readyz")
    assert (ready.status_code, ready.json()) == (503, {"status": "dead"})
    assert server.client.get("/healthz").status_code == 200
    assert "sapwood_alive 0.0" in server.client.get("/metrics").text
    for path, body in [(WRITE, {"prompt": "a"}), (CLASSIFY, {"input": "a"})]:
        answer = server.client.post(path, json={"model": "reviews", **body})
        assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
        assert answer.json()["error"]["code"] == "E-RESOURCE-071"


def test_an_error_amid_an_answer_is_told_with_a_status(client: Any) -> None:
    server = client("broken-one")
    answer = server.client.post(WRITE, json={"model": "broken-one", "prompt": "a b c d"})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "E-MODEL-120"
    assert server.engine.tickets[0].cancelled.is_set()


class Failing(FakeEngine):
    """Meets what nobody foresaw; the error quotes the prompt."""

    def write(self, wish: Any, tell: Any) -> Any:
        raise RuntimeError(f"cannot tokenise {wish.text!r}")

    def classify(self, model: str, texts: Any) -> Any:
        def fail() -> Any:
            raise ValueError(f"no label for {texts}")

        return self._later(fail)


def test_what_nobody_foresaw_is_told_without_its_content(client: Any, eventually: Any) -> None:
    server = client(engine=Failing())
    for number, (path, body) in enumerate(
        [(WRITE, {"prompt": SECRET}), (WRITE, {"prompt": SECRET, "stream": True}),
         (CLASSIFY, {"input": SECRET})], 1
    ):  # fmt: skip
        answer = server.client.post(path, json={"model": "reviews", **body})
        error = answer.json()["error"]
        assert answer.status_code == 500 and error["code"] == "E-INTERNAL-001"
        assert SECRET not in answer.text and "Traceback" not in answer.text
        assert answer.headers["x-request-id"]
        eventually(lambda number=number: len(server.log.lines) == number)
        said = server.log.lines[-1]
        assert said["code"] in ("RuntimeError", "ValueError") and said["status"] == 500
        assert re.match(r"test_drills\.py:\d+ < ", said["where"])
    assert SECRET not in server.log.text
    assert server.client.get("/readyz").status_code == 200


def test_each_request_has_one_line_in_the_log_without_its_words(
    client: Any, eventually: Any
) -> None:
    server = client("reviews", "torn-one", "broken-one")
    chat = {"model": "reviews", "messages": [{"role": "user", "content": SECRET}]}
    asked: list[tuple[str, Any]] = [
        (WRITE, {"model": "reviews", "prompt": SECRET, "user": SECRET}),
        (WRITE, {"model": "reviews", "prompt": SECRET, "stream": True, "stop": SECRET}),
        (WRITE, {"model": "torn-one", "prompt": SECRET}),
        (WRITE, {"model": "broken-one", "prompt": f"{SECRET} b c d", "stream": True}),
        (WRITE, {"model": SECRET, "prompt": SECRET}),
        (WRITE, {"model": "reviews", "prompt": {"text": SECRET}}),
        (WRITE, {"model": "reviews", "prompt": SECRET, SECRET: 1}),
        (CLASSIFY, {"model": "reviews", "input": [SECRET]}),
        ("/v1/extract", {"model": "reviews", "input": SECRET}),
        ("/v1/embeddings", {"model": "reviews", "input": SECRET}),
        ("/v1/chat/completions", chat),
        (f"/v1/{SECRET}?q={SECRET}", {}),
    ]
    for path, body in asked:
        server.client.post(path, json=body)
    server.client.get(f"/v1/models/{SECRET}")
    server.client.post(WRITE, content=f'{{"prompt": "{SECRET}', headers={"Content-Type": "text/x"})
    eventually(lambda: len(server.log.lines) == len(asked) + 2)
    assert SECRET not in server.log.text
    for said in server.log.lines:
        assert said["event"] == "request" and len(said["request"]) == 32
        assert {"time", "method", "route", "status", "model", "seconds"} <= set(said)
    assert {(said["status"], said.get("code")) for said in server.log.lines} == {
        (200, None), (200, "E-MODEL-120"),  # the status of a stream is long sent when it breaks
        (400, "E-MODEL-030"), (404, "E-CONFIG-280"), (400, "E-CONFIG-293"),
        (404, "E-CONFIG-299"), (415, "E-CONFIG-300"),
    }  # fmt: skip
    first = server.log.lines[0]
    assert (first["route"], first["status"], first["model"]) == (WRITE, 200, "reviews")
    assert (first["prompt_tokens"], first["cached_tokens"], first["tokens"]) == (7, 3, 1)
    assert 0 < first["first_token_seconds"] <= first["seconds"]


def test_meters_count_by_names_that_are_bounded(client: Any, eventually: Any) -> None:
    server = client("reviews")
    for number in range(50):
        server.client.post(WRITE, json={"model": f"stranger-{number}", "prompt": "a"})
        server.client.get(f"/v1/models/other-{number}")
        server.client.get(f"/nowhere/{number}")
        server.client.request(f"VERB{number}", "/v1/models")
    for _ in range(3):
        server.client.post(WRITE, json={"model": "reviews", "prompt": "a b c"})
    server.client.post(CLASSIFY, json={"model": "reviews", "input": "a"})
    eventually(lambda: len(server.log.lines) == 204)
    page = server.client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = page.text
    assert set(re.findall(r'model="([^"]*)"', text)) == {"other", "reviews"}
    assert set(re.findall(r'route="([^"]*)"', text)) == {
        WRITE, CLASSIFY, "/v1/models/{model:path}", "other",
    }  # fmt: skip
    for line in (
        f'sapwood_requests_total{{model="reviews",route="{WRITE}",status="200"}} 3.0',
        f'sapwood_requests_total{{model="other",route="{WRITE}",status="404"}} 50.0',
        'sapwood_tokens_total{kind="prompt",model="reviews"} 27.0',
        'sapwood_tokens_total{kind="cached",model="reviews"} 14.0',
        'sapwood_tokens_total{kind="written",model="reviews"} 9.0',
        'sapwood_first_token_seconds_count{model="reviews"} 3.0',
        'sapwood_between_tokens_seconds_count{model="reviews"} 6.0',
        "sapwood_running 1.0", "sapwood_waiting 0.0", "sapwood_alive 1.0",
    ):  # fmt: skip
        assert line in text.splitlines(), (line, text)
    assert len(text) < 20_000


def test_a_log_that_cannot_be_written_is_in_nobodys_way(client: Any) -> None:
    server = client()

    def refuse(text: str) -> None:
        raise OSError(28, "No space left on device")

    server.log.write = refuse
    answer = server.client.post(WRITE, json={"model": "reviews", "prompt": "a"})
    assert answer.status_code == 200
