"""Runs in processes of their own: how they stand, seen by whichever server looks."""

import json
import time

import pytest

from sapwood.commands.journal import Journal
from sapwood.errors import ConfigError
from sapwood.interfaces import Event
from sapwood.studio.running import Runs, command_of
from sapwood.studio.talk import Talk

ASKED = {"budget": "30s", "model": "small", "encoder": "none", "limit": "", "seed": "3",
         "instruction": "--say 'x'", "lang": "zh"}  # fmt: skip


@pytest.fixture
def runs(client):
    return client.app.state.studio.runs


def test_a_run_is_the_command_that_the_form_asks_for(project, runs, started):
    project = project.save(task="classification", columns={"text": "text"})
    run = runs.begin(project, ASKED)
    assert started[0].arguments == command_of(project, run) == [
        "adapt", str(project.data), f"--out={run.out}", "--budget=30s", "--model=small",
        "--task=classification", "--text=text", "--encoder=none", "--seed=3",
        "--instruction=--say 'x'", "--lang=zh", f"--events={run.events}", "--json",
    ]  # fmt: skip


def test_the_form_starts_one_run_at_a_time(client, project, started):
    form = {"budget": "2", "model": "other", "other": "--trust-remote-code=x", "seed": "7"}
    page = client.post("/p/reviews/adapt", form)
    assert "Starting: the base is being loaded" in page.text and len(started) == 1
    assert "--model=--trust-remote-code=x" in started[0].arguments
    assert "--budget=2m" in started[0].arguments
    again = client.post("/p/reviews/adapt", form)
    assert again.status_code == 400 and "is not over yet." in again.text
    started[0].code = 1
    assert client.post("/p/reviews/adapt", form).status_code == 200 and len(started) == 2


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"budget": "1", "model": ""}, "No base is named."),
        ({"budget": "1", "model": "other", "other": " "}, "No base is named."),
        ({"budget": "soon", "model": "m"}, "The budget &#39;soon&#39; is not a time."),
        ({"budget": "1", "model": "m", "seed": "x"}, "&#39;x&#39; is no number."),
        ({"budget": "1", "model": "m" * 501}, "has more than 500 characters"),
    ],
)
def test_a_form_that_makes_no_sense_starts_nothing(client, project, started, form, told):
    answer = client.post("/p/reviews/adapt", form)
    assert answer.status_code == 400 and told in answer.text and started == []


def test_data_that_block_are_not_adapted_to(client, project, started):
    project.save(task="dialogue")
    answer = client.post("/p/reviews/adapt", {"budget": "1", "model": "m"})
    assert answer.status_code == 400 and "cannot be adapted to as it is" in answer.text
    assert started == []


def test_a_run_is_followed_from_its_file_by_any_server(project, runs, small_run):
    run = runs.begin(project, ASKED)
    others = Runs()
    assert runs.story(run)["state"] == others.story(run)["state"] == "starting"
    with Journal(run.events) as journal:
        journal.event(Event(kind="start", candidate="lora"))
        for done in range(1, 4):
            journal._last = 0
            journal.event(Event(kind="progress", candidate="lora", done=done, total=9,
                                note=f"loss {1 / done:.3f} · dev 0.500"))  # fmt: skip
        for one in (runs, others):
            story = one.story(run)
            assert (story["state"], story["now"]) == ("running", "lora")
            seen = story["candidates"][0]
            assert (seen["done"], seen["total"]) == (3, 9)
            assert seen["loss"] == [[1, 1.0], [2, 0.5], [3, 0.333]]
        others.stop(run)
        assert journal.asked_to_stop and runs.story(run)["state"] == "stopping"
        with pytest.raises(ConfigError, match="is not over yet"):
            others.begin(project, ASKED)
    assert others.story(run)["state"] == "finished"


def test_what_a_candidate_reached_is_read_beside_it(project, runs, finished):
    story = runs.story(finished)
    assert story["state"] == "finished" and story["recommended"] == "tf-idf"
    rows = {row["name"]: row for row in story["candidates"]}
    assert rows["tf-idf"]["dev"]["value"] == 1.0 and rows["tf-idf"]["dev"]["metric"] == "accuracy"
    assert rows["lora"]["parts"]["method"] and len(rows["lora"]["loss"]) == 3
    assert story["spent"] == pytest.approx(9, abs=0.01)


def test_a_run_that_failed_says_why_and_can_go_on(client, project, runs, started):
    run = runs.begin(project, ASKED)
    error = {"error": "E-DATA-011", "what": f"{project.data}: too few", "details": [], "fix": "add"}
    lines = [{"kind": "began", "at": 1.0}, {"kind": "ended", "how": "failed", "at": 2.0, **error}]
    run.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    started[0].code = 3
    page = client.get("/p/reviews/adapt").text
    assert "Failed" in page and "reviews.csv: too few" in page and str(project.data) not in page
    client.post("/p/reviews/runs/1/resume")
    assert len(started) == 2 and started[1].arguments == started[0].arguments


def test_a_run_that_died_is_told_with_its_last_words(client, project, runs, started):
    run = runs.begin(project, ASKED)
    (run.folder / "stderr").write_text("one\ntwo\nKilled <b>\n")
    started[0].code = -9
    page = client.get("/p/reviews/adapt").text
    assert "Cut off" in page and "The run ended without a word." in page
    assert "Killed &lt;b&gt;" in page and "Go on" in page
    other = Runs()
    assert other.story(run)["state"] == "starting"  # for a minute, until it might have begun
    past = time.time() - 3600
    import os

    os.utime(run.folder / "started", (past, past))
    assert other.story(run)["state"] == "cut"


def test_a_torn_line_and_a_new_file_do_no_harm(project, runs):
    run = runs.begin(project, ASKED)
    run.events.write_text('{"kind": "began", "at": 1.0}\n{"kind": "start", "cand')
    assert runs.story(run)["candidates"] == []
    with run.events.open("a") as file:
        file.write('idate": "knn", "at": 2.0}\nnot json\n{"kind": "note"}\n')
    assert [c["name"] for c in runs.story(run)["candidates"]] == ["knn"]
    run.events.write_text('{"kind": "began", "at": 1.0}\n')
    assert runs.story(run)["candidates"] == []


def test_a_second_stretch_counts_with_the_first(project, runs):
    run = runs.begin(project, ASKED)
    lines = [{"kind": "began", "at": 10.0}, {"kind": "start", "candidate": "a", "at": 11.0},
             {"kind": "ended", "how": "stopped", "at": 15.0},
             {"kind": "began", "at": 100.0},
             {"kind": "start", "candidate": "a", "at": 103.0}]  # fmt: skip
    run.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    story = runs.story(run)
    assert story["spent"] == 8.0 and story["candidates"][0]["state"] == "making"


def test_changes_are_sent_until_the_end(client, project, runs, finished):
    answer = client.get("/p/reviews/runs/1/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    said = json.loads(answer.text.removeprefix("data: "))
    assert said["state"] == "finished" and said["say"] == "Finished"
    assert "TF-IDF" in said["html"] and "See the results" in said["controls"]
    assert 'class="dot done"' in said["rail"]


def test_the_time_that_is_left_is_said(project, runs):
    from sapwood.studio.adapting import viewed

    run = runs.begin(project, ASKED)
    lines = [{"kind": "began", "at": 0.5}, {"kind": "start", "candidate": "lora", "at": 1.0}]
    lines += [{"kind": "progress", "candidate": "lora", "done": n, "total": 100, "note": "",
               "at": 1.0 + n} for n in range(1, 11)]  # fmt: skip
    run.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    view = viewed(runs.story(run), project, run, Talk(lang="en"))
    assert view["going"]["text"] == "LoRA: 10 of 100, about 90 s left" or view["going"][
        "text"
    ].endswith("min left")
    assert view["percent"] == 100
