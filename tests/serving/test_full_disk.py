"""A disk without room: the server answers on, a change is refused whole, nothing old is lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Disk
from tests.serving.conftest import FakeEngine, write_adaptation
from tests.serving.test_registry import Admin

from sapwood.errors import ResourceError
from sapwood.serving.disk import check_room, whole_or_gone
from sapwood.serving.registry import Registry

NAMES = ("v1", "v2", "v3")
FULL = Path("/dev/full")


@pytest.fixture
def opened(serve: Callable[..., Any]) -> Iterator[Callable[[Path], Admin]]:
    """Opener of servers over a registry with v1 loaded, and `live` that means it."""
    made: list[Admin] = []

    def start(root: Path) -> Admin:
        for number, name in enumerate(NAMES, 1):
            write_adaptation(root / name, float(number))
        admin = Admin(serve(registry=root, engine=FakeEngine(())))
        made.append(admin)
        for name in ("v1", "v2"):
            admin.post("load", name=name)
            admin.post("alias", alias="live", target=name)
        return admin

    yield start
    for one in made:
        one.client.close()


def state(root: Path) -> dict[str, bytes]:
    """Return the files that are the registry's own, without its locks."""
    return {p.name: p.read_bytes() for p in root.iterdir() if p.is_file() and ".lock" not in p.name}


def refuses_all_changes(admin: Admin, root: Path) -> None:
    before, models = state(root), admin.served()
    for route, body in (
        ("load", {"name": "v3"}), ("load", {"name": "v1"}), ("unload", {"name": "v1"}),
        ("alias", {"alias": "live", "target": "v1"}), ("alias", {"alias": "new", "target": "v1"}),
        ("alias", {"alias": "live", "target": None}), ("rollback", {"alias": "live"}),
    ):  # fmt: skip
        error = admin.post(route, 507, **body)
        name = "models.json" if route in ("load", "unload") else "aliases.json"
        assert error["code"] == "E-RESOURCE-001" and error["type"] == "server_error"
        assert error["message"] == (
            f"E-RESOURCE-001  The disk is full; {root / name} was not written. What was there "
            "before is kept.\n  Fix: free some space on the server's disk, and ask again"
        )
        assert state(root) == before and admin.served() == models
        assert admin.ask("live") == (200, "v2") and admin.ask("v1") == (200, "v1")
        assert admin.ask("v3")[0] == 404
    assert admin.client.get("/readyz").status_code == 200


def goes_on(admin: Admin, root: Path) -> None:
    """Check that the same changes are taken once there is room, and are there for the next one."""
    assert admin.post("rollback", alias="live") == {"alias": "live", "target": "v1"}
    assert admin.post("load", name="v3")["id"] == "v3"
    assert admin.post("unload", name="v2") == {"name": "v2", "served": False}
    assert Registry(root).aliases() == {"live": "v1"}
    assert Registry(root).to_serve() == {"v1": "v1", "v3": "v3"}


def test_no_change_is_taken_that_cannot_be_kept(
    opened: Callable[[Path], Admin], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "registry"
    admin = opened(root)
    real = os.fsync

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    # The room that is tried first has no fsync, so what is refused here was begun and is undone.
    refuses_all_changes(admin, root)
    monkeypatch.setattr(os, "fsync", real)
    goes_on(admin, root)


def test_a_disk_that_is_really_full(opened: Callable[[Path], Admin], small_disk: Disk) -> None:
    root = small_disk.place / "registry"
    admin = opened(root)
    small_disk.fill()
    refuses_all_changes(admin, root)
    small_disk.free()
    goes_on(admin, root)


def test_a_disk_that_may_not_be_written(opened: Callable[[Path], Admin], small_disk: Disk) -> None:
    root = small_disk.place / "registry"
    admin = opened(root)
    again = ["mount", "-o", "remount,ro", str(small_disk.place)]
    subprocess.run(again, check=True)
    error = admin.post("unload", 503, name="v1")
    assert error["code"] == "E-RESOURCE-002"
    assert error["message"].endswith("Fix: let the server write there, and ask again")
    assert admin.ask("v1") == (200, "v1") and admin.ask("live") == (200, "v2")


def test_what_is_tried_or_half_written_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_room(tmp_path / "models.json", 99)
    with pytest.raises(ResourceError) as told, whole_or_gone(tmp_path / "a.zip"):
        (tmp_path / "a.zip").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert told.value.code == "E-RESOURCE-001" and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
def test_a_log_on_a_full_disk_is_in_nobodys_way(small_base: Path) -> None:
    with FULL.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sapwood", "serve", str(small_base), "--port", "0"],
            stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        watch = threading.Timer(100, process.kill)
        watch.start()
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split("/v1/")[0].removeprefix("curl ")
            asked = {"model": small_base.name, "prompt": "a", "max_tokens": 2}
            body = json.dumps(asked).encode()
            for _ in range(100):  # more than any buffer holds
                question = urllib.request.Request(
                    url + "/v1/completions", body, {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(question, timeout=60) as answer:
                    assert answer.status == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            watch.cancel()
            process.kill()
            process.stdout.close()
