"""The check finds every planted problem at once, and invents none."""

import json

import pytest

from sapwood.commands.findings import render
from sapwood.errors import ConfigError, DataError, ResourceError
from sapwood.tasks.check import check, histogram
from sapwood.tasks.labels import near_misses
from sapwood.tasks.languages import language, languages
from sapwood.tasks.mending import write_fixed
from sapwood.tasks.readers import read_examples

WORDS = (
    "river",
    "stone",
    "window",
    "garden",
    "market",
    "engine",
    "silver",
    "winter",
    "letter",
    "bridge",
)


def sentence(number: int) -> str:
    """Return one of many sentences that share few shingles."""
    first, second, third = number % 10, number // 10 % 10, number // 100 % 10
    picked = [WORDS[first], WORDS[second][::-1], WORDS[third], WORDS[(first + third) % 10][::-1]]
    return f"the {picked[0]} {picked[1]} saw {picked[2]} near {picked[3]} case {number}"


@pytest.fixture
def write(tmp_path):
    def writer(name, rows):
        path = tmp_path / name
        lines = [json.dumps({"text": t, "label": v, "id": i}) for i, (t, v) in enumerate(rows)]
        path.write_text("\n".join(lines), encoding="utf-8")
        return read_examples(path, classes=1)

    return writer


@pytest.fixture
def messy(write):
    rows = [(sentence(i), "positive" if i % 2 else "negative") for i in range(200)]
    rows[10] = (rows[10][0], "negatve")
    rows[11] = (rows[11][0], "Positive")
    rows[20] = rows[50]
    rows[31] = (rows[61][0], "negative")
    rows[40] = ("", "negative")
    rows[42] = (sentence(42), None)
    rows[70] = ("It was, by and large, a good book about sailing around the world.", "negative")
    rows[72] = ("It was by and large a good book about sailing around the world!", "negative")
    return write("messy.jsonl", rows)


def found(findings):
    return {(p.code, p.where): p for p in findings.problems}


def test_every_planted_problem_is_found_with_its_rows(messy):
    findings = check(messy)
    problems = found(findings)
    slips = {p.value: p.rows for p in findings.problems if p.code == "D-LABEL"}
    assert slips == {"negatve": (11,), "Positive": (12,)}
    assert findings.relabel == {"negatve": "negative", "Positive": "positive"}
    assert problems["D-SAME", "data"].rows == (51,)
    assert problems["D-CONFLICT", "data"].rows == (32, 62)
    assert problems["D-NEAR", "data"].rows == (73,)
    dropped = {p.what: p.rows for p in findings.problems if p.code == "D-DROPPED"}
    assert dropped == {"column 'text' empty": (41,), "column 'label' empty": (43,)}
    assert (findings.rows, findings.kept) == (200, 198)
    assert findings.warns
    assert not findings.blocks


def test_clean_data_has_no_problems(write):
    table = write("clean.jsonl", [(sentence(i), "ab"[i % 2]) for i in range(60)])
    findings = check(table)
    assert findings.problems == ()
    assert render(findings).endswith(
        "Nothing to mend. Next: sapwood adapt clean.jsonl --budget 10m"
    )


def test_leakage_into_the_test_blocks_above_one_percent(write):
    train = write("train.jsonl", [(sentence(i), "ab"[i % 2]) for i in range(200)])
    long = "a long review that says a good many things about one film and its actors"
    train = write("train.jsonl", [*((e.text, e.label) for e in train.examples), (long, "a")])
    rows = [(sentence(i), "ab"[i % 2]) for i in range(500, 699)]
    one = write("one.jsonl", [*rows, (sentence(3), "b")])
    findings = check(train, test=one)
    assert findings.leakage == {"exact": 1, "near": 0}
    assert (found(findings)["D-LEAK", "test"].level, findings.blocks) == ("warn", False)
    more = write("more.jsonl", [*rows, (sentence(3), "b"), (f"{long}!!", "a"), (sentence(5), "a")])
    findings = check(train, test=more)
    assert findings.leakage == {"exact": 2, "near": 1}
    assert findings.blocks
    assert found(findings)["D-LEAK-NEAR", "test"].rows == (201,)
    assert findings.leaked == (4, 6, 201)


def test_labels_that_only_the_test_has_are_named(write):
    train = write("train.jsonl", [(sentence(i), ("sport", "music")[i % 2]) for i in range(40)])
    test = write("test.jsonl", [("x one", "sprt"), ("y two", "politics"), ("z three", "sport")])
    findings = check(train, test=test)
    whats = [p.what for p in findings.problems if p.code == "D-UNSEEN"]
    assert whats == [
        "label 'sprt' is not in the training data: did you mean 'sport'?",
        "label 'politics' is not in the training data",
    ]
    assert found(findings)["D-TEST-SMALL", "test"].what == "only 3 test rows"


def test_small_classes_and_long_texts_warn(write):
    rows = [(sentence(i), "big") for i in range(50)] + [("word " * 200, "tiny")] * 1
    findings = check(write("s.jsonl", rows), limit_tokens=100)
    problems = found(findings)
    assert "1 class has fewer than 10 rows: 'tiny' 1" in problems["D-FEW", "data"].what
    assert problems["D-LONG", "data"].level == "note"
    assert problems["D-LONG", "data"].rows == (51,)
    counted = check(
        write("s.jsonl", rows),
        limit_tokens=5,
        count_tokens=lambda texts: [len(text.split()) for text in texts],
    )
    assert found(counted)["D-LONG", "data"].level == "warn"
    assert counted.lengths["unit"] == "tokens"
    assert sum(counted.lengths["counts"]) == 51


def test_values_are_not_classes(write):
    findings = check(write("v.jsonl", [(sentence(i), i / 100) for i in range(40)]))
    problem = found(findings)["D-CLASSES", "data"]
    assert problem.what == "40 different labels in 40 rows: '0', '0.01', '0.02', ..."
    assert findings.blocks


def test_near_misses_spare_real_classes():
    assert near_misses({"positive": 500, "postive": 4}) == {"postive": "positive"}
    assert near_misses({"postive": 30, "positive": 40}) == {}
    assert near_misses({"relevant": 500, "irrelevant": 4}) == {}
    assert near_misses({"topic 1": 500, "topic 2": 4}) == {}
    assert near_misses({"flight": 500, "flight_no": 4}) == {}
    assert near_misses({"A": 500, "A-": 4, "1": 40, "-1": 2, "C": 40, "C#": 2}) == {}
    assert near_misses({"very good": 9, "Very_Good": 2, "very  good": 1}) == {
        "Very_Good": "very good",
        "very  good": "very good",
    }


def test_languages_tell_chinese_from_english():
    assert language("搜索最新新闻") == "zh"
    assert language("请帮我打开uc") == "zh"
    assert language("面白かったです") == "ja"
    assert language("정말 좋은 영화예요") == "ko"
    assert language("ok") is None
    english = [f"this is a rather long sentence about a film number {i}" for i in range(80)]
    assert languages(english) == {"en": 1.0}
    german = ["das ist ein ziemlich langer Satz über einen Film, der mir gefiel"] * 20
    shares = languages(english + german)
    assert shares == {"en": 0.8, "de": 0.2}


def test_mixed_languages_warn(write):
    rows = [(sentence(i), "ab"[i % 2]) for i in range(60)]
    rows += [(f"这部电影的第{i}幕很好看，值得推荐", "a") for i in range(20)]
    assert "D-LANGUAGES" in {p.code for p in check(write("m.jsonl", rows)).problems}


def test_rendering_keeps_to_80_columns(messy, write):
    from rich.cells import cell_len

    rows = [
        (f"第{i}条评论说这家酒店的房间非常干净而且服务员都很热情" * 3, f"标签{'很长' * 20}{i % 2}")
        for i in range(30)
    ]
    rows[3] = rows[4]
    for table in (messy, write("zh.jsonl", rows)):
        text = render(check(table, limit_tokens=20))
        assert max(map(cell_len, text.splitlines())) <= 80
    text = render(check(messy))
    assert text.splitlines()[0] == "messy.jsonl: 198 of 200 rows can be used"
    assert "• 1 row: label 'negatve': did you mean 'negative'?" in text
    assert text.splitlines()[-1] == "Fix: run the same command again with --fix clean.jsonl"


def test_json_is_complete(messy):
    content = json.loads(json.dumps(check(messy).to_json()))
    assert content["schema"] == "sapwood.check/1"
    assert content["labels"] == {"positive": 98, "negative": 98, "Positive": 1, "negatve": 1}
    assert {"code", "level", "what", "count", "rows", "value", "cause", "fix"} <= set(
        content["problems"][0]
    )


@pytest.mark.parametrize("name", ["clean.jsonl", "clean.csv", "clean.tsv", "clean.json"])
def test_the_fixed_file_checks_clean(messy, tmp_path, name):
    findings = check(messy)
    done = write_fixed(findings, messy, tmp_path / name)
    again = read_examples(tmp_path / name)
    assert again.rows == len(again.examples) == 197
    assert again.columns.found == ("text", "label", "id")
    assert set(again.labels) == {"positive", "negative"}
    assert {p.code for p in check(again).problems} == {"D-CONFLICT", "D-NEAR"}
    assert done == (
        f"wrote 197 rows to {tmp_path / name}",
        "replaced the label 'Positive' by 'positive' in 1 row",
        "replaced the label 'negatve' by 'negative' in 1 row",
        "left out 1 row that repeat a text with its label",
        "left out 1 row: column 'text' empty",
        "left out 1 row: column 'label' empty",
        "left as they are: 2 rows with the same text with different labels",
    )


def test_the_source_is_never_overwritten(messy, tmp_path):
    findings = check(messy)
    before = (tmp_path / "messy.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="source itself"):
        write_fixed(findings, messy, tmp_path / "messy.jsonl")
    with pytest.raises(ConfigError, match="suffix names no known format"):
        write_fixed(findings, messy, tmp_path / "out.xlsx")
    assert (tmp_path / "messy.jsonl").read_bytes() == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError):
        write_fixed(findings, messy, tmp_path / "file" / "out.jsonl")
    (tmp_path / "messy.jsonl").write_text("changed")
    with pytest.raises(DataError, match="has changed since it was read"):
        write_fixed(findings, messy, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_histogram_covers_every_length():
    assert histogram([]) == ([], [])
    counts, edges = histogram([0, 5, 100, 399])
    assert len(edges) == len(counts) + 1
    assert (sum(counts), edges[0], edges[-1] > 399, len(counts)) == (4, 0, True, 20)
