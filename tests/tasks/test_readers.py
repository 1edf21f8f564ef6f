"""Files as people really have them: what is read, what is dropped and why, what is refused."""

import json
import time
from pathlib import Path

import pytest

from sapwood.errors import DataError, ResourceError
from sapwood.tasks.readers import clean_label, find_files, read_examples, read_folder

GOOD = "text,label\ngood film,positive\nbad film,negative\n"


@pytest.fixture
def write(tmp_path):
    def writer(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return writer


def rows(table):
    return [(e.row, e.text, e.label) for e in table.examples]


PLAIN = [(1, "good film", "positive"), (2, "bad film", "negative")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", GOOD),
        ("bom.csv", b"\xef\xbb\xbf" + GOOD.encode()),
        ("crlf.csv", GOOD.replace("\n", "\r\n")),
        ("cr.csv", GOOD.replace("\n", "\r")),
        ("utf16.csv", GOOD.encode("utf-16")),
        ("utf32.csv", GOOD.encode("utf-32")),
        ("spaces.csv", GOOD.replace("text,label", ' text ,"\u200blabel "')),
        ("upper.csv", GOOD.replace("text,label", "TEXT,Label")),
        ("edges.csv", "text,label\n  good film\u3000,positive \nbad film,\u00a0negative\n"),
        ("semicolon.csv", GOOD.replace(",", ";")),
        ("sep.csv", "sep=;\r\n" + GOOD.replace(",", ";")),
        ("no_last_newline.csv", GOOD.rstrip("\n")),
        ("blank_end.csv", GOOD + "\n\n\r\n"),
        ("excel.csv", "text,label,,\ngood film,positive,,\nbad film,negative,,\n"),
        ("plain.tsv", GOOD.replace(",", "\t")),
        ("wide.csv", "id,text,label\n1,good film,positive\n2,bad film,negative\n"),
        (
            "a.jsonl",
            '{"text":"good film","label":"positive"}\r\n{"label":"negative","text":"bad film"}',
        ),
        (
            "a.json",
            '[{"text":"good film","label":"positive"},{"text":"bad film","label":["negative"]}]',
        ),
        (
            "lines.json",
            '{"text":"good film","label":"positive"}\n{"text":"bad film","label":"negative"}\n',
        ),
        (
            "list.jsonl",
            '[{"text":"good film","label":"positive"},{"text":"bad film","label":"negative"}]',
        ),
        (
            "data.json",
            '{"version":1,"data":[{"text":"good film","label":"positive"}, \
{"text":"bad film","label":"negative"}]}',
        ),
        ("columns.json", '{"text":["good film","bad film"],"label":["positive","negative"]}'),
    ],
)
def test_same_rows_from_every_shape(write, name, content):
    table = read_examples(write(name, content))
    assert rows(table) == PLAIN
    assert table.labels == ("negative", "positive")
    assert (table.rows, table.dropped, len(table.sha256)) == (2, (), 64)


def test_gb18030_is_read_with_a_note(write):
    content = "文本,标签\n这家酒店的服务非常好，下次还来,好评\n房间太小，很失望,差评\n"
    table = read_examples(write("gbk.csv", content.encode("gbk")))
    assert table.examples[0].text == "这家酒店的服务非常好，下次还来"
    assert table.labels == ("好评", "差评")
    assert table.columns.why == "text: '文本' by name; label: '标签' by name"
    assert table.notes == ("read as GB 18030 (Chinese), since the bytes are not UTF-8",)


def test_latin_1_is_not_taken_for_chinese(write):
    path = write("latin.csv", "text,label\nlovely,positive\ncafé crème,negative\n".encode("cp1252"))
    with pytest.raises(DataError) as caught:
        read_examples(path)
    assert caught.value.code == "E-DATA-003"
    assert "latin.csv:3:4 is not UTF-8 (byte 0xE9)" in str(caught.value)
    assert "iconv -f windows-1252 -t utf-8 latin.csv" in caught.value.fix


def test_one_broken_byte_in_chinese_utf_8_is_located(write):
    content = "text,label\n很好,1\n".encode() + b"\xe5\xbe,0\n" + "不错不错,1\n".encode()
    with pytest.raises(DataError, match=r"broken\.csv:3:1 is not UTF-8"):
        read_examples(write("broken.csv", content))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\x03\x04" + bytes(100), "Excel workbook"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"%PDF-1.7\n", "PDF"),
        (bytes(range(32)) * 50, "binary file"),
        (GOOD.encode("utf-16-le"), "UTF-16 without its byte order mark"),
    ],
)
def test_binary_files_are_named_and_refused(write, content, kind):
    with pytest.raises(DataError, match=kind) as caught:
        read_examples(write("reviews.csv", content))
    assert caught.value.code == "E-DATA-002"
    assert caught.value.fix


def test_unusable_rows_are_dropped_with_reason_and_number(write):
    content = (
        "text,label\nfine,positive\n,negative\nno label,\n\nragged\ntoo,many,fields\n"
        'nul\x00byte,negative\n"stray"quote,negative\nbad,negative\n'
    )
    table = read_examples(write("mixed.csv", content))
    assert rows(table) == [(1, "fine", "positive"), (9, "bad", "negative")]
    assert {d.reason: d.rows for d in table.dropped} == {
        "column 'text' empty": (2,),
        "column 'label' empty": (3,),
        "the line is empty": (4,),
        "fewer fields than the 2 of the first line": (5,),
        "more fields than the 2 of the first line (an unquoted ','?)": (6,),
        "column 'text' holds NUL bytes": (7,),
        "its quotes cannot be read (',' expected after '\"')": (8,),
    }
    assert table.rows == 9 == len(table.examples) + sum(len(d.rows) for d in table.dropped)


def test_json_values_of_every_type(write):
    lines = [
        {"text": "one", "label": 1},
        {"text": "two", "label": 0.0},
        {"text": 3, "label": "1.0"},
        {"text": {"nested": "x"}, "label": 1},
        {"text": ["a"], "label": 1},
        {"text": "four", "label": {"a": 1}},
        {"text": "five", "label": ["a", "b"]},
        {"text": "six", "label": None},
        {"text": None, "label": 1},
        {"label": 1},
        {"text": "seven \ud800", "label": 1},
    ]
    content = "\n".join([*map(json.dumps, lines), "{broken", "[1, 2]"])
    table = read_examples(write("types.jsonl", content))
    assert rows(table) == [(1, "one", "1"), (2, "two", "0"), (3, "3", "1")]
    assert {d.reason: d.rows for d in table.dropped} == {
        "column 'text' holds an object, not text": (4,),
        "column 'text' holds a list, not text": (5,),
        "column 'label' holds an object, not a label": (6,),
        "column 'label' holds several labels (one a row is supported)": (7,),
        "column 'label' empty": (8,),
        "column 'text' empty": (9, 10),
        "half of a surrogate pair, a broken character": (11,),
        "not JSON (Expecting property name enclosed in double quotes)": (12,),
        "not an object with named values but a list": (13,),
    }


def test_labels_become_text():
    assert [clean_label(v) for v in (1, 0, 1.0, "2.0", 0.5, True, " a\u00a0", "", None, [])] == [
        "1", "0", "1", "2", "0.5", "true", "a", None, None, None,
    ]  # fmt: skip
    assert clean_label(float("nan")) is None
    assert [clean_label(v, ("no", "yes")) for v in (0, 1, -1, 2)] == ["no", "yes", None, None]


def test_numeric_labels_are_in_order_of_value(write):
    content = "text,label\n" + "".join(f"row {i},{i}\n" for i in (10, 9, 1, 0))
    assert read_examples(write("n.csv", content)).labels == ("0", "1", "9", "10")


def test_unclosed_quote_is_located(write):
    with pytest.raises(DataError) as caught:
        read_examples(write("open.csv", 'text,label\nfine,a\n"never closed,b\nmore,a\n'))
    assert caught.value.code == "E-DATA-008"
    assert "open.csv:3: a quote is opened and never closed" in str(caught.value)


def test_quoted_fields_may_hold_commas_quotes_and_lines(write):
    content = 'text,label\n"good, ""really""\r\nvery good",positive\nbad,negative\n'
    assert read_examples(write("q.csv", content)).examples[0].text == 'good, "really"\nvery good'


def test_unpaired_quotes_in_a_tsv_are_plain_characters(write):
    table = read_examples(write("q.tsv", 'text\tlabel\n"Great" film\ta\n"so long\tb\nend"\ta\n'))
    assert [e.text for e in table.examples] == ['"Great" film', '"so long', 'end"']
    assert table.notes == ("quotes are read as plain characters, since they do not pair up",)


def test_a_huge_field_is_read(write):
    text = "word " * 100_000
    table = read_examples(write("huge.csv", f"text,label\n{text},a\nshort,b\n"))
    assert len(table.examples[0].text) == len(text.strip())


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("empty.csv", "", "E-DATA-007", "empty.csv is empty"),
        ("blank.csv", "\n\n\n", "E-DATA-007", "holds no rows"),
        ("header.csv", "text,label\n", "E-DATA-007", "and no rows"),
        ("empty.json", "[]", "E-DATA-007", "holds no rows"),
        ("one.csv", "text,label\na,x\nb,x\n", "E-DATA-010", "all 2 usable rows have the label 'x'"),
        ("column.csv", "text\na\nb\n", "E-DATA-004", "no column looks like the label"),
        ("headless.csv", "I like it,good\nI hate it,bad\n", "E-DATA-004", "needs a first line"),
        ("double.csv", "text,text,label\na,b,x\n", "E-DATA-005", "columns 1 and 2 are both named"),
        ("two.csv", "review,comment,label\na,b,x\n", "E-DATA-005", "'review' or 'comment'"),
        ("object.json", '{"train": [{"text": "a"}], "test": []}', "E-DATA-009", "'train', 'test'"),
        ("broken.json", '[{"text": "a",}]', "E-DATA-009", "broken.json:1:"),
        ("strings.json", '["a", "b"]', "E-DATA-009", "not of objects"),
        ("text.jsonl", "hello\nworld\n", "E-DATA-009", "no line is a JSON object"),
        ("notes.txt", "hello", "E-DATA-002", "cannot read this kind of file"),
        ("fake.parquet", "hello", "E-DATA-002", "cannot read this as Parquet"),
        ("broken.parquet", "PAR1 and nothing", "E-DATA-002", "broken Parquet"),
    ],
)
def test_unusable_files_say_why(write, name, content, code, said):
    with pytest.raises(DataError) as caught:
        read_examples(write(name, content))
    assert caught.value.code == code
    assert said in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_file_that_may_not_be_read_is_told(write, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = write("a.csv", GOOD)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"Cannot read .*a\.csv: Permission denied"):
        read_examples(path)


def test_a_missing_file_has_a_near_miss(write):
    path = write("reviews.csv", GOOD)
    with pytest.raises(DataError, match=r"Did you mean 'reviews\.csv'") as caught:
        read_examples(path.with_name("review.csv"))
    assert caught.value.code == "E-DATA-001"


def test_no_usable_row_gives_all_reasons(write):
    with pytest.raises(DataError) as caught:
        read_examples(write("none.csv", "text,label\n,a\n,b\nx,\n"))
    assert str(caught.value) == (
        "E-DATA-014  none.csv: none of 3 rows can be used\n"
        "  • 2 rows: column 'text' empty (rows 1, 2)\n"
        "  • 1 row: column 'label' empty (row 3)\n"
        "  • columns in use: text: 'text' by name; label: 'label' by name\n"
        "  Fix: mend these rows, or choose other columns with --text and --label"
    )


def test_named_columns(write):
    path = write("n.csv", "a,b,text,label\nx,1,y,2\nz,3,w,4\n")
    assert rows(read_examples(path, text="a", label="B")) == [(1, "x", "1"), (2, "z", "3")]
    with pytest.raises(DataError, match="cannot tell") as caught:
        read_examples(path, text="tex", label="label")
    assert "there is no column 'tex'. Did you mean 'text'?" in caught.value.details
    assert caught.value.code == "E-DATA-006"


def test_labels_are_optional_when_not_needed(write):
    table = read_examples(write("p.csv", "text,label\na,x\nb,\n"), need_label=False)
    assert rows(table) == [(1, "a", "x"), (2, "b", None)]
    table = read_examples(write("t.csv", "review\na\nb\n"), need_label=False)
    assert table.columns.label is None
    assert table.labels == ()


def test_first_rows_and_samples(write):
    path = write("many.csv", "text,label\n" + "".join(f"row {i},{i % 2}\n" for i in range(100)))
    assert [e.row for e in read_examples(f"{path}[:10]").examples] == list(range(1, 11))
    sample = read_examples(f"{path}#20")
    assert len(sample.examples) == 20
    assert sample.notes == ("a sample of 20 of 100 usable rows, by content hash",)
    turned = write(
        "d.csv", "text,label\n" + "".join(f"row {i},{i % 2}\n" for i in range(99, -1, -1))
    )
    again = read_examples(f"{turned}#20")
    assert {e.text for e in again.examples} == {e.text for e in sample.examples}


def test_a_hash_in_a_real_name_is_no_sample(write):
    assert read_examples(write("odd#5", GOOD).rename(write("x", "").with_name("a#5.csv"))).rows == 2


def test_parquet_with_class_names(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    feature = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    info = {"info": {"features": {"label": feature, "sentence": {"_type": "Value"}}}}
    table = arrow.table({"sentence": ["a", "b", "c"], "label": [1, 0, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    write_table(table, tmp_path / "x.parquet")
    read = read_examples(tmp_path / "x.parquet")
    assert rows(read) == [(1, "a", "pos"), (2, "b", "neg")]
    assert read.dropped[0].rows == (3,)


def test_extras_are_named(monkeypatch, write):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ResourceError, match="no file here") as caught:
        read_examples("stanfordnlp/imdb")
    assert caught.value.fix.startswith("pip install 'sapwood[datasets]'")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ResourceError) as caught:
        read_examples(write("a.parquet", b"PAR1"))
    assert caught.value.fix == "pip install 'sapwood[parquet]'"


def test_hub_data_sets_are_read_with_class_names(monkeypatch):
    class Feature:
        names = ("neg", "pos")

    class Loaded(list):
        features = {"text": None, "label": Feature()}  # noqa: RUF012
        column_names = ("text", "label")

    asked = []

    class Module:
        @staticmethod
        def load_dataset(name, split):
            asked.append((name, split))
            return Loaded([{"text": "a", "label": 1}, {"text": "b", "label": 0}])

    monkeypatch.setitem(__import__("sys").modules, "datasets", Module)
    assert rows(read_examples("owner/name:test")) == [(1, "a", "pos"), (2, "b", "neg")]
    assert asked == [("owner/name", "test")]


def test_folders_are_read_by_name(write, tmp_path):
    for name in ("reviews-train.csv", "validation.csv", "Test.csv"):
        write(name, GOOD)
    write("dataset_info.json", '{"splits": {"train": {}}}')
    write("training_args.md", "x")
    found = find_files(tmp_path)
    assert {k: p.name for k, p in found.items()} == {
        "train": "reviews-train.csv",
        "dev": "validation.csv",
        "test": "Test.csv",
    }
    assert {k: len(t.examples) for k, t in read_folder(tmp_path).items()} == {
        "train": 2, "dev": 2, "test": 2,
    }  # fmt: skip
    assert len(read_examples(tmp_path).examples) == 2


def test_folders_without_a_clear_train_file_are_refused(write, tmp_path):
    write("a.csv", GOOD)
    assert find_files(tmp_path) == {"train": tmp_path / "a.csv"}
    write("b.csv", GOOD)
    with pytest.raises(DataError, match="holds no train file") as caught:
        find_files(tmp_path)
    assert caught.value.details == ("found: a.csv, b.csv",)
    write("train.csv", GOOD)
    write("train.jsonl", "{}")
    with pytest.raises(DataError, match=r"several files for 'train': train\.csv, train\.jsonl"):
        find_files(tmp_path)


def test_time_grows_with_rows_only(write):
    line = "a review of some words and a few more,positive\n"
    path = write("big.csv", "text,label\n" + line * 50_000 + "bad,negative\n")
    start = time.perf_counter()
    assert read_examples(path).rows == 50_001
    assert time.perf_counter() - start < 5  # 0.25 s on one quiet core
