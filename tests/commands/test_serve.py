"""`sapwood serve`: from a run to an answer, and how it ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sapwood.commands.serve import name_of

START = 120.0  # seconds; importing torch on a busy machine takes most of them


class Server:
    """A server in a process of its own."""

    def __init__(self, *words: object, **environment: str) -> None:
        command = [sys.executable, "-m", "sapwood", "serve", *map(str, words), "--port", "0",
                   "--device", "cpu", "--dtype", "float32", "--json"]  # fmt: skip
        own = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **own},
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.told = json.loads(line) if line else {}

    @property
    def url(self) -> str:
        return str(self.told["url"])

    def end(self, kind: int = signal.SIGTERM) -> int:
        self.process.send_signal(kind)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(60)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return code


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    """Starter of servers; those that are left are killed."""
    made: list[Server] = []

    def start(*words: object, **environment: str) -> Server:
        made.append(Server(*words, **environment))
        return made[-1]

    yield start
    for server in made:
        if server.process.poll() is None:
            server.process.kill()
            server.wait()


def test_two_commands_from_a_run_to_an_answer(small_run: Any, serving: Any) -> None:
    server = serving(small_run.out, "--drain", "1")
    assert server.told["models"][1:] == ["out"]
    words = shlex.split(server.told["curl"])
    assert words[0] == "curl"
    route, body = words[1], json.loads(words[-1])
    assert route == f"{server.url}/v1/classify"
    answer = httpx.post(route, json=body, timeout=60).json()
    assert {row["label"] for row in answer["data"][0]["labels"]} == {"negative", "positive"}
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert server.end() == 0


@pytest.mark.slow
def test_several_processes_share_an_address(small_base: Path, serving: Any) -> None:
    process = serving(small_base, "--workers", "2", "--drain", "1")
    # the parent says nothing on stdout; a worker tells where it listens
    url = process.told["url"]
    pids = set()
    until = time.monotonic() + START
    while len(pids) < 2 and time.monotonic() < until:
        page = httpx.get(f"{url}/metrics", timeout=10).text
        pids |= {line for line in page.splitlines() if line.startswith("sapwood_process")}
        time.sleep(0.05)
    assert len(pids) == 2
    assert process.end() == 0


def test_a_key_from_the_environment_is_asked_for(small_base: Path, serving: Any) -> None:
    key = "a-key-of-some-length"
    server = serving(small_base, SAPWOOD_KEY=key)
    assert "$SAPWOOD_KEY" in server.told["curl"]
    assert key not in json.dumps(server.told)
    url = f"{server.url}/v1/models"
    assert httpx.get(url).status_code == 401
    headers = {"Authorization": f"Bearer {key}"}
    (only,) = httpx.get(url, headers=headers).json()["data"]
    assert only["id"] == small_base.name
    body = {"model": only["id"], "prompt": "a", "max_tokens": 400, "temperature": 2.0}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "type": "array", "items": {"const": 1}, "minItems": 1000}}}  # fmt: skip
    body["response_format"] = schema
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**body, "stream": True},
                      headers=headers, timeout=60) as answer:  # fmt: skip
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)  # what runs ends by itself
        rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""] or rest[-1] == "data: [DONE]"
    assert server.wait() == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "0.0.0.0"], "E-CONFIG-290"),
        (["smollm2-135m", "gemma3-270m"], "E-CONFIG-309"),
        (["--key-file", "missing"], "E-CONFIG-291"),
    ],
)
def test_what_cannot_be_served_is_told_before_anything_loads(
    sapwood: Any, words: list[str], told: str
) -> None:
    ran = sapwood("serve", *words)
    assert ran.code == 2
    assert told in ran.err


def test_names_of_runs() -> None:
    assert name_of(Path("runs/Films (2)"), Path("runs/Films (2)/adaptation")) == "films-2"
    assert name_of(Path("runs/films/adaptation"), Path("runs/films/adaptation")) == "films"
    assert name_of(Path("评论"), Path("评论/adaptation")) == "adaptation"


def test_a_taken_address_is_told(sapwood: Any) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = sapwood("serve", "--port", taken.getsockname()[1])
    assert ran.code == 2
    assert "E-CONFIG-308" in ran.err
