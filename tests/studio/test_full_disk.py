"""A disk without room under the studio: pages are shown, nothing old is lost, nothing is halved."""

import errno
import os
import random
from types import SimpleNamespace

import pytest
from tests.studio.conftest import WORDS, Client, FakeEngine, FakeProcess

from sapwood.studio.app import studio_app
from sapwood.studio.guarding import Door
from sapwood.studio.looking import look, mend
from sapwood.studio.running import Runs

CODE = "E-RESOURCE-001"


@pytest.fixture(params=["said", "real"])
def full(request, tmp_path, monkeypatch, write_rows):
    """A studio with a project on a disk that can be filled, in two ways."""
    if request.param == "real":
        disk = request.getfixturevalue("small_disk")
        root, fill, free = disk.place / "ws", disk.fill, disk.free
    else:
        root, real = tmp_path / "ws", os.fsync

        def fsync(handle):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fill():
            monkeypatch.setattr(os, "fsync", fsync)

        def free():
            monkeypatch.setattr(os, "fsync", real)

    started = []

    def start(arguments, folder):
        (folder / "stdout").open("wb").close()
        started.append(FakeProcess(arguments, folder))
        return started[-1]

    engine = FakeEngine()
    app = studio_app(root, door=Door(), opener=lambda base: engine, runs=Runs(start))
    client, studio = Client(app), app.state.studio
    rng = random.Random(0)
    rows = [(" ".join(rng.sample(WORDS, 6)), ("good", "bad")[n % 2]) for n in range(60)]
    data = write_rows(tmp_path / "r.csv", [*rows, rows[0], rows[1]])
    assert client.bring(data).status_code == 201
    project = studio.workspace.project("r")
    studio.baselines.wait(project, 60)
    yield SimpleNamespace(client=client, studio=studio, project=project, data=data, fill=fill,
                          free=free, started=started, root=root, kind=request.param)  # fmt: skip
    for one in studio.workspace.projects():
        studio.baselines.wait(one, 60)


def files(root):
    found = (p for p in root.rglob("*") if p.is_file() and p.name != "filling")
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def test_pages_are_shown_and_changes_refused_whole(full):
    client, before = full.client, files(full.root)
    full.fill()
    for path in ("/", "/p/r/data", "/p/r/baseline", "/p/r/adapt", "/p/r/results", "/p/r/try"):
        assert client.get(path).status_code == 200, path
    script = {"x-requested-with": "script"}
    content, named = full.data.read_bytes(), {"name": "again.csv"}
    again = client.ask("PUT", "/projects", params=named, content=content, headers=script)
    assert (again.status_code, again.json()["error"]) == (507, CODE)
    said = client.post("/p/r/data", {"task": "story"})
    assert said.status_code == 507 and CODE in said.text
    assert "free some space on the server&#39;s disk, and ask again" in said.text
    assert "run the same command again" not in said.text
    said = client.post("/p/r/mend")
    assert CODE in said.text and "Traceback" not in said.text
    said = client.post("/p/r/adapt", {"budget": "30s", "model": "smollm2-135m"})
    assert CODE in said.text and full.started == []
    assert files(full.root) == before
    assert [project.id for project in full.studio.workspace.projects()] == ["r"]
    assert client.get("/p/r/data").status_code == 200
    full.free()
    assert client.bring(full.data, "again.csv").status_code == 201
    client.post("/p/r/mend")
    assert full.studio.workspace.project("r").file == "r-mended.jsonl"


def test_what_was_seen_and_measured_is_shown_where_it_cannot_be_kept(full):
    for name in ("look.json", "baselines.json"):
        (full.project.folder / name).unlink()
    full.fill()
    assert look(full.project)["rows"] == 62
    full.studio.baselines.begin(full.project)
    full.studio.baselines.wait(full.project, 60)
    found = full.studio.baselines.known(full.project)
    assert found["error"] is None and [row["name"] for row in found["rows"]] == [
        "majority", "tf-idf",
    ]  # fmt: skip
    assert not {"look.json", "baselines.json"} & set(files(full.project.folder))
    page = full.client.get("/p/r/baseline")
    assert page.status_code == 200 and "tf-idf" in page.text.lower()


def test_data_that_were_mended_before_are_not_lost(full):
    mend(full.project)
    mended = full.studio.workspace.project("r")
    content = mended.data.read_bytes()
    full.fill()
    assert CODE in full.client.post("/p/r/mend").text
    now = full.studio.workspace.project("r")
    assert now == mended and now.data.read_bytes() == content
    full.free()
    mend(mended)
    assert full.studio.workspace.project("r").data.read_bytes() == content


def test_a_row_that_cannot_be_kept_is_not_added(full):
    full.client.post("/p/r/mend")
    full.studio.baselines.wait(full.project, 60)
    before = files(full.root)
    full.fill()
    said = full.client.post("/p/r/add", {"text": "a new one", "answer": "good"})
    assert CODE in said.text and files(full.root) == before
