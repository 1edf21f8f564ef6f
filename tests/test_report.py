"""The report page: structure, determinism, escaping, self-containment, and what may be missing."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sapwood.errors import DataError
from sapwood.pages.page import page
from sapwood.report import load_report, write_html

RUNS = Path(__file__).parent / "pages" / "runs"
NAMES = ("sentiment", "chinese", "intents", "troubled", "empty")
ANSWERED = ("entities", "relations", "events", "labels", "poetry", "dialogue")
SECTIONS = [
    "answer",
    "candidates",
    "cost",
    "compare",
    "data",
    "sees",
    "curves",
    "classes",
    "calibration",
    "errors",
    "forecast",
    "reproduce",
]
ANSWERED_SECTIONS = [*SECTIONS[:7], "panel", "answers", *SECTIONS[-2:]]
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Outline(HTMLParser):
    """Collects tags, ids and text, and checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def run(name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((RUNS / f"{name}.json").read_text("utf-8"))
    return report


def outline(html: str) -> Outline:
    found = Outline()
    found.feed(html)
    found.close()
    assert not found.open, f"never closed: {found.open}"
    return found


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: page(run(name)) for name in (*NAMES, *ANSWERED)}


@pytest.mark.parametrize("name", [*NAMES, *ANSWERED])
def test_sections_headings_and_ids_are_in_order(name: str, pages: dict[str, str]) -> None:
    found = outline(pages[name])
    wanted = ANSWERED_SECTIONS if name in ANSWERED else SECTIONS
    assert [a["id"] for a in found.named("section")] == wanted
    assert len(found.named("h1")) == 1
    ids = Counter(a["id"] for _, a in found.tags if "id" in a)
    assert [i for i, count in ids.items() if count > 1] == []
    targets = [str(a["href"]) for a in found.named("a")]
    assert all(target.startswith("#") and target[1:] in ids for target in targets)
    labels = {a["aria-labelledby"] for _, a in found.tags if "aria-labelledby" in a}
    assert labels <= set(ids)


@pytest.mark.parametrize("name", [*NAMES, *ANSWERED])
def test_nothing_is_loaded_and_no_script_runs(name: str, pages: dict[str, str]) -> None:
    html = pages[name]
    found = outline(html)
    assert not {tag for tag, _ in found.tags} & {"script", "link", "img", "iframe", "object"}
    assert "http:" not in html.replace("http-equiv", "")
    assert "https:" not in html
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert not [a for _, a in found.tags if any(key.startswith("on") for key in a)]
    policy = next(a for a in found.named("meta") if "http-equiv" in a)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert len(html.encode()) < 300_000


@pytest.mark.parametrize("name", [*NAMES, *ANSWERED])
def test_tables_and_drawings_can_be_read_aloud(name: str, pages: dict[str, str]) -> None:
    found = outline(pages[name])
    assert len(found.named("caption")) == len(found.named("table"))
    assert all(a.get("scope") in {"row", "col"} for a in found.named("th"))
    plots = [a for a in found.named("svg") if a.get("class") == "plot"]
    assert all(a["role"] == "img" and a["aria-label"] for a in plots)
    assert found.named("html")[0]["lang"] == (
        "zh-Hans" if run(name).get("language") == "zh" else "en"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_same_report_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    write_html(run(name), tmp_path / "a.html")
    write_html(run(name), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    page(run("chinese"))
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def test_the_answer_stands_first(pages: dict[str, str]) -> None:
    text = outline(pages["sentiment"]).text
    for number in ("Tune it.", "89.2 %", "73.9 %", "+15.3", "11.0 to 19.6", "35 ms", "210 s"):
        assert number in text[: text.index("What was tried")], number
    assert "interval above zero: separable" in text


def test_rows_are_text_never_markup() -> None:
    evil = "<script>alert('x')</script>\"&"
    report = run("sentiment")
    report["errors"][0]["text"] = evil
    report["errors"][0]["nearest"][0]["text"] = evil
    report["candidates"][0]["name"] = evil
    report["candidates"][1]["why"] = evil
    report["examples"][0]["tokens"][0]["text"] = evil
    report["data"]["path"] = evil
    report["confusion"]["labels"][0] = evil
    report["data_card"]["labels"] = {evil: {"train": 1}}
    report["curves"] = {evil: report["curves"]["lora"], "$a_b$": report["curves"]["lora"]}
    report["reproduce"]["command"] = evil
    report["verdict"] = evil
    html = page(report)
    found = outline(html)
    assert "<script" not in html
    assert not found.named("script")
    assert found.text.count("<script>alert('x')</script>\"&") >= 8


def test_stopped_and_failed_candidates_say_why(pages: dict[str, str]) -> None:
    text = outline(pages["troubled"]).text
    assert "Not separable at this size." in text
    assert "this machine has 6.2 GB free." in text
    assert "the budget of 300 s ended at step 180 of 600" in text
    assert "Stopped early, for the reasons in the table: LoRA, IA3. Failed: prefix-20." in text


def test_missing_sections_say_so_in_a_sentence(pages: dict[str, str]) -> None:
    text = outline(pages["empty"]).text
    for sentence in (
        "No candidate has both a score and a cost",
        "No paired comparison was made",
        "No data card was written for this run; the splits hold 10 train, 4 dev and 0 test rows.",
        "No rendered input was kept",
        "No candidate trained by steps",
        "No predictions were kept",
        "No probabilities were kept",
        "No errors were recorded",
        "No forecast was made",
        "The command was not recorded",
    ):
        assert sentence in text


def test_any_optional_field_may_be_null_or_missing() -> None:
    required = {"schema", "task", "splits", "candidates", "recommended"}
    drawn = {"curves", "calibration"}  # drawing them again and again is what takes time
    for key in set(run("sentiment")) - required:
        outline(page({**run("sentiment"), **dict.fromkeys(drawn), key: None}))
    for field in ("parts", "status", "why", "dev", "test", "cost"):
        report = {**run("sentiment"), **dict.fromkeys(drawn)}
        for candidate in report["candidates"]:
            del candidate[field]
        outline(page(report))


def test_few_labels_give_a_matrix_and_many_the_worst_pairs(pages: dict[str, str]) -> None:
    matrix = outline(pages["troubled"])
    cells = [a for a in matrix.named("td") if (a.get("style") or "").startswith("--p:")]
    assert len(cells) == 12 * 12
    pairs = outline(pages["intents"])
    assert "The most confused pairs of 77 labels (201 errors in all)" in pairs.text
    assert not [a for a in pairs.named("td") if (a.get("style") or "").startswith("--p:")]
    assert "The other 57 labels" in pairs.text


def test_tokens_show_roles_white_space_and_what_is_supervised() -> None:
    report = run("sentiment")
    words = [("Say:\t", "instruction"), (" x", "query"), ("\n", "query"), (" yes", "answer")]
    tokens = [{"text": text, "role": role} for text, role in words]
    report["examples"] = [{"candidate": "lora", "tokens": tokens, "label": "a", "predicted": "b"}]
    html = page(report)
    assert 'class="run instruction"' in html
    assert 'class="run answer"><h4>answer</h4><div><span><i> </i>yes</span>' in html
    assert '<i class="t">\t</i>' in html
    assert '<span><i class="n"></i>\n</span>' in html
    assert "4 tokens, 1 of them supervised" in outline(html).text
    assert "labelled a, predicted b" in outline(html).text


def test_long_contexts_are_cut_and_shown_once(pages: dict[str, str]) -> None:
    text = outline(pages["sentiment"]).text
    assert text.count("tokens not shown") == 1
    assert text.count("the same as in example 1") == 2


def test_a_chinese_report_is_chinese_throughout(pages: dict[str, str]) -> None:
    found = outline(pages["chinese"])
    assert "建议微调。" in found.text
    assert "测试集准确率（%）" in found.text, "the axis of the drawing"
    assert "LoRA-中文指令" in found.text
    chrome = re.findall(r"\b(?:the|rows|interval|accuracy|score)\b", found.text)
    assert chrome == []


def test_the_page_language_can_be_chosen() -> None:
    chinese = outline(page(run("sentiment"), "zh"))
    assert chinese.text.count("建议微调") == 1
    english = outline(page(run("chinese"), "en"))
    assert "Tune it." in english.text
    assert "6.3 points above TF-IDF" in english.text


@pytest.mark.parametrize(
    ("content", "code", "what"),
    [
        (None, "E-REPORT-001", "does not exist"),
        (b"{", "E-REPORT-002", "is not JSON: line 1, column 2"),
        (b"\xff\xfe{}", "E-REPORT-002", "is not UTF-8"),
        (b"[]", "E-REPORT-003", "has schema None"),
        (b'{"schema": "sapwood.report/9"}', "E-REPORT-003", "'sapwood.report/9'"),
        (b'{"schema": "sapwood.report/1", "task": "x"}', "E-REPORT-004", "is not complete"),
    ],
)
def test_bad_files_give_coded_errors(
    content: bytes | None, code: str, what: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(what)) as caught:
        load_report(tmp_path)
    assert caught.value.code == code
    assert caught.value.fix
    assert str(tmp_path) in caught.value.what


def test_an_incomplete_file_lists_every_problem(tmp_path: Path) -> None:
    report = {"schema": "sapwood.report/1", "task": "x", "splits": 3, "candidates": [{}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError) as caught:
        load_report(tmp_path)
    assert caught.value.details == ("'splits' is not a mapping", "candidates[0] has no name")
