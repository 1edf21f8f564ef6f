"""`--events FILE`: what a run writes for those who look on, how it is stopped, and how it ends."""

import errno
import itertools
import json
import os
import shutil

import pytest

from sapwood.commands.journal import Journal
from sapwood.commands.running import Screen
from sapwood.errors import DataError, ResourceError
from sapwood.interfaces import Event


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_run_tells_its_events_from_beginning_to_end(sapwood, small_run, tmp_path):
    out, path = tmp_path / "out", tmp_path / "events.jsonl"
    shutil.copytree(small_run.out, out)
    assert sapwood(*small_run.arguments[:-1], out, "--events", path).code == 0
    said = lines(path)
    assert said[0]["kind"] == "began" and said[-1]["kind"] == "ended"
    assert said[-1]["how"] == "finished"
    assert next(e["note"][:8] for e in said if e["kind"] == "note").startswith("66 train")
    ended = {e["candidate"] for e in said if e["kind"] == "end"}
    assert {"majority", "tf-idf", "lora"} <= ended
    assert all(one["at"] <= two["at"] for one, two in itertools.pairwise(said))


def test_a_mistake_is_told_too(sapwood, tmp_path):
    path = tmp_path / "events.jsonl"
    assert sapwood("adapt", tmp_path / "none.csv", "--events", path, "--json").code == 3
    last = lines(path)[-1]
    assert (last["how"], last["error"]) == ("failed", "E-DATA-001")
    assert last["what"].startswith("No such file") and last["fix"]


def test_a_stop_file_ends_a_run_at_its_next_step(tmp_path, capsys):
    path = tmp_path / "events.jsonl"

    def events():
        for number in range(9):
            if number == 3:
                path.with_suffix(".stop").touch()
            yield Event(kind="note", note=str(number))
        return {}

    with pytest.raises(SystemExit) as end, Journal(path) as journal:
        Screen(journal=journal).follow(events())
    assert end.value.code == 130 and "Stopped and saved" in capsys.readouterr().err
    assert [e.get("note") for e in lines(path)][1:-1] == ["0", "1", "2", "3"]
    assert lines(path)[-1]["how"] == "stopped"
    assert not path.with_suffix(".stop").exists()


def test_progress_is_thinned_but_its_end_is_told(tmp_path):
    with Journal(tmp_path / "events.jsonl") as journal:
        for done in range(1, 101):
            journal.event(Event(kind="progress", candidate="x", done=done, total=100))
    said = [e["done"] for e in lines(tmp_path / "events.jsonl") if e["kind"] == "progress"]
    assert said[0] == 1 and said[-1] == 100 and len(said) < 20


def test_one_file_is_for_one_run(tmp_path):
    path = tmp_path / "deep" / "events.jsonl"
    with Journal(path), pytest.raises(ResourceError) as told:
        Journal(path)
    assert str(told.value) == (
        f"E-RESOURCE-090  Another run writes its events to {path}.\n"
        "  Fix: wait until it has ended, or name another file with --events"
    )
    with pytest.raises(DataError), Journal(path):
        raise DataError("E-DATA-001", "No such file: x.", fix="give one")
    assert lines(path)[-1]["fix"] == "give one"


def test_without_a_file_nothing_is_written(tmp_path):
    with Journal(None) as journal:
        journal.event(Event(kind="note", note="x"))
        assert not journal.asked_to_stop
    assert list(tmp_path.iterdir()) == []


class Filling:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self.file.write(content[: self.room])
        self.room -= taken
        return taken

    def close(self):
        self.file.close()


def test_a_full_disk_tears_one_line_and_stops_nobody(tmp_path):
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        journal.event(Event(kind="note", note="before"))
        disk = journal._file = Filling(journal._file, 20)
        for number in range(3):
            journal.event(Event(kind="note", note=f"lost {number}"))
        disk.room = 10_000
        journal.event(Event(kind="note", note="after"))
    *_, torn, after, last = path.read_text("utf-8").splitlines()
    assert len(torn) == 20 and "lost 0" not in torn
    assert json.loads(after)["note"] == "after" and json.loads(last)["how"] == "finished"


def test_a_run_whose_events_have_no_room_ends_as_it_would(tmp_path):
    with pytest.raises(DataError, match="No such file"), Journal(tmp_path / "e.jsonl") as journal:
        journal._file = Filling(journal._file, 0)
        raise DataError("E-DATA-001", "No such file")
    with Journal(tmp_path / "e.jsonl"):  # the lock was let go
        pass


def test_events_on_a_disk_that_is_really_full(small_disk):
    path = small_disk.place / "events.jsonl"
    with Journal(path) as journal:
        small_disk.fill()
        for number in range(200):
            journal.event(Event(kind="note", note=f"a note of some length, number {number}"))
        small_disk.free()
        journal.event(Event(kind="note", note="after"))
    said = path.read_text("utf-8").splitlines()
    assert json.loads(said[0])["kind"] == "began" and len(said) < 200
    assert [json.loads(line).get("note") for line in said[-2:]] == ["after", None]
