"""The pages as they are asked for, in both languages: what they say, and what they never do."""

import io
import json
import re
import tomllib
import zipfile
from importlib.resources import files

import pytest
from tests.studio.conftest import Client, finish

from sapwood.errors import ResourceError
from sapwood.studio.shipping import question, snippets
from sapwood.studio.talk import choose

STEPS = ("data", "baseline", "adapt", "results", "try", "ship")


def test_every_sentence_is_there_in_both_languages_with_the_same_places():
    words = tomllib.loads(files("sapwood.studio").joinpath("words.toml").read_text("utf-8"))
    for key, said in words.items():
        assert set(said) == {"en", "zh"}, key
        places = [set(re.findall(r"\{(\w+)\}", text)) for text in said.values()]
        assert places[0] == places[1], key


def test_every_sentence_that_a_page_names_is_there_and_used():
    words = tomllib.loads(files("sapwood.studio").joinpath("words.toml").read_text("utf-8"))
    root = files("sapwood.studio")
    sources = [p for folder in (root, root / "templates") for p in folder.iterdir()
               if p.name.endswith((".py", ".jinja"))]  # fmt: skip
    text = "\n".join(p.read_text("utf-8") for p in sources)
    named = set(re.findall(r"\bt\(\s*[\"']([\w-]+)[\"'][,)]", text))
    assert named <= set(words), sorted(named - set(words))
    built = set(re.findall(r"[\"'](\w+_)[\"'] ~|f\"(\w+_)\{", text))
    stems = tuple({part for pair in built for part in pair if part} | {"role_", "task_", "about_"})
    loose = {key.removesuffix("_about") for key in words if f'"{key}"' not in text}
    assert {
        key for key in loose - named if not key.startswith(stems) and f'"{key}"' not in text
    } == set()


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_step_has_its_empty_page(client, project, lang):
    for step in STEPS:
        answer = client.get(f"/p/reviews/{step}", headers={"accept-language": lang})
        assert answer.status_code == 200
        assert f'lang="{"zh-Hans" if lang == "zh" else "en"}"' in answer.text
        assert answer.text.count('aria-current="page"') == 1
        assert ("一" in answer.text or "数据" in answer.text) == (lang == "zh")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_step_has_its_full_page(client, finished, lang):
    for step in STEPS:
        answer = client.get(f"/p/reviews/{step}?lang={lang}")
        assert answer.status_code == 200 and "<h1>" in answer.text
    assert client.cookies["sapwood_lang"] == lang
    assert "TF-IDF" in client.get("/").text


def test_a_language_is_asked_for_or_remembered_or_accepted():
    assert choose({}, {"sapwood_lang": "zh"}, "en", "en") == "zh"
    assert choose({"lang": "xx"}, {}, "de,zh;q=0.1,en;q=0.9", "zh") == "en"
    assert choose({}, {}, "", "zh") == "zh" and choose({}, {}, "zh;q=x", "en") == "en"


def test_a_file_is_brought_and_looked_at(client, reviews):
    answer = client.bring(reviews, "Film Reviews.csv")
    assert (answer.status_code, answer.json()) == (201, {"url": "/p/film-reviews/data"})
    page = client.get("/p/film-reviews/data").text
    assert "120 of 120 rows can be used, for classification." in page
    assert "Nothing to mend." in page and 'class="l as-answer">label' in page
    assert client.get("/p/film-reviews").headers["location"] == "/p/film-reviews/data"


def test_a_file_that_is_none_is_refused_to_the_script(client, tmp_path):
    headers = {"x-requested-with": "script"}
    told = client.ask("PUT", "/projects?name=x.exe", content=b"x", headers=headers)
    assert told.status_code == 400 and told.json()["error"] == "E-DATA-300"
    told = client.ask("PUT", "/projects?name=x.csv", content=b"", headers=headers)
    assert told.json()["what"] == "The file is empty."
    assert list((tmp_path / "ws" / ".coming").iterdir()) == []


def test_what_is_in_a_file_stays_text(client, write_rows, tmp_path):
    evil = "<script>alert(1)</script>"
    rows = [(f"{evil} {n}", ("<b>x</b>", "y")[n % 2]) for n in range(40)]
    client.bring(write_rows(tmp_path / "e.csv", rows), f"{evil}.csv")
    name = client.app.state.studio.workspace.projects()[0].id
    for step in ("", *(f"p/{name}/{step}" for step in STEPS)):
        text = client.get(f"/{step}").text
        assert "<script>alert" not in text and "<b>x</b>" not in text
    assert "&lt;script&gt;alert(1)" in client.get(f"/p/{name}/data").text


def test_problems_are_told_with_what_mends_them(client, write_rows, tmp_path):
    rows = [(f"text number {n}", ("good", "bad")[n % 2]) for n in range(60)]
    client.bring(
        write_rows(tmp_path / "r.csv", [*rows, ("text number 0", "good"), ("a b", "goood")])
    )
    page = client.get("/p/r/data").text
    assert "A label that looks like a slip" in page and "Repeated rows" in page
    done = client.post("/p/r/mend").text
    assert "Mended." in done and "left out 1 row" in done and "A label that looks" not in done
    assert "Mended." not in client.get("/p/r/data").text  # a notice is read once


def test_problems_and_errors_are_told_in_chinese(client, write_rows, tmp_path):
    rows = [(f"text number {n}", ("good", "bad")[n % 2]) for n in range(60)]
    client.bring(
        write_rows(tmp_path / "r.csv", [*rows, ("text number 0", "good"), ("a b", "goood")])
    )
    page = client.get("/p/r/data?lang=zh").text
    problems = page.split('<ul class="problems">')[1].split("</ul>")[0]
    assert 'lang="en"' not in problems and "1 行" in problems
    done = client.post("/p/r/mend").text
    assert "已去掉文本和标签都重复的 1 行" in done
    told = client.post("/p/r/data", {"text": "nothing"}).text
    assert "没有列 &#39;nothing&#39;" in told and "There is no" not in told


def test_task_and_columns_can_be_chosen(client, project):
    page = client.post("/p/reviews/data", {"task": "story", "text": "label", "label": "text"})
    assert "The file is read so from now on." in page.text
    told = client.post("/p/reviews/data", {"text": "nothing"})
    assert told.status_code == 400 and "There is no column" in told.text
    assert client.post("/p/reviews/data", {"task": "x"}).status_code == 400


def test_baselines_are_measured_when_a_file_is_brought(client, project):
    page = client.get("/p/reviews/baseline").text
    assert "TF-IDF" in page and "100.0 %" in page and "66 rows were learnt from" in page
    part = client.get("/p/reviews/baseline/rows").text
    assert part.startswith("<div") and "data-poll" not in part


def test_results_tell_the_verdict_and_open_the_report(client, finished):
    page = client.get("/p/reviews/results").text
    assert "Keep the baseline: TF-IDF reaches" in page and "recommended" in page
    report = client.get("/p/reviews/runs/1/report")
    assert report.text.startswith("<!doctype html>") and "sandbox" in report.headers[
        "content-security-policy"
    ]  # fmt: skip
    assert (
        "保留基线" in client.get("/p/reviews/results?lang=zh").text
        or "基线" in client.get("/p/reviews/results?lang=zh").text
    )


def test_two_runs_are_compared(client, finished, project, small_run, small_base):
    finish(project, small_run, small_base, budget="1m")
    page = client.get("/p/reviews/results").text
    assert page.count('type="checkbox"') == 2
    compared = client.get("/p/reviews/compare?run=1&run=2")
    assert "reviews.csv · 1" in compared.text and "reviews.csv · 2" in compared.text
    told = client.get("/p/reviews/compare?run=1")
    assert "Choose two runs." in client.get(told.headers["location"]).text
    assert client.get("/p/reviews/compare?run=1&run=9").status_code == 404


def test_a_run_without_a_report_is_not_shown_as_one(client, project):
    project.new_run({"budget": "30s", "model": "m"})
    assert "There is no result yet" in client.get("/p/reviews/results").text
    assert client.get("/p/reviews/runs/1/report").status_code == 404
    assert client.get("/p/reviews/runs/1/adaptation.zip").status_code == 400


def test_a_text_is_tried_side_by_side(client, finished, engine):
    page = client.get("/p/reviews/try").text
    parts = re.findall(r'<article aria-labelledby="c-(\w+)"', page)
    assert parts == ["base", "prompted", "tuned", "recommended"]
    whole = client.post("/p/reviews/try", {"text": "a <fine> day"}).text
    assert whole.count("75.0 %") == 4 and "a &lt;fine&gt; day" in whole
    one = client.post("/p/reviews/try/tuned", {"text": "x"}).text
    assert one.lstrip().startswith('<ul class="counts probable">') and "25.0 %" in one
    assert sorted(engine.served) == ["reviews", "reviews.base", "reviews.prompted", "reviews.tuned"]
    assert engine.served["reviews"] == finished.out / "adaptation"
    assert "There is no text." in client.post("/p/reviews/try/tuned", {"text": " "}).text
    assert client.post("/p/reviews/try/odd", {"text": "x"}).status_code == 400


def test_a_tried_text_becomes_a_row(client, finished):
    page = client.post("/p/reviews/add", {"text": "a fine day", "answer": "positive"}).text
    assert "Added. The data have 121 rows now." in page
    told = client.post("/p/reviews/add", {"text": "", "answer": "positive"}).text
    assert "There is no text." in told


def test_a_base_that_cannot_be_opened_is_told_in_each_column(make, reviews, small_run, small_base):
    def opener(base):
        raise ResourceError("E-RESOURCE-012", "There is no memory.", fix="buy some")

    client = Client(make(opener=opener))
    client.bring(reviews)
    studio = client.app.state.studio
    studio.baselines.wait(studio.workspace.project("reviews"), 60)
    finish(studio.workspace.project("reviews"), small_run, small_base)
    page = client.post("/p/reviews/try", {"text": "x"}).text
    assert page.count("There is no memory.") == 5  # and once above all columns
    assert "It cannot answer here." in client.get("/p/reviews/ship").text


def test_what_is_shipped_is_what_was_made(client, finished, engine):
    page = client.get("/p/reviews/ship").text
    assert (
        "It needs no base." in page and "sapwood predict" in page and "It does not answer" in page
    )
    answer = client.get("/p/reviews/runs/1/adaptation.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = archive.namelist()
        kept = json.loads(archive.read("reviews-1/adaptation.json"))
    assert {"reviews-1/adaptation.json", "reviews-1/README.md"} <= set(names)
    assert kept["labels"] == ["negative", "positive"]
    card = client.get("/p/reviews/runs/1/README.md")
    assert 'filename="reviews-README.md"' in card.headers["content-disposition"]
    client.post("/p/reviews/open", {"back": "ship"})
    client.app.state.studio.room.wait(str(finished.asked["model"]))
    assert "It answers as “reviews”" in client.get("/p/reviews/ship").text
    assert "reviews" in engine.served


@pytest.mark.parametrize(
    ("task", "route"),
    [
        ("classification", "/v1/classify"),
        ("entities", "/v1/extract"),
        ("multi-label", "/v1/extract"),
        ("dialogue", "/v1/chat/completions"),
        ("story", "/v1/completions"),
    ],
)
def test_snippets_are_valid_and_quote_what_they_hold(task, route):
    import ast
    import shlex

    text = 'it\'s "odd" $HOME `x` 你好'
    curl, python = snippets("http://127.0.0.1:1", task, "mine", text, key=True)
    words = shlex.split(curl.text)
    assert words[1] == f"http://127.0.0.1:1{route}"
    assert json.loads(words[words.index("-d") + 1]) == question(task, "mine", text)[1]
    assert "Authorization: Bearer $SAPWOOD_KEY" in words
    ast.parse(python.text)
    assert "SAPWOOD_KEY" in python.text and "你好" in python.text
    plain = snippets("http://127.0.0.1:1", task, "mine", text, key=False)
    assert all("SAPWOOD_KEY" not in one.text for one in plain)


def test_a_lost_page_and_a_lost_project_are_told(client):
    assert client.get("/nowhere").status_code == 404
    lost = client.get("/p/..%2f..%2fetc/data")
    assert lost.status_code == 404
    told = client.get("/p/nothing/data")
    assert told.status_code == 404 and "There is no project &#39;nothing&#39;." in told.text


def test_a_project_is_removed_for_good(client, project):
    page = client.post("/p/reviews/remove")
    assert "reviews.csv was removed." in page.text and not project.folder.exists()
