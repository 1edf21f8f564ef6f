"""What is served changes: loads, aliases, ways back, and several processes over one registry."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.numpy import save_file
from tests.serving.conftest import ADMIN_KEY, FakeEngine, Log, write_adaptation

from sapwood.errors import ConfigError, ModelError
from sapwood.serving.desk import Desk
from sapwood.serving.registry import Loaded, Registry
from sapwood.serving.settings import Settings
from sapwood.serving.visits import Journal


class Admin:
    """Someone with the admin key at one server."""

    def __init__(self, server: Any) -> None:
        self.server = server
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        self.client = httpx.Client(base_url=server.url, headers=headers, timeout=20, verify=False)

    def post(self, route: str, status: int = 200, /, **body: Any) -> Any:
        """Return what is answered: content, or the error."""
        answer = self.client.post(f"/admin/{route}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json() if status == 200 else answer.json()["error"]

    def served(self) -> dict[str, Any]:
        """Return the models by name."""
        return {model["id"]: model for model in self.client.get("/v1/models").json()["data"]}

    def ask(self, model: str) -> tuple[int, Any]:
        """Return the status, and which model answered."""
        body = {"model": model, "prompt": "a"}
        answer = self.client.post("/v1/completions", json=body)
        return answer.status_code, answer.json().get("model")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A registry with three adaptations."""
    for number, name in enumerate(("v1", "v2", "v3"), 1):
        write_adaptation(tmp_path / "registry" / name, float(number))
    return tmp_path / "registry"


@pytest.fixture
def admins(serve: Callable[..., Any], root: Path) -> Iterator[Callable[[], Admin]]:
    """Opener of servers over the registry."""
    made: list[Admin] = []

    def start() -> Admin:
        made.append(Admin(serve(registry=root, engine=FakeEngine(()))))
        return made[-1]

    yield start
    for one in made:
        one.client.close()


def test_load_and_unload(admins: Callable[[], Admin], root: Path) -> None:
    admin = admins()
    assert list(admin.served()) == ["small"] and admin.ask("v1")[0] == 404
    loaded = admin.post("load", name="v1")
    assert (loaded["id"], loaded["parent"], loaded["object"]) == ("v1", "small", "model")
    assert admin.ask("v1") == (200, "v1")
    assert admin.post("load", name="other", folder="v2")["id"] == "other"
    assert list(admin.served()) == ["small", "v1", "other"]
    assert admin.post("unload", name="v1") == {"name": "v1", "served": False}
    assert admin.ask("v1")[0] == 404 and list(admin.served()) == ["small", "other"]
    assert Registry(root).to_serve() == {"other": "v2", "v2": "v2", "v3": "v3"}
    error = admin.post("unload", 404, name="v1")
    assert error["code"] == "E-CONFIG-280" and error["param"] == "model"
    error = admin.post("unload", 409, name="small")
    assert error["message"].startswith("E-CONFIG-304  The base cannot be unloaded.")
    assert "no folder 'v4'." in admin.post("load", 404, name="v4")["message"]


def test_loading_again_serves_the_content_as_it_is_now(
    admins: Callable[[], Admin], root: Path
) -> None:
    admin = admins()
    before = admin.post("load", name="v1")["digest"]
    assert admin.post("load", name="v1")["digest"] == before
    import numpy as np

    save_file({"lora_A": np.full((2, 4), 9.0, np.float32)}, root / "v1/adapter_model.safetensors")
    after = admin.post("load", name="v1")["digest"]
    assert after != before and admin.served()["v1"]["digest"] == after


def test_what_is_refused_changes_nothing(admins: Callable[[], Admin], root: Path) -> None:
    admin = admins()
    admin.post("load", name="v1")
    before = admin.served()
    (root / "v1" / "adapter_model.safetensors").write_bytes(b"torn")
    (root / "v2" / "adapter_model.safetensors").unlink()  # the engine finds that, not the vetting
    assert admin.post("load", 400, name="v1")["code"] == "E-MODEL-201"
    assert admin.post("load", 400, name="v2")["code"] == "E-MODEL-040"
    assert list(admin.served()) == list(before) and admin.ask("v1") == (200, "v1")
    assert list(Registry(root).loaded()) == ["v1"]


def test_an_alias_and_the_way_back(admins: Callable[[], Admin], root: Path) -> None:
    admin = admins()
    for name in ("v1", "v2", "v3"):
        admin.post("load", name=name)
    assert admin.ask("live")[0] == 404
    for target in ("v1", "v2", "v3"):
        assert admin.post("alias", alias="live", target=target) == {
            "alias": "live", "target": target,
        }  # fmt: skip
        assert admin.ask("live") == (200, target)
    shown = admin.served()["live"]
    assert shown["alias_of"] == "v3" and shown["digest"] == admin.served()["v3"]["digest"]
    assert admin.client.get("/v1/models/live").json()["alias_of"] == "v3"
    assert Registry(root).history("live") == ("v1", "v2", "v3")
    assert admin.post("rollback", alias="live") == {"alias": "live", "target": "v2"}
    assert admin.ask("live") == (200, "v2")
    assert admin.post("rollback", alias="live")["target"] == "v1"
    error = admin.post("rollback", 409, alias="live")
    assert error["message"].startswith(
        "E-CONFIG-304  The alias 'live' never meant anything but 'v1'."
    )
    assert admin.post("alias", alias="live", target=None)["target"] is None
    assert admin.ask("live")[0] == 404 and "live" not in admin.served()


def test_what_an_alias_may_mean(admins: Callable[[], Admin]) -> None:
    admin = admins()
    for name in ("v1", "v2"):
        admin.post("load", name=name)
    admin.post("alias", alias="base-alias", target="small")
    assert admin.ask("base-alias") == (200, "small")
    admin.post("alias", alias="live", target="v1")
    refused = [
        (404, "E-CONFIG-280", "alias", {"alias": "live", "target": "nobody"}),
        (404, "E-CONFIG-280", "alias", {"alias": "again", "target": "live"}),  # no chains
        (409, "E-CONFIG-304", "alias", {"alias": "v2", "target": "v1"}),
        (409, "E-CONFIG-304", "alias", {"alias": "small", "target": "v1"}),
        (409, "E-CONFIG-304", "alias", {"alias": "none", "target": None}),
        (409, "E-CONFIG-304", "load", {"name": "live", "folder": "v2"}),
        (409, "E-CONFIG-304", "unload", {"name": "v1"}),
        (404, "E-CONFIG-280", "unload", {"name": "live"}),
        (409, "E-CONFIG-304", "rollback", {"alias": "none"}),
        (400, "E-CONFIG-293", "alias", {"alias": "../x", "target": "v1"}),
        (400, "E-CONFIG-293", "alias", {"alias": "live"}),
        (400, "E-CONFIG-293", "alias", {"alias": "live", "target": ""}),
    ]
    for status, code, route, body in refused:
        error = admin.post(route, status, **body)
        assert error["code"] == code, (route, body, error)
    assert "The alias 'live' means 'v1'." in admin.post("unload", 409, name="v1")["message"]
    admin.post("alias", alias="live", target="v2")
    admin.post("unload", name="v1")
    # what it meant before is gone, so there is no way back, and it keeps its meaning
    assert admin.post("rollback", 404, alias="live")["code"] == "E-CONFIG-280"
    assert admin.ask("live") == (200, "v2")


def test_without_a_registry_nothing_changes(serve: Callable[..., Any]) -> None:
    admin = Admin(serve())
    for route, body in [
        ("load", {"name": "x"}), ("unload", {"name": "reviews"}), ("rollback", {"alias": "x"}),
        ("alias", {"alias": "x", "target": "reviews"}),
    ]:  # fmt: skip
        error = admin.post(route, 404, **body)
        assert error["message"] == (
            "E-CONFIG-303  This server has no registry, so what it serves stays as it is.\n"
            "  Fix: start it with --registry FOLDER"
        )
    admin.client.close()


def test_every_read_sees_one_of_the_meanings(admins: Callable[[], Admin]) -> None:
    """Property: while an alias moves and what it meant is replaced, no read fails or sees less."""
    admin = admins()
    for name in ("v1", "v2", "v3"):
        admin.post("load", name=name)
    admin.post("alias", alias="live", target="v1")
    ended = threading.Event()

    def read(number: int) -> list[tuple[int, Any]]:
        one, seen = Admin(admin.server), []
        with one.client:
            while not ended.is_set():
                seen.append(one.ask("live"))
                shown = one.client.get("/v1/models/live").json()
                seen.append((200, shown.get("alias_of")))
        return seen

    with ThreadPoolExecutor(3) as readers:
        reading = [readers.submit(read, number) for number in range(3)]
        try:
            for turn in range(30):
                target = f"v{turn % 3 + 1}"
                admin.post("load", name=target)
                admin.post("alias", alias="live", target=target)
                assert admin.ask("live") == (200, target)
                if turn % 4 == 3:
                    before = admin.post("rollback", alias="live")["target"]
                    assert admin.ask("live") == (200, before)
                else:
                    idle = f"v{(turn + 1) % 3 + 1}"
                    admin.post("unload", name=idle)
                    admin.post("load", name=idle)
        finally:
            ended.set()
        seen = [entry for one in reading for entry in one.result()]
    assert len(seen) > 60 and set(seen) == {(200, "v1"), (200, "v2"), (200, "v3")}


def test_two_processes_follow_each_other(admins: Callable[[], Admin]) -> None:
    here, there = admins(), admins()
    here.post("load", name="v1")
    assert there.ask("v1") == (200, "v1")  # loaded on the way, before it is said to be unknown
    there.post("load", name="v2")
    here.post("alias", alias="live", target="v2")  # nobody asked here for v2 yet
    assert here.ask("live") == (200, "v2") and there.ask("live") == (200, "v2")
    here.post("load", name="v3")
    assert list(there.served()) == ["small", "v1", "v2", "v3", "live"]
    here.post("alias", alias="live", target="v3")
    assert there.ask("live") == (200, "v3")
    there.post("rollback", alias="live")
    assert here.ask("live") == (200, "v2")
    here.post("unload", name="v1")
    assert list(there.served()) == ["small", "v2", "v3", "live"]
    assert there.post("unload", 404, name="v1")["code"] == "E-CONFIG-280"


def test_while_one_is_loaded_here_whoever_asks_for_it_waits(
    serve: Callable[..., Any], root: Path
) -> None:
    class Slow(FakeEngine):
        def open(self, name: str, folder: Path) -> Any:
            asyncio.run(asyncio.sleep(0.3))
            return super().open(name, folder)

    here = Admin(serve(registry=root, engine=FakeEngine(())))
    there = Admin(serve(registry=root, engine=Slow(())))
    here.post("load", name="v1")
    here.post("alias", alias="live", target="v1")
    with ThreadPoolExecutor(4) as askers:
        answers = list(askers.map(there.ask, ["v1", "live", "v1", "live"]))
    assert answers == [(200, "v1")] * 4
    for one in (here, there):
        one.client.close()


def test_what_cannot_be_followed_is_told_in_the_log(
    admins: Callable[[], Admin], root: Path
) -> None:
    here, there = admins(), admins()
    here.post("load", name="v1")
    (root / "v1" / "run.py").write_text("")
    assert there.ask("v1")[0] == 404
    (line,) = [said for said in there.server.log.lines if said["event"] == "not_followed"]
    assert (line["model"], line["code"]) == ("v1", "E-MODEL-201")
    assert there.ask("small") == (200, "small")


def test_changes_of_many_processes_all_count(root: Path) -> None:
    """Property: no change is lost to another that was made at the same time."""
    registries = [Registry(root) for _ in range(4)]

    def work(number: int) -> None:
        for turn in range(10):
            registries[number].point(f"alias-{number}", f"v{turn % 3 + 1}")
            registries[number].record(f"name-{number}-{turn}", Loaded(folder="v1", digest="0"))

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(work, range(4)))
    for registry in (*registries, Registry(root)):
        assert registry.aliases() == {f"alias-{number}": "v1" for number in range(4)}
        assert all(len(registry.history(f"alias-{number}")) == 10 for number in range(4))
        assert len(registry.loaded()) == 40


def test_meanings_are_kept_in_bounds(root: Path) -> None:
    registry = Registry(root)
    for turn in range(103):
        registry.point("live", f"v{turn}")
    history = registry.history("live")
    assert len(history) == 100 and history[-1] == "v102"


BROKEN = ["", "{", "[]", "null", '"x"', '{"live": []}', '{"live": "v1"}', '{"live": [{}]}',
          '{"live": [5]}', "\x00", "[" * 100_000]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("name", ["aliases.json", "models.json"])
def test_a_broken_file_is_told_at_the_start(root: Path, name: str, text: str) -> None:
    if name == "models.json":
        text = text.replace("[{}]", '{"folder": "v1"}')
    (root / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        Desk(FakeEngine(()), Settings(), Registry(root), Journal(Log()))
    assert caught.value.code == "E-CONFIG-305"
    assert caught.value.what == f"{name} of the registry is not what a server wrote."
    assert caught.value.fix == f"put it right, or remove it: {root / name}"


@pytest.mark.parametrize("existed", [True, False])
def test_a_file_broken_meanwhile_stays_what_it_was(
    admins: Callable[[], Admin], root: Path, existed: bool
) -> None:
    admin = admins()
    if existed:
        admin.post("load", name="v1")
        admin.post("alias", alias="live", target="v1")
    meant = (200, "v1") if existed else (404, None)
    for name in ("aliases.json", "models.json"):
        for text in BROKEN:
            (root / name).write_text(text)
            assert admin.ask("small") == (200, "small")
            assert admin.ask("live") == meant
    admin.post("load", name="v2")  # and what changes it writes it anew
    admin.post("alias", alias="live", target="v2")
    assert admin.ask("live") == (200, "v2")
    assert json.loads((root / "aliases.json").read_text())["live"][-1]["target"] == "v2"


def test_a_registry_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="E-CONFIG-303  There is no registry"):
        Registry(tmp_path / "nothing")


def test_models_json_leads_nowhere_else(root: Path, tmp_path: Path) -> None:
    """A name that somebody wrote into the file is checked like one that was asked for."""
    write_adaptation(tmp_path / "outside")
    desk = Desk(FakeEngine(()), Settings(), Registry(root), Journal(log := Log()))
    (root / "models.json").write_text('{"x": {"folder": "../outside", "digest": "0"}}')

    async def ask() -> None:
        await desk.catch_up()

    asyncio.run(ask())
    assert not desk.serves("x") and log.lines[-1]["code"] == "E-CONFIG-302"
    with pytest.raises(ModelError, match="E-MODEL-200"):
        desk.open("x", root / "nothing")
