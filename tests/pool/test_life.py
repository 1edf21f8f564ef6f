"""Loading, letting go, replacing, cancelling, stopping, failing."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
from tests.pool.conftest import METHODS, Asker

from sapwood.errors import ConfigError, ModelError, ResourceError, SapwoodError
from sapwood.models.choosing import Sampling
from sapwood.pool.wish import Busy

TEXT = "the plot of this film"


def test_few_in_memory_serve_many(opened, folders, asker) -> None:
    names = list(METHODS)
    pool = opened({name: folders[name] for name in names}, slots=3, resident=2)
    own = Asker(pool)
    wanted = {name: asker.say(name, TEXT) for name in names}
    begun = [(name, own.begin(name, TEXT)) for name in names * 3]
    for name, updates in begun:
        (got,) = own.end(updates)
        assert "".join(update.text for update in got) == wanted[name], name
        assert len(pool.shelf.memory.all()) <= 2
    assert len(pool.batch.bank.names) <= 2
    about = {one.name: one for one in pool.models()}
    assert sum(one.resident for one in about.values() if one.kind == "adaptation") == 2
    assert all(about[name].queries == 3 for name in names)
    assert about["lora-8"].tokens > 0


def test_a_new_version_takes_over_and_old_requests_end_with_the_old(opened, folders, asker) -> None:
    pool = opened({"film": folders["lora-8"]})
    own = Asker(pool)
    before = pool.models()[1].digest
    running = own.begin("film", TEXT, sampling=Sampling(tokens=200))
    assert pool.open("film", folders["prefix"]).digest != before
    assert own.say("film", TEXT) == asker.say("prefix", TEXT)
    (old,) = own.end(running)
    said = asker.say("lora-8", TEXT, sampling=Sampling(tokens=200))
    assert "".join(update.text for update in old) == said
    pool.close("film")
    with pytest.raises(ConfigError) as error:
        own.say("film", TEXT)
    assert error.value.code == "E-CONFIG-280"


def test_equal_content_under_two_names(opened, folders, asker) -> None:
    pool = opened({"one": folders["lora-8"], "two": folders["lora-8"]})
    assert len({about.digest for about in pool.models()[1:]}) == 1
    said = {Asker(pool).say(name, TEXT) for name in ("one", "two")}
    assert said == {asker.say("lora-8", TEXT)}


def test_a_folder_that_changed_is_not_loaded_again(opened, folders, tmp_path: Path) -> None:
    shutil.copytree(folders["lora-8"], tmp_path / "own")
    pool = opened({"own": tmp_path / "own", "other": folders["prefix"]}, resident=1)
    own = Asker(pool)
    own.say("other", TEXT)
    path = next((tmp_path / "own").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(SapwoodError) as error:
        own.say("own", TEXT)
    assert error.value.code == "E-CONFIG-286"
    assert own.say("other", TEXT)


def test_what_is_refused_harms_nobody(opened, folders, small_run, tmp_path: Path, asker) -> None:
    pool = opened({"good": folders["lora-8"]})
    own = Asker(pool)
    damaged = tmp_path / "damaged"
    shutil.copytree(folders["context"], damaged)
    path = damaged / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"12345678")
    other = tmp_path / "other"
    shutil.copytree(folders["context"], other)
    main = (other / "adaptation.json").read_text()
    sha = pool.bases.get(pool.source).sha256
    (other / "adaptation.json").write_text(main.replace(sha, "0" * 64))
    for folder, code in ((damaged, "E-MODEL-043"), (other, "E-MODEL-050"),
                         (tmp_path, "E-MODEL-040")):  # fmt: skip
        with pytest.raises(ModelError) as error:
            pool.open("bad", folder)
        assert error.value.code == code
        assert own.say("good", TEXT) == asker.say("lora-8", TEXT)
    with pytest.raises(ConfigError, match="is the name of the base"):
        pool.open(pool.base, folders["lora-8"])
    assert [one.name for one in pool.models()] == [pool.base, "good"]


def test_a_golden_probe_is_asked_before_anyone_else(opened, folders, tmp_path: Path) -> None:
    import json

    shutil.copytree(folders["context"], tmp_path / "own")
    path = tmp_path / "own" / "adaptation.json"
    main = json.loads(path.read_text())
    main["golden"]["probabilities"] = [[1.0, 0.0]]
    path.write_text(json.dumps(main))
    pool = opened({})
    with pytest.raises(ModelError) as error:
        pool.open("own", tmp_path / "own")
    assert error.value.code == "E-MODEL-051"


def test_cancelling_frees_the_place(opened) -> None:
    pool = opened({}, slots=1)
    own = Asker(pool)
    updates = []
    ticket = pool.write(_long(pool), updates.append)
    while not updates:
        time.sleep(0.01)
    second = own.begin(pool.base, TEXT)
    ticket.cancel()
    ticket.cancel()
    (got,) = own.end(second)
    assert got[-1].finish in ("length", "stop")
    assert updates[-1].finish == "cancelled"
    assert updates[-1].tokens < 3000


def _long(pool):
    from sapwood.pool.wish import Wish

    schema = '{"type":"array","items":{"const":1},"minItems":1500}'  # nothing shorter may end
    return Wish(model=pool.base, text=TEXT, sampling=Sampling(tokens=3000), schema=schema)


def test_who_leaves_the_queue_makes_room_in_it(opened) -> None:
    pool = opened({}, slots=1, queue=1)
    first: list = []
    running = pool.write(_long(pool), first.append)
    while not first:
        time.sleep(0.01)
    told: list = []
    waiting = pool.write(_long(pool), told.append)
    with pytest.raises(Busy):
        pool.write(_long(pool), told.append)
    waiting.cancel()
    while pool.waiting():
        time.sleep(0.01)
    assert [update.finish for update in told] == ["cancelled"]
    assert first[-1].finish == ""
    third = pool.write(_long(pool), told.append)
    for ticket in (third, running):
        ticket.cancel()


def test_a_full_queue_says_when_to_come_back(opened) -> None:
    pool = opened({}, slots=1, queue=2)
    tickets, refused = [], []
    for _ in range(8):
        try:
            tickets.append(pool.write(_long(pool), lambda update: None))
        except Busy as busy:
            refused.append(busy)
        time.sleep(0.02)
    assert 2 <= len(tickets) <= 4
    assert len(refused) == 8 - len(tickets)
    assert refused[0].code == "E-RESOURCE-070"
    assert refused[0].after >= 1
    assert pool.waiting() == 2
    for ticket in tickets:
        ticket.cancel()
    while pool.waiting():
        time.sleep(0.01)
    assert Asker(pool).say(pool.base, TEXT) is not None


def test_stopping_lets_answers_end_and_takes_no_more(opened) -> None:
    pool = opened({}, slots=2)
    own = Asker(pool)
    updates = own.begin(pool.base, TEXT, sampling=Sampling(tokens=40, temperature=2.0, seed=3))
    left: list[int] = []
    stopper = threading.Thread(target=lambda: left.append(pool.stop(30)))
    time.sleep(0.05)
    stopper.start()
    (got,) = own.end(updates)
    stopper.join(30)
    assert got[-1].finish in ("length", "stop")
    assert left == [0]
    assert not pool.alive
    with pytest.raises(ResourceError) as error:
        own.begin(pool.base, TEXT)
    assert error.value.code == "E-RESOURCE-071"


def test_stopping_at_once_cancels_what_runs(opened) -> None:
    pool = opened({}, slots=2)
    updates = []
    pool.write(_long(pool), updates.append)
    while not updates:
        time.sleep(0.01)
    assert pool.stop(0) == 1
    assert updates[-1].finish == "cancelled"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_fails_tells_all_who_wait(opened, monkeypatch) -> None:
    pool = opened({}, slots=1)
    own = Asker(pool)
    running = own.begin(pool.base, TEXT, sampling=Sampling(tokens=3000, temperature=2.0))
    waiting = own.begin(pool.base, TEXT)

    def fail(*given: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(pool.batch.decoder, "run", fail)
    for updates in (running, waiting):
        (got,) = own.end(updates)
        assert got[-1].finish == "error"
        assert got[-1].error.code == "E-RESOURCE-071"
        assert "RuntimeError" in str(got[-1].error)
        assert "no memory" not in str(got[-1].error)  # it might quote a prompt
    assert not pool.alive
    with pytest.raises(ResourceError):
        own.begin(pool.base, TEXT)


def test_prompts_that_are_too_long_are_refused(opened) -> None:
    pool = opened({}, tokens=64)
    own = Asker(pool)
    for wish in ({"text": "word " * 80}, {"ids": (5,) * 60}):
        with pytest.raises(ModelError) as error:
            own.say(pool.base, **wish)
        assert error.value.code == "E-MODEL-030"
    with pytest.raises(ConfigError) as error:
        own.say(pool.base, ids=(1 << 20,))
    assert error.value.code == "E-CONFIG-284"


def test_an_encoder_is_served_too(tiny_checkpoint) -> None:
    from tests.pool.conftest import RUNTIME

    from sapwood.pool.pool import open_pool

    pool = open_pool(str(tiny_checkpoint("bert")), {}, runtime=RUNTIME)
    try:
        found = pool.embed(pool.base, ["a film", "b"]).result(60)
        assert len(found.values) == 2
        assert found.prompt > 2 and found.cached == 0
        with pytest.raises(ConfigError) as error:
            Asker(pool).begin(pool.base, TEXT)
        assert error.value.code == "E-CONFIG-281"
    finally:
        pool.stop(1)


def test_listeners_that_fail_harm_nobody(opened) -> None:
    pool = opened({})

    def fail(update: object) -> None:
        raise ValueError("gone")

    pool.write(_long(pool), fail)
    assert Asker(pool).say(pool.base, TEXT) is not None
    assert pool.alive


def test_what_nobody_foresaw_is_told_without_quoting_it(opened, monkeypatch) -> None:
    pool = opened({})

    def fail(*given: object) -> None:
        raise KeyError("secret words")

    monkeypatch.setattr(pool.prompts, "of", fail)
    with pytest.raises(ResourceError) as error:
        Asker(pool).say(pool.base, TEXT)
    assert error.value.code == "E-RESOURCE-073"
    assert "secret" not in str(error.value)
    assert pool.alive


def test_a_base_is_called_by_the_last_part_of_its_path(opened, small_base) -> None:
    pool = opened({})
    assert pool.base == small_base.name
    assert pool.models()[0].name == small_base.name


def test_one_that_is_always_asked_for_makes_room_too(opened, folders, asker) -> None:
    pool = opened({name: folders[name] for name in ("lora-8", "prefix")}, resident=1, slots=4)
    own = Asker(pool)
    wanted = {name: asker.say(name, TEXT) for name in ("lora-8", "prefix")}
    over = threading.Event()
    said: list[str] = []

    def keep_asking() -> None:
        while not over.is_set():
            said.append(own.say("lora-8", TEXT))

    threads = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        while len(said) < 3:
            time.sleep(0.01)
        started = time.monotonic()
        assert own.say("prefix", TEXT) == wanted["prefix"]
        assert time.monotonic() - started < 20
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert set(said) == {wanted["lora-8"]}
