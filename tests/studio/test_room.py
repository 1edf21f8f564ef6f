"""What stands side by side, and engines that are opened when first asked for."""

import threading
import time

import pytest
from tests.studio.conftest import FakeEngine

from sapwood.errors import ConfigError, ModelError, ResourceError
from sapwood.interfaces import Frame, Span, Turn
from sapwood.studio.marking import marked, marks_of
from sapwood.studio.room import Column, Room, columns_of, found, labels, lent, written


def column(part="tuned", base="small", folder=None, model="x"):
    return Column(part=part, model=model, candidate="lora", base=base, folder=folder, best=False)


def test_the_best_of_each_kind_stand_side_by_side(project, finished):
    report = finished.report()
    columns = columns_of(project, finished, report)
    assert [c.part for c in columns] == ["base", "prompted", "tuned", "recommended"]
    assert [c.best for c in columns] == [False, False, False, True]
    dev = {c["name"]: (c.get("dev") or {}).get("value", -1) for c in report["candidates"]}
    prompted = [n for n in dev if n.startswith(("few-shot", "channel", "knn-few", "probe-few"))]
    assert columns[1].dev == max(dev[name] for name in prompted)
    assert all((c.folder / "adaptation.json").is_file() for c in columns)
    assert columns[3].folder == finished.out / "adaptation"
    assert all(c.base == str(finished.asked["model"]) for c in columns)


def test_what_is_recommended_is_not_shown_twice(project, finished):
    report = {**finished.report(), "recommended": "few-shot-4"}
    columns = columns_of(project, finished, report)
    assert [c.part for c in columns] == ["base", "prompted", "tuned"]
    best = columns[1]
    assert (best.candidate, best.model, best.best) == ("few-shot-4", "reviews", True)


def test_what_writes_is_beside_its_base(project, finished):
    tuned = {"name": "lora", "status": "finished", "parts": {"method": "LoRA"}, "base": "m"}
    failed = {"name": "few-shot-4", "status": "failed", "parts": {"context": "4"}, "base": "m"}
    report = {"task": "story", "recommended": "lora", "candidates": [tuned, failed]}
    plain, tuned = columns_of(project, finished, report)
    assert (plain.part, plain.folder, plain.model) == ("base", None, finished.asked["model"])
    assert (tuned.part, tuned.best, tuned.base) == ("tuned", True, "m")


def test_an_engine_is_opened_once_however_many_ask(tmp_path):
    opened, gate = [], threading.Event()

    def opener(base):
        opened.append(base)
        gate.wait(10)
        return FakeEngine()

    room = Room(opener)
    assert room.state("small") == "closed"
    results = []

    def ask():
        results.append(labels(room, column(folder=tmp_path), "x"))

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for thread in asking:
        thread.start()
    while room.state("small") != "opening":
        time.sleep(0.001)
    gate.set()
    for thread in asking:
        thread.join(10)
    assert opened == ["small"] and results == [[("positive", 0.75), ("negative", 0.25)]] * 8
    assert room.state("small") == "open" and len(room.engines()) == 1


def test_what_is_wrong_is_told_and_can_be_tried_again(tmp_path):
    answers = [ResourceError("E-RESOURCE-012", "No memory."), ValueError("odd"), FakeEngine()]

    def opener(base):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    room = Room(opener)
    for told in ("E-RESOURCE-012  No memory.", "E-INTERNAL-001  ValueError: odd"):
        with pytest.raises(Exception, match=told):
            room.wait("small")
        assert room.state("small") == "failed" and str(room.error("small")) == told
    assert room.wait("small").base == "small" and room.error("small") is None
    with pytest.raises(ModelError, match="A file is missing"):
        labels(room, column(folder=tmp_path, model="x.broken"), "x")


def test_the_engine_that_was_asked_last_is_let_go_last():
    engines = {name: FakeEngine() for name in "abc"}
    room = Room(engines.get)
    for name in ("a", "b", "a", "c"):
        room.wait(name)
    assert [room.state(name) for name in "abc"] == ["open", "closed", "open"]
    while not engines["b"].stopped:
        time.sleep(0.001)
    assert not engines["a"].stopped
    room.close()
    assert engines["a"].stopped and engines["c"].stopped


def test_a_servers_engine_is_lent_and_not_ended():
    engine = FakeEngine()
    room = Room(lent(engine), owns=False)
    assert room.wait("small") is engine
    with pytest.raises(ConfigError) as told:
        room.wait("other")
    assert str(told.value) == (
        "E-CONFIG-325  This server answers for 'small', not for 'other'.\n"
        "  Fix: sapwood ui, which opens any base"
    )
    room.close()
    assert not engine.stopped


def test_answers_come_in_pieces_and_end_when_nobody_listens():
    engine = FakeEngine()
    room = Room(lambda base: engine)
    turns = (Turn(role="user", content="one two three"),)
    assert list(written(room, column(), turns, spoken=True)) == ["one ", "two ", "three "]
    pieces = written(room, column(), turns, spoken=False)
    assert next(pieces) == "one "
    pieces.close()
    assert engine.cancelled == 2


def test_what_is_found_is_marked_in_the_text(tmp_path):
    room = Room(lambda base: FakeEngine())
    answer = found(room, column(folder=tmp_path), "So Ada <came>")
    assert marked("So Ada <came>", marks_of("entities", answer.frames)) == (
        'So <mark class="kind-0">Ada<b>PER</b></mark> &lt;came&gt;'
    )
    spans = [Span(start=0, end=5), Span(start=3, end=8), Span(start=9, end=99)]
    frames = tuple(Frame(label="X", head=span) for span in spans)
    assert marked("0123456789", marks_of("entities", frames)).count("<mark") == 1


def test_a_conversation_is_streamed_with_its_turns(client, project, finished, engine, monkeypatch):
    report = {**finished.report(), "task": "dialogue"}
    monkeypatch.setattr("sapwood.studio.workspace.Run.report", lambda run: report)
    page = client.get("/p/reviews/try").text
    assert "Talk to them side by side." in page and 'data-spoken="yes"' in page
    seen = []
    own = engine.write
    monkeypatch.setattr(engine, "write", lambda wish, tell: seen.append(wish) or own(wish, tell))
    body = "turn=Hi&turn=Hello&turn=How+are+you"
    answer = client.ask("POST", "/p/reviews/try/tuned", content=body)
    assert answer.headers["content-type"].startswith("text/plain") and answer.text == "How are you "
    assert [(t.role, t.content) for t in seen[0].turns] == [
        ("user", "Hi"), ("assistant", "Hello"), ("user", "How are you"),
    ]  # fmt: skip
    assert client.ask("POST", "/p/reviews/try/tuned", content="turn=").text == "\fThere is no text."
    whole = client.post("/p/reviews/try", {"text": "so it is"}).text
    assert '<p class="words" dir="auto">so it is </p>' in whole
