"""A studio without processes and nets: runs that tests tell of, an engine that answers by rule."""

from __future__ import annotations

import json
import random
import shutil
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from sapwood.errors import ModelError
from sapwood.interfaces import Answer, Frame, Span
from sapwood.pool.wish import Found, Update
from sapwood.studio.app import studio_app
from sapwood.studio.guarding import Door
from sapwood.studio.running import Runs
from sapwood.studio.workspace import Workspace

WORDS = ("film", "cast", "plot", "end", "song", "town", "lamp", "set", "cut", "road", "sea", "art")


class FakeProcess:
    """A process that ends when a test says so."""

    def __init__(self, arguments, folder):
        self.arguments, self.folder, self.code = arguments, folder, None

    def poll(self):
        return self.code


class FakeEngine:
    """Finds label by length, "Ada" as a person, and writes its prompt back word by word."""

    base, alive = "small", True

    def __init__(self):
        self.served, self.stopped, self.cancelled = {}, False, 0

    def open(self, name, folder):
        if name.endswith("broken"):
            raise ModelError("E-MODEL-043", "A file is missing.", fix="make it again")
        self.served[name] = folder

    def classify(self, model, texts):
        done = Future()
        done.set_result(Found(values=[{"negative": 0.25, "positive": 0.75} for _ in texts]))
        return done

    def extract(self, model, texts):
        at = texts[0].find("Ada")
        head = Span(start=at, end=at + 3)
        frames = (Frame(label="PER", head=head),) if at >= 0 else ()
        done = Future()
        done.set_result(Found(values=[Answer(frames=frames)]))
        return done

    def write(self, wish, tell):
        words = (wish.turns[-1].content if wish.turns else wish.text).split()
        for number, word in enumerate(words):
            tell(Update(text=word + " ", finish="stop" if number + 1 == len(words) else ""))
        return SimpleNamespace(cancel=self._cancel)

    def _cancel(self):
        self.cancelled += 1

    def stop(self, seconds):
        self.stopped = True
        return 0


class Finder(FakeEngine):
    """Finds what it is told to, and keeps what it was asked."""

    def __init__(self, frames=()):
        super().__init__()
        self.frames, self.asked = frames, []

    def classify(self, model, texts):
        self.asked += texts
        return super().classify(model, texts)

    def extract(self, model, texts):
        done = Future()
        done.set_result(Found(values=[Answer(frames=self.frames)]))
        return done


class Client:
    """Asks an application as a browser does, without a server."""

    def __init__(self, app, base_url="http://127.0.0.1:8321", **headers):
        self.app, self.base_url = app, base_url
        self.headers, self.cookies = headers, httpx.Cookies()

    def ask(self, method, path, **given):
        import anyio

        async def asked():
            transport = httpx.ASGITransport(app=self.app)
            headers = {**self.headers, **given.pop("headers", {})}
            async with httpx.AsyncClient(
                transport=transport, base_url=self.base_url, cookies=self.cookies
            ) as client:
                answer = await client.request(method, path, headers=headers, **given)
                self.cookies = client.cookies
                return answer

        return anyio.run(asked)

    def get(self, path, **given):
        return self.ask("GET", path, **given)

    def post(self, path, data=None, follow=True, **given):
        answer = self.ask("POST", path, data=data or {}, **given)
        if follow and answer.status_code == 303:
            return self.get(answer.headers["location"])
        return answer

    def bring(self, path, name=None):
        answer = self.ask("PUT", "/projects", params={"name": name or path.name},
                          content=path.read_bytes())  # fmt: skip
        return answer


@pytest.fixture
def started():
    """The processes that were started, in order."""
    return []


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def make(tmp_path, started, engine):
    """Maker of a studio: `make(key="...")`; its parts are in `.state.studio`."""

    def start(arguments, folder):
        started.append(FakeProcess(arguments, folder))
        return started[-1]

    def made(**given):
        opener = given.pop("opener", lambda base: engine)
        door = Door(**given)
        return studio_app(tmp_path / "ws", door=door, opener=opener, runs=Runs(start))

    return made


@pytest.fixture
def client(make):
    return Client(make())


@pytest.fixture
def reviews(tmp_path, write_rows):
    return write_rows(tmp_path / "reviews.csv")


@pytest.fixture
def project(client, reviews):
    """A project of film reviews that was brought."""
    assert client.bring(reviews).status_code == 201
    studio = client.app.state.studio
    found = studio.workspace.project("reviews")
    studio.baselines.wait(found, 60)
    return found


@pytest.fixture
def finished(client, project, small_run, small_base):
    """The project with a finished run in it."""
    return finish(project, small_run, small_base)


def finish(project, small_run, small_base, budget="30s"):
    """Put a finished run into a project."""
    run = project.new_run({"budget": budget, "model": str(small_base), "lang": "en"})
    shutil.copytree(small_run.out, run.out)
    now = time.time()
    events = [{"kind": "began", "at": now - 9}, {"kind": "note", "note": "66 train", "at": now - 8}]
    for place, name in enumerate(("majority", "tf-idf", "lora")):
        at = now - 8 + 2 * place
        events += [{"kind": "start", "candidate": name, "at": at}]
        events += [
            {"kind": "progress", "candidate": name, "done": n, "total": 3, "at": at + n / 4,
             "note": f"loss {1 / n:.3f} · 20,983 tokens/s" if name == "lora" else ""}
            for n in (1, 2, 3)
        ]  # fmt: skip
        events += [{"kind": "end", "candidate": name, "note": "dev", "at": at + 1}]
    events.append({"kind": "ended", "how": "finished", "at": now})
    run.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    return run


@pytest.fixture
def entities(tmp_path):
    """A file of texts with spans."""
    path = tmp_path / "people.jsonl"
    rng, rows = random.Random(0), []
    for number in range(60):
        rest = " ".join(rng.sample(WORDS, 6))
        spans = [{"start": 0, "end": 3, "label": "PER"}] if number % 2 else []
        rows.append({"text": f"Ada {rest}" if spans else rest, "entities": spans})
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "mine")


@pytest.fixture
def take(workspace):
    """Maker of projects: `take(path)`."""

    def taken(path: Path, name=None):
        room = workspace.room()
        shutil.copy(path, room)
        return workspace.take(name or path.name, room)

    return taken


@pytest.fixture
def tried(make, tmp_path, small_run, small_base):
    """Maker of a client at a finished run of a task: `tried(task, rows, engine)`."""

    def made(task, rows, engine):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        client = Client(make(opener=lambda base: engine))
        assert client.bring(path).status_code == 201
        studio = client.app.state.studio
        project = studio.workspace.project("rows")
        studio.baselines.wait(project, 60)
        run = finish(project.save(task=task), small_run, small_base)
        report = json.loads((run.out / "report.json").read_text())
        (run.out / "report.json").write_text(json.dumps({**report, "task": task}))
        return client

    return made
