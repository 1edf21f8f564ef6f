"""`sapwood serve`: from a run to an answer, and how it ends."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sapwood.commands.naming import name_of
from sapwood.commands.serve import _example, _question
from sapwood.pool.wish import About

KEY = "a-key-of-the-tests"
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


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Folders and files that cannot be served, and keys that cannot be used."""
    for name in ("empty", "notes", "begun/run/candidates", "near/reviews/adaptation"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "notes" / "a.txt").write_text("hello")
    for name, key in (("none", "\n"), ("short", "abc"), ("good", KEY), ("open", KEY)):
        (tmp_path / name).write_text(key)
        (tmp_path / name).chmod(0o644 if name == "open" else 0o600)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "what", "fix"),
    [
        (["{}/nowhere"], "E-CONFIG-287", "There is no folder '{}/nowhere'.", "sapwood models list"),
        (["{}/near/reviewz"], "E-CONFIG-287",
         "no folder '{}/near/reviewz'. Did you mean 'reviews'?", "name the --out of a run"),
        (["{}/empty"], "E-CONFIG-287", "{}/empty holds neither an adaptation nor a base.",
         "name the --out of a run, an adaptation, or a base"),
        (["{}/notes"], "E-CONFIG-287", "{}/notes holds neither an adaptation nor a base.",
         "name the --out"),
        (["{}/begun"], "E-CONFIG-287", "nor a base: its run has not finished.",
         "run the same `sapwood adapt` again"),
        (["--key-file", "{}/none"], "E-CONFIG-291", "The key file {}/none is empty.",
         "make one: (umask 077; python -c"),
        (["--admin-key-file", "{}/none"], "E-CONFIG-291", "The key file {}/none is empty.",
         "> {}/none)"),
        (["--key-file", "{}/open"], "E-CONFIG-291",
         "The key file {}/open is open to other users of this machine.", "chmod 600 {}/open"),
        (["--key-file", "{}/short"], "E-CONFIG-291", "The key must have 12 or more", "make one: "),
        (["--key-file", "{}/nothing"], "E-CONFIG-291",
         "The key file {}/nothing cannot be read: No such file or directory.", "make one: "),
        (["--key-file", "{}/good", "--host", "203.0.113.7"], "E-CONFIG-308",
         "203.0.113.7:8000 cannot be listened on: ", "give --host an address of this machine"),
        (["--key-file", "{}/good", "--host", "nowhere.invalid"], "E-CONFIG-308",
         "nowhere.invalid:8000 cannot be listened on: ", "give --host an address"),
        (["--workers", "0"], "E-CONFIG-002", "Invalid value for '--workers': 0", "--help"),
        (["--workers", "two"], "E-CONFIG-002", "Invalid value for '--workers': 'two'", "--help"),
        (["--registry", "{}/nowhere"], "E-CONFIG-303", "There is no registry {}/nowhere.",
         "name a folder that is there"),
    ],
)  # fmt: skip
def test_what_is_given_wrong_is_told_in_one_message(
    sapwood: Any, places: Path, words: list[str], code: str, what: str, fix: str
) -> None:
    ran = sapwood("serve", *(word.format(places) for word in words))
    assert ran.code == 2 and ran.out == ""
    first, *rest = ran.err.splitlines()
    assert first.startswith(f"{code}  ") and what.format(places) in first
    assert [line for line in rest if fix.format(places) in line and "Fix: " in line] == rest[-1:]
    assert "Traceback" not in ran.err


def test_what_a_base_or_an_adaptation_lacks_is_told(
    sapwood: Any, small_run: Any, tmp_path: Path
) -> None:
    ran = sapwood("serve", "smollm-135m", "--port", 0)
    assert ran.code == 5 and "Unknown base 'smollm-135m'. Did you mean 'smollm2-135m'?" in ran.err
    cut = tmp_path / "cut"
    shutil.copytree(small_run.out / "run" / "candidates" / "lora" / "adaptation", cut)
    file = next(cut.glob("adapter*.safetensors"))
    file.write_bytes(file.read_bytes()[:-64])
    ran = sapwood("serve", cut, "--port", 0, "--device", "cpu")
    assert ran.code == 5 and "E-MODEL-201  'cut' is not served" in ran.err
    assert f"{file.name}: " in ran.err and "does not lie inside the file's" in ran.err
    assert "Fix: copy the folder again, whole" in ran.err and "Traceback" not in ran.err


def test_an_adaptation_of_another_base_is_told(
    sapwood: Any, small_run: Any, small_base: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(small_base, other)
    file = other / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    made = small_run.out / "run" / "candidates" / "lora" / "adaptation"
    ran = sapwood("serve", made, "--base", other, "--port", 0, "--device", "cpu")
    assert ran.code == 5 and "E-MODEL-050  The base served here, " in ran.err
    assert f"Fix: serve it over its own base: --base {small_base}" in ran.err


@pytest.mark.parametrize(
    ("task", "labels", "route", "en", "zh"),
    [
        ("pairs", ("knows",), "/v1/classify",
         "<head>Ada Lovelace</head> lived in <tail>London</tail>.",
         "<head>李白</head>住在<tail>长安</tail>。"),
        ("entities", (), "/v1/extract", "Ada Lovelace met Charles Dickens in London.",
         "李白在长安遇见了杜甫。"),
        ("classification", ("a",), "/v1/classify", "a lovely film with a great cast",
         "这部电影很好看。"),
    ],
)  # fmt: skip
def test_what_is_shown_to_ask_fits_the_task(
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    labels: tuple[str, ...],
    route: str,
    en: str,
    zh: str,
) -> None:
    for lang, text in (("en", en), ("zh", zh)):
        monkeypatch.setattr("sapwood.commands.serve.locale_language", lambda lang=lang: lang)
        model = About(name="x", task=task, labels=labels)
        assert _question(model, _example(task)) == (route, {"input": text})


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
