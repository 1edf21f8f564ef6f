"""`sapwood init`: what is guessed of a file, what is said of it, and the settings it writes."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sapwood.commands.settings import as_toml, by_section, default_of, entries, read_file
from sapwood.commands.wording import laid_out, wrapped
from sapwood.tasks.structured import Guess, choose_guess, guess_source
from sapwood.translation import spoken

ENGLISH = "The river was quiet that morning and nobody spoke about the boat"
CHINESE = "那天早上河水很安静，没有人谈起那条船的事情"


def chat(n):
    turns = [("user", f"{ENGLISH} {n}?"), ("assistant", f"It left at {n} in the evening.")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def poem(n):
    lines = [f"The moon is late {n}", "the river keeps its bed", "a lamp goes out"]
    return {"prompt": f"Night {n}", "text": "\n".join(lines)}


ROWS = {
    "classification": lambda n: {"text": f"{ENGLISH} {n}", "label": ("calm", "loud")[n % 2]},
    "multi-label": lambda n: {"text": f"{ENGLISH} {n}", "labels": [["a", "b"], ["a"], []][n % 3]},
    "pairs": lambda n: {
        "text": f"Ann met Bo {n} times.",
        "head": {"start": 0, "end": 3, "text": "Ann"},
        "tail": {"start": 8, "end": 10, "text": "Bo"},
        "relation": ("knows", "likes")[n % 2],
    },
    "entities": lambda n: {"tokens": ["Ann", "left", "Rome", str(n)],
                           "ner_tags": ["B-PER", "O", "B-LOC", "O"]},
    "relations": lambda n: {
        "text": f"Ann lives in Rome {n}.",
        "entities": [{"start": 0, "end": 3, "type": "person"},
                     {"start": 13, "end": 17, "type": "city"}],
        "relations": [{"head": 0, "tail": 1, "type": "lives in"}],
    },
    "events": lambda n: {
        "text": f"Ann sold {n} boats.",
        "events": [{"type": "sale", "trigger": {"start": 4, "end": 8, "text": "sold"},
                    "arguments": [{"role": "seller", "start": 0, "end": 3, "text": "Ann"}]}],
    },
    "dialogue": chat,
    "story": lambda n: {"prompt": f"A fox {n}.", "story": f"{ENGLISH} {n}. " * 4},
    "poetry": poem,
}  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("task", ROWS)
def test_the_task_is_guessed_and_the_file_it_writes_is_read(sapwood, here, task):
    write(here / "data.jsonl", [ROWS[task](n) for n in range(30)])
    ran = sapwood("init", "data.jsonl", "--lang", "en")
    assert ran.code == 0, ran.err
    assert f"\nTask        {task} (" in ran.out
    assert ran.err == "Wrote sapwood.toml\nNext: sapwood adapt\n"
    values, notes = read_file(here / "sapwood.toml")
    assert values["data.task"] == task and values["data.train"] == "data.jsonl" and notes == []
    assert all(cell_len(line) <= 80 for line in ran.out.splitlines())


def test_columns_are_written_where_they_are_roles_of_the_task(sapwood, here):
    rows = [{"Review": f"{ENGLISH} {n}", "Mood": ("a", "b")[n % 2], "id": n} for n in range(12)]
    write(here / "d.jsonl", rows)
    assert sapwood("init", "d.jsonl", "--label", "Mood").code == 0
    values, _ = read_file(here / "sapwood.toml")
    assert (values["data.text"], values["data.label"]) == ("Review", "Mood")
    write(here / "ner.jsonl", [ROWS["entities"](n) for n in range(12)])
    assert sapwood("init", "ner.jsonl", "--out", "ner.toml").code == 0
    assert not {"data.text", "data.label"} & set(read_file(here / "ner.toml")[0])


@pytest.mark.parametrize(
    ("text", "task", "model", "encoder"),
    [
        (ENGLISH, "classification", "smollm2-135m", "minilm-l6"),
        (CHINESE, "classification", "gemma3-270m", None),
        ("Утром река была тихой, люди молчали около лодки", "classification", "gemma3-270m",
         "none"),
        ("Ann left Rome on a very quiet morning in May", "entities", "minilm-l6", None),
    ],
)  # fmt: skip
def test_the_base_suits_the_language_and_the_task(sapwood, here, text, task, model, encoder):
    rows = [{"text": f"{text} {n}", "label": ("x", "y")[n % 2]} for n in range(12)]
    if task == "entities":
        rows = [{"tokens": f"{text} {n}".split(), "ner_tags": ["B-PER", *["O"] * 10]}
                for n in range(12)]  # fmt: skip
    write(here / "d.jsonl", rows)
    found = json.loads(sapwood("init", "d.jsonl", "--json").out)
    assert (found["task"], found["model"], found["encoder"]) == (task, model, encoder)
    values, _ = read_file(here / "sapwood.toml")
    assert values["model.model"] == model and values.get("model.encoder") == encoder


def test_every_setting_is_in_the_file_and_its_comments_are_valid_settings(sapwood, here):
    write(here / "d.jsonl", [ROWS["classification"](n) for n in range(12)])
    for lang in ("en", "zh"):
        assert sapwood("init", "d.jsonl", "--lang", lang, "--force").code == 0
        text = (here / "sapwood.toml").read_text("utf-8")
        assert all(cell_len(line) <= 80 for line in text.splitlines())
        for section, settings in by_section():
            assert f"\n[{section}]\n" in text
            for setting in settings:
                assert f"\n{setting.key} = " in text or f"\n# {setting.key} = " in text
                assert setting.about[lang][:20] in text.replace("\n# ", " ")
        lines = [line.removeprefix("# ") if " = " in line else line for line in text.splitlines()]
        (here / "all.toml").write_text("\n".join(lines), "utf-8")
        values, _ = read_file(here / "all.toml")
        assert list(values) == list(entries())


def test_the_summary_counts_rows_labels_and_lengths(sapwood, here):
    rows = [ROWS["classification"](n) for n in range(20)]
    rows += [{"text": "", "label": "calm"}, {"text": f"{ENGLISH} " * 30, "label": "calm"}]
    write(here / "d.jsonl", rows)
    ran = sapwood("init", "d.jsonl", "--lang", "en")
    words = " ".join(ran.out.split())
    assert "Rows 21 of 22 can be used 1 lost: column 'text' empty" in words
    assert "Labels 2: calm 11, loud 10" in words
    assert "5 % longer than 256" in words
    assert "Language English 100 %" in words
    chinese = sapwood("init", "d.jsonl", "--lang", "zh", "--out", "zh.toml")
    assert "行          22 行中 21 行可用\n            舍去 1 行：列 'text' 为空" in chinese.out
    assert 'lang = "zh"' in (here / "zh.toml").read_text("utf-8")


def test_an_older_file_is_never_overwritten_without_being_told(sapwood, here):
    (here / "sapwood.toml").write_text("[run]\nseed = 3\n")
    ran = sapwood("init", "nothing.csv")
    assert ran.code == 2
    assert ran.err == (
        "E-CONFIG-188  sapwood.toml exists; it is not overwritten.\n"
        "  Fix: another --out, or --force to replace it\n"
    )
    assert (here / "sapwood.toml").read_text() == "[run]\nseed = 3\n"
    write(here / "d.jsonl", [ROWS["classification"](n) for n in range(12)])
    assert sapwood("init", "d.jsonl", "--force").code == 0
    assert 'train = "d.jsonl"' in (here / "sapwood.toml").read_text("utf-8")


def test_a_named_task_wins_and_an_alias_is_written_by_its_name(sapwood, here):
    write(here / "d.jsonl", [ROWS["entities"](n) for n in range(12)])
    assert "Why         as named" in sapwood("init", "d.jsonl", "--task", "ner").out
    assert read_file(here / "sapwood.toml")[0]["data.task"] == "entities"
    ran = sapwood("init", "d.jsonl", "--task", "nre", "--out", "x.toml")
    assert ran.code == 2 and ran.err.startswith("E-CONFIG-001  Unknown task 'nre'.")
    assert not (here / "x.toml").exists()


def test_a_file_that_fits_no_task_says_which_columns_it_looked_for(sapwood, here):
    write(here / "d.jsonl", [{"head": f"{n}", "tail": "x"} for n in range(12)])
    ran = sapwood("init", "d.jsonl")
    assert ran.code == 3 and ran.err.startswith("E-DATA-004") and "'head', 'tail'" in ran.err


def guess(task, weight, read=10):
    return Guess(task, f"looks like {task}", weight, read)


def test_which_guess_is_acted_on():
    def chosen(*guesses):
        found = choose_guess(guesses)
        return found and found.task

    assert chosen() is None
    assert chosen(guess("poetry", 3.5), guess("story", 3.0)) == "poetry"
    assert chosen(guess("story", 3.0), guess("dialogue", 2.5)) is None
    assert chosen(guess("story", 3.0), guess("dialogue", 1.5)) == "story"
    assert chosen(guess("dialogue", 4.0), guess("poetry", 3.5)) == "dialogue"
    assert chosen(guess("multi-label", 6.5), guess("classification", 6.0)) == "classification"
    fewer = guess("classification", 6.0, read=7)
    assert chosen(guess("multi-label", 6.5), fewer) == "multi-label"


@pytest.mark.parametrize("task", ROWS)
def test_guesses_are_the_same_for_any_order_of_rows(tmp_path, task):
    rows = [ROWS[task](n) for n in range(30)]
    first = guess_source(write(tmp_path / "a.jsonl", rows))
    again = guess_source(write(tmp_path / "b.jsonl", rows[::-1]))
    assert choose_guess(first).task == choose_guess(again).task == task


@given(st.text(max_size=60), st.integers(6, 40))
def test_wrapped_lines_fit_and_lose_no_letter(words, width):
    lines = wrapped(words, width)
    assert all(cell_len(line) <= width + 2 for line in lines)  # with a mark that hangs over
    assert "".join("".join(lines).split()) == "".join(words.split())


def test_a_head_longer_than_its_column_stands_on_its_own_line():
    assert laid_out("A long head", "words", column=6) == "A long head\n      words"


def test_words_that_are_not_known_stay_as_they_are():
    assert spoken("something else", "zh") == "something else"
    assert spoken("4 entities", "en") == "4 entities"


@given(
    st.recursive(
        st.text(st.characters(codec="utf-8")) | st.integers() | st.booleans()
        | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    )
)  # fmt: skip
def test_values_come_back_from_toml_as_they_were_written(value):
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return
    assert tomllib.loads(f"x = {as_toml(value)}")["x"] == value


def test_a_setting_has_a_default_or_says_what_happens_without_it():
    for setting in entries().values():
        assert default_of(setting) is not None or set(setting.unset or {}) == {"en", "zh"}
        assert default_of(setting) is not None or setting.example is not None
