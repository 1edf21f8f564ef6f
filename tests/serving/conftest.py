"""An engine that answers by rule, in threads like the real one, and a server over it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import uvicorn
from safetensors.numpy import save_file

from sapwood.errors import ConfigError, ModelError, ResourceError
from sapwood.interfaces import Answer, Frame, Span
from sapwood.pool.wish import About, Busy, Found, TokenLog, Update, Wish
from sapwood.serving.app import make_app
from sapwood.serving.desk import Desk
from sapwood.serving.registry import Registry
from sapwood.serving.settings import Settings
from sapwood.serving.visits import Journal

KEY, ADMIN_KEY = "key-of-the-tests", "admin-key-of-the-tests"


class FakeTicket:
    """A wish that is being answered."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


class FakeEngine:
    """Says back the words of a prompt, one token after the other, each wish in a thread of its own.

    A model whose name begins with "slow" waits 50 ms a token, "stuck" for ever, "broken" fails
    after two tokens, "torn" after none; of "alone" it is not known what was cached. `capacity`:
    requests at once before `Busy`.
    """

    def __init__(self, names: Sequence[str] = ("reviews",), *, capacity: int = 64) -> None:
        self.base = "small"
        self.capacity = capacity
        self.folders: dict[str, Path | None] = dict.fromkeys(names)
        self.wishes: list[Wish] = []
        self.tickets: list[FakeTicket] = []
        self.running = 0
        self._dead = self._ended = False
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        return not self._dead

    def die(self) -> None:
        self._dead = True

    def models(self) -> tuple[About, ...]:
        return (About(name=self.base, kind="base"), *map(self._about, list(self.folders)))

    def _about(self, name: str) -> About:
        folder = self.folders.get(name)
        mark = (folder / "adapter_model.safetensors").read_bytes() if folder else name.encode()
        return About(
            name=name, parent=self.base, task="classification", labels=("bad", "good"),
            parts={"method": "LoRA", "context": None},
            digest=hashlib.sha256(mark).hexdigest(), created=1_700_000_000,
        )  # fmt: skip

    def _check(self, model: str) -> None:
        if self._dead or self._ended:
            raise ResourceError("E-RESOURCE-071", "The server takes no requests: it failed.")
        if model != self.base and model not in self.folders:
            raise ConfigError("E-CONFIG-280", f"No model '{model}' is served here.")

    def _enter(self) -> None:
        with self._lock:
            if self.running >= self.capacity:
                raise Busy(self.running, 2.4)
            self.running += 1

    def _leave(self) -> None:
        with self._lock:
            self.running -= 1

    def write(self, wish: Wish, tell: Callable[[Update], None]) -> FakeTicket:
        self._check(wish.model)
        self._enter()
        self.wishes.append(wish)
        ticket = FakeTicket()
        self.tickets.append(ticket)
        threading.Thread(target=self._say, args=(wish, tell, ticket), daemon=True).start()
        return ticket

    def _words(self, wish: Wish) -> list[str]:
        if wish.schema:
            return ['{"ans', 'wer": ', '"yes"}']
        if wish.ids:
            return [f" {token}" for token in wish.ids]
        text = wish.turns[-1].content if wish.turns else wish.text
        return [f" {word}" for word in text.split()] or [" nothing"]

    def _say(self, wish: Wish, tell: Callable[[Update], None], ticket: FakeTicket) -> None:
        try:
            for sample in range(wish.sampling.samples):
                self._say_one(wish, sample, tell, ticket)
        finally:
            self._leave()

    def _say_one(
        self, wish: Wish, sample: int, tell: Callable[[Update], None], ticket: FakeTicket
    ) -> None:
        words, asked = self._words(wish), wish.sampling
        read = {"sample": sample, "prompt": 7, "cached": 3}
        if wish.model.startswith("torn"):
            error = ModelError("E-MODEL-030", "The prompt has 9,999 tokens; 512 fit.")
            tell(Update(sample=sample, finish="error", error=error))
            return
        if wish.model.startswith("stuck"):
            ticket.cancelled.wait(30)
        for count, word in enumerate(words[: asked.tokens], 1):
            if ticket.cancelled.is_set() or self._ended:
                tell(Update(**read, tokens=count - 1, finish="cancelled"))
                return
            if wish.model.startswith("slow"):
                time.sleep(0.05)
            if wish.model.startswith("broken") and count == 3:
                error = ModelError("E-MODEL-120", "The grammar cannot be followed any further.")
                tell(Update(sample=sample, finish="error", error=error))
                return
            stopped = any(stop in word for stop in asked.stops)
            last = stopped or count == min(len(words), asked.tokens)
            finish = "length" if not stopped and count < len(words) else "stop"
            tops = tuple((f"{word}{n}", -1.0 - n) for n in range(wish.top))
            log = TokenLog(text=word, log_probability=-0.5, top=tops)
            tell(
                Update(
                    **read, text="" if stopped else word, logs=() if stopped else (log,),
                    tokens=count, finish=finish if last else "",
                )
            )  # fmt: skip
            if last:
                return

    def _later(self, answer: Callable[[], Any]) -> Future[Any]:
        self._enter()
        future: Future[Any] = Future()

        def work() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    future.set_result(answer())
            except Exception as error:
                future.set_exception(error)
            finally:
                self._leave()

        threading.Thread(target=work, daemon=True).start()
        return future

    def classify(self, model: str, texts: Sequence[str]) -> Future[Found[dict[str, float]]]:
        self._check(model)
        if model == self.base:
            raise ConfigError("E-CONFIG-281", f"'{model}' labels no texts.")
        if model.startswith("slow"):
            one = {"bad": 1.0}
            return self._later(lambda: time.sleep(0.5) or Found(values=[one for _ in texts]))
        rows = [{"bad": 0.25, "good": 0.75} if "fine" in text else {"bad": 0.9, "good": 0.1}
                for text in texts]  # fmt: skip
        read = sum(5 + len(text.split()) for text in texts)
        cached = None if model.startswith("alone") else 5 * len(texts)
        return self._later(lambda: Found(values=rows, prompt=read, cached=cached))

    def extract(self, model: str, texts: Sequence[str]) -> Future[Found[Answer]]:
        self._check(model)

        def found(text: str) -> Answer:
            end = len(text.split(" ")[0])
            role = Span(start=end, end=len(text), label="rest")
            frame = Frame(label="first", head=Span(start=0, end=end), arguments=(role,))
            return Answer(words="first: " + text[:end], frames=(frame, Frame(label="whole")))

        read = sum(5 + len(text.split()) for text in texts)
        return self._later(
            lambda: Found(values=list(map(found, texts)), prompt=read, cached=5 * len(texts),
                          written=2 * len(texts))
        )  # fmt: skip

    def embed(self, model: str, texts: Sequence[str]) -> Future[Found[list[float]]]:
        self._check(model)
        return self._later(
            lambda: Found(
                values=[[float(len(text)), 0.5, -0.25] for text in texts],
                prompt=sum(len(text.split()) for text in texts),
            )
        )

    def open(self, name: str, folder: Path) -> About:
        if not (folder / "adapter_model.safetensors").exists():
            raise ModelError("E-MODEL-040", f"{folder.name} holds no adaptation.")
        self.folders[name] = folder
        return self._about(name)

    def close(self, name: str) -> None:
        self._check(name)
        del self.folders[name]

    def waiting(self) -> int:
        return max(0, self.running - 4)

    def stop(self, seconds: float) -> int:
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end:
            time.sleep(0.01)
        self._ended = True
        left = self.running
        for ticket in self.tickets:
            ticket.cancel()
        return left


def write_adaptation(folder: Path, mark: float = 1.0, **arrays: Any) -> Path:
    """Write a folder as PEFT lays one out."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    given = arrays or {"lora_A": np.full((2, 4), mark, dtype=np.float32)}
    save_file(given, folder / "adapter_model.safetensors")
    return folder


class Log:
    """A stream that keeps what was logged."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    @property
    def lines(self) -> list[Mapping[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@contextmanager
def served(engine: FakeEngine, settings: Settings, registry: Path | None) -> Iterator[Any]:
    """Serve an engine at a free port; yield (address, desk, app, log)."""
    log = Log()
    desk = Desk(engine, settings, Registry(registry) if registry else None, Journal(log))
    app = make_app(desk)
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield SimpleNamespace(url=f"http://127.0.0.1:{port}", desk=desk, app=app, log=log,
                          engine=engine, port=port)  # fmt: skip
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opener of servers over fake engines: names, settings and a registry as they are wanted."""
    open_ones: list[Any] = []

    def start(
        *names: str, registry: Path | None = None, engine: FakeEngine | None = None, **settings: Any
    ) -> Any:
        given = {"key": KEY, "admin_key": ADMIN_KEY, **settings}
        one = served(engine or FakeEngine(names or ("reviews",)), Settings(**given), registry)
        open_ones.append(one)
        return one.__enter__()

    yield start
    for one in reversed(open_ones):
        one.__exit__(None, None, None)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A server with models of each manner, for tests that change nothing."""
    names = ("reviews", "slow-one", "broken-one", "torn-one", "alone-one")
    with served(FakeEngine(names), Settings(key=KEY, admin_key=ADMIN_KEY), None) as one:
        yield one


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    """The official client, which tries each request once."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture
def raw(server: Any) -> Iterator[httpx.Client]:
    """A plain client with the key."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=20) as made:
        yield made


@pytest.fixture
def adaptation() -> Callable[..., Path]:
    """Writer of adaptation folders."""
    return write_adaptation


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], None]:
    """Waiter until something holds, for what happens on other threads; 10 s at most."""

    def wait(holds: Callable[[], Any]) -> None:
        end = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.005)

    return wait
