"""What is tried: two texts, a marked pair, and answers of relations and events in words."""

import re

import pytest
from tests.studio.conftest import Finder

from sapwood.errors import DataError
from sapwood.interfaces import Answer, Frame, Span
from sapwood.studio.forms import Form
from sapwood.studio.marking import Mark, ends_marked, in_words, marked, marks_of
from sapwood.studio.questions import (
    ONE,
    PAIR,
    TWO,
    example_of,
    example_text,
    fields_of,
    question_of,
)

TEXT = "Ann met Bo, and Bo left."


def asked(fields, **given):
    return question_of(Form(list(given.items())), fields)


def seen(columns, roles, *cells):
    return {"columns": columns, "roles": dict(zip(columns, roles, strict=True)),
            "head": [list(cells)] if cells else []}  # fmt: skip


def test_a_pair_is_marked_as_in_the_training_rows():
    one = asked(PAIR, text=TEXT, head="Ann", tail="Bo")
    assert one.text == "<head>Ann</head> met <tail>Bo</tail>, and Bo left."
    assert (one.shown, one.ends) == (TEXT, ((0, 3), (8, 10)))
    same = asked(PAIR, text=TEXT, head="Bo", tail="Bo")
    assert same.text == "Ann met <head>Bo</head>, and <tail>Bo</tail> left."
    later = asked(PAIR, text=TEXT, head="Ann", tail="Bo #2")
    assert later.text == "<head>Ann</head> met Bo, and <tail>Bo</tail> left."
    inside = asked(PAIR, text="New York City", head="New York City", tail="York")
    assert inside.text == "<head>New <tail>York</tail> City</head>"
    given = asked(PAIR, text=one.text, head="", tail="")
    assert (given.text, given.shown, given.ends) == (one.text, TEXT, one.ends)
    chinese = asked(PAIR, text="李白生于碎叶城。", head="李白", tail="碎叶城")
    assert chinese.text == "<head>李白</head>生于<tail>碎叶城</tail>。"


@pytest.mark.parametrize(
    ("fields", "given", "told"),
    [
        (ONE, {"text": " "}, ["There is no text."]),
        (TWO, {"text": "a", "text_pair": "\n"}, ["There is no second text."]),
        (PAIR, {"text": TEXT, "head": "Ann", "tail": ""}, ["the second one is empty"]),
        (PAIR, {"text": TEXT, "head": "Eve", "tail": "Al"},
         ["'Eve' is not in the text", "'Al' is not in the text"]),
        (PAIR, {"text": TEXT}, ["the first one is empty", "the second one is empty"]),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_told_in_full(fields, given, told):
    with pytest.raises(DataError) as error:
        asked(fields, **given)
    assert error.value.code == "E-DATA-303" and error.value.fix
    assert [line for line in told if line in str(error.value)] == told


def test_two_texts_are_joined_as_the_reader_joins_them():
    assert asked(TWO, text="A man eats. ", text_pair=" A man sleeps.").text == (
        "A man eats.\nA man sleeps."
    )


def test_the_form_begins_with_the_first_row():
    cells = (TEXT, '{"text": "Ann", "start": 0}', '{"start": 8, "end": 10}', "knows")
    pair = seen(["s", "h", "t", "r"], ["text", "head", "tail", "relation"], *cells)
    assert fields_of("pairs", pair) == PAIR
    assert example_of(PAIR, pair) == {"text": TEXT, "head": "Ann", "tail": "Bo"}
    assert example_text(PAIR, pair) == "<head>Ann</head> met <tail>Bo</tail>, and Bo left."
    lost = seen(["s", "h", "t"], ["text", "head", "tail"], "Ann …", '"Eve"', "[[1], [2]]")
    assert example_of(PAIR, lost) == {"text": "Ann …", "head": "", "tail": ""}
    assert example_text(PAIR, lost) == ""
    two = seen(["a", "b"], ["text", "text_pair"], "one", "other")
    assert fields_of("classification", two) == TWO and example_text(TWO, two) == "one\nother"
    assert example_of(TWO, two) == {"text": "one", "text_pair": "other"}
    words = seen(["x", "y"], ["tokens", "tags"], '["Ada", "came"]', '["B-PER", "O"]')
    assert fields_of("entities", words) == ONE and example_text(ONE, words) == "Ada came"
    assert example_text(ONE, seen(["x"], ["tokens"], '["李", "白"]')) == "李白"
    assert example_text(ONE, seen(["x"], ["tokens"], '["cut", "o…')) == ""
    said = seen(["m"], ["messages"], "user: Hi: you\nassistant: Hello")
    assert example_text(ONE, said) == "Hi: you"
    assert example_text(ONE, seen([], [])) == ""


EVENT = Frame(
    label="Sale",
    head=Span(start=4, end=8),
    arguments=(Span(start=0, end=3, label="Seller"), Span(start=9, end=12, label="Thing")),
)
RELATIONS = (
    Frame(label="met", head=Span(start=0, end=3, label="PER"),
          arguments=(Span(start=8, end=10, label="PER"),)),
    Frame(label="left <it>", head=Span(start=16, end=18, label="PER"),
          arguments=(Span(start=4, end=7),)),
)  # fmt: skip


def test_events_are_marked_with_their_triggers_before_their_parts():
    text = "Ann sold car & fled"
    assert marked(text, marks_of("events", (EVENT,))) == (
        '<mark class="part kind-0">Ann<b>Seller</b></mark> '
        '<mark class="kind-0">sold<b>Sale</b></mark> '
        '<mark class="part kind-0">car<b>Thing</b></mark> &amp; fled'
    )
    over = Frame(label="Flight", head=Span(start=0, end=8))
    shown = marked(text, marks_of("events", (over, EVENT)))
    assert shown.count("<mark") == 2 and '<mark class="kind-0">Ann sold<b>Flight' in shown
    assert in_words(text, Answer(frames=(EVENT, Frame(label="None")))) == [
        {"label": "Sale", "head": "sold", "head_label": "",
         "parts": [("Seller", "Ann"), ("Thing", "car")]},
        {"label": "None", "head": "", "head_label": "", "parts": []},
    ]  # fmt: skip


def test_the_ends_of_relations_are_marked_by_what_they_are():
    assert marked(TEXT, marks_of("relations", RELATIONS)) == (
        '<mark class="kind-1">Ann<b>PER</b></mark> <mark class="kind-0">met</mark> '
        '<mark class="kind-1">Bo<b>PER</b></mark>, and '
        '<mark class="kind-1">Bo<b>PER</b></mark> left.'
    )
    assert marked("short", [Mark(start=3, end=99)]) == "short"
    assert ends_marked("a <b", ((0, 1), (3, 4))) == (
        '<mark class="kind-0">a</mark> &lt;<mark class="kind-1">b</mark>'
    )


def rows_of(task):
    """Return training rows of a task."""
    spec = {"head": {"text": "Ann", "start": 0, "end": 3},
            "tail": {"text": "Bo", "start": 8, "end": 10}}  # fmt: skip
    if task == "pairs":
        return [{"text": TEXT, **spec, "relation": ("met", "left")[n % 2]} for n in range(12)]
    joined = {"entities": [[0, 3, "PER"], [8, 10, "PER"]],
              "relations": [{"head": 0, "tail": 1, "type": "met"}]}  # fmt: skip
    said = {"relations": joined, "events": {"events": [{"type": "Meet", "trigger": "met"}]}}
    return [{"text": TEXT, **said[task]}] * 3


@pytest.mark.parametrize(("lang", "words"), [("en", "Second part"), ("zh", "第二个部分")])
def test_a_marked_pair_is_tried(tried, lang, words):
    engine = Finder()
    client = tried("pairs", rows_of("pairs"), engine)
    page = client.get(f"/p/rows/try?lang={lang}").text
    assert words in page and 'name="head" value="Ann"' in page and 'name="tail" value="Bo"' in page
    given = {"text": "Cy <met> Di", "head": "Cy", "tail": "Di"}
    page = client.post("/p/rows/try", given).text
    assert set(engine.asked) == {"<head>Cy</head> <met> <tail>Di</tail>"}
    assert '<mark class="kind-0">Cy</mark> &lt;met&gt; <mark class="kind-1">Di</mark>' in page
    assert "75.0" in page and 'name="head" value="Cy"' in page
    told = client.post("/p/rows/try/tuned", {**given, "tail": "Eve"}).text
    lost = {"en": "&#39;Eve&#39; is not in the text", "zh": "文本中没有 &#39;Eve&#39;"}[lang]
    assert lost in told and "E-DATA-303" in told
    shipped = client.get("/p/rows/ship").text
    assert "&lt;head&gt;Ann&lt;/head&gt; met &lt;tail&gt;Bo&lt;/tail&gt;" in shipped


@pytest.mark.parametrize(("lang", "words"), [("en", "Second text"), ("zh", "第二段文本")])
def test_two_texts_are_tried(tried, lang, words):
    rows = [{"text": f"{a} sea {n}", "text_b": f"{a} song {n}", "label": a}
            for n in range(8) for a in ("red", "blue")]  # fmt: skip
    engine = Finder()
    client = tried("classification", [{**r, "text_a": r.pop("text")} for r in rows], engine)
    page = client.get(f"/p/rows/try?lang={lang}").text
    assert words in page and "red song 0</textarea>" in page
    page = client.post("/p/rows/try", {"text": "a fine day", "text_pair": "a day & night"}).text
    assert set(engine.asked) == {"a fine day\na day & night"}
    assert page.count("a day &amp; night</textarea>") == 2  # what is asked, and the row to add
    lacks = {"en": "There is no second text.", "zh": "没有第二段文本。"}[lang]
    assert lacks in client.post("/p/rows/try/tuned", {"text": "x"}).text


@pytest.mark.parametrize(
    ("task", "frames", "lang", "shown"),
    [
        ("relations", RELATIONS, "en",
         ["Ann PER — met → Bo PER", "Bo PER — left &lt;it&gt; → met"]),
        ("relations", (), "zh", ["没有找到任何内容。"]),
        ("events", (EVENT,), "en", ["Sale trigger sold", "Seller Ann", "Thing car"]),
        ("events", (EVENT,), "zh", ["Sale 触发词 sold", "Seller Ann", "Thing car"]),
        ("events", (Frame(label="Sale"),), "en", ["Sale"]),
    ],
)  # fmt: skip
def test_what_is_found_is_told_in_words(tried, task, frames, lang, shown):
    client = tried(task, rows_of(task), Finder(frames))
    client.get(f"/p/rows/try?lang={lang}")
    text = TEXT if task == "relations" else "Ann sold car & fled"
    answer = client.post("/p/rows/try/tuned", {"text": text}).text
    plain = " ".join(re.sub(r"<[^>]+>", " ", answer).split())
    assert [line for line in shown if line not in plain] == []
    assert answer.count("<mark") == len(marks_of(task, frames))
    assert "<details" not in answer
