"""What a file is seen to hold, what is mended, a row that is added, and the cheap baselines."""

import json
import random
import re

import pytest
from tests.studio.conftest import WORDS

from sapwood.errors import DataError
from sapwood.studio.adding import add
from sapwood.studio.baseline import Baselines, measure
from sapwood.studio.forms import Form
from sapwood.studio.looking import blocked, look, mend
from sapwood.studio.questions import ONE, PAIR, TWO, question_of
from sapwood.tasks.bio import HEAD, TAIL


def one(text):
    return question_of(Form([("text", text)]), ONE)


def test_a_file_is_seen_once_until_it_changes(take, reviews, workspace):
    project = take(reviews)
    seen = look(project)
    assert (seen["task"], seen["rows"], seen["kept"]) == ("classification", 120, 120)
    assert seen["roles"] == {"text": "text", "label": "label"} and len(seen["head"]) == 8
    assert seen["findings"]["labels"] == {"negative": 60, "positive": 60}
    assert not blocked(seen)
    kept = project.folder / "look.json"
    kept.write_text(kept.read_text().replace('"rows": 120', '"rows": 7'))
    assert look(project)["rows"] == 7
    assert look(project.save(task="story"))["task"] == "story"


def test_what_cannot_be_read_is_told_with_the_name_its_owner_gave_it(take, tmp_path):
    path = tmp_path / "Odd One.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    seen = look(take(path))
    assert blocked(seen) and seen["columns"] == ["a", "b"]
    assert seen["error"]["error"] == "E-DATA-004" and "odd-one" not in json.dumps(seen["error"])
    assert seen["error"]["what"].startswith("Odd One.csv: cannot tell which columns")


def test_columns_can_be_named(take, tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text("what,kind\n" + "".join(f"word {n},{'xy'[n % 2]}\n" for n in range(40)))
    project = take(path)
    assert look(project)["error"]
    seen = look(project.save(columns={"text": "what", "label": "kind"}))
    assert seen["error"] is None and seen["roles"] == {"what": "text", "kind": "label"}


def test_a_data_file_that_is_gone_is_told(take, reviews):
    project = take(reviews)
    project.data.unlink()
    with pytest.raises(DataError, match="is gone"):
        look(project)


def test_what_can_be_mended_is_mended_in_the_copy(take, write_rows, tmp_path, workspace):
    rows = [(f"text number {n}", ("good", "bad")[n % 2]) for n in range(60)]
    rows += [("text number 0", "good"), ("another text", "goood"), ("", "bad")]
    project = take(write_rows(tmp_path / "r.csv", rows))
    done = mend(project)
    assert any("'goood' by 'good'" in line for line in done)
    changed = workspace.project(project.id)
    assert changed.file == "r-mended.jsonl" and not project.data.exists()
    seen = look(changed)
    assert (seen["rows"], seen["kept"]) == (61, 61)
    assert set(seen["findings"]["labels"]) == {"good", "bad"}


def test_a_labelled_row_is_added_and_read_back(take, reviews, workspace):
    project = take(reviews)
    assert add(project, one("a fine day"), "positive") == 121
    assert add(workspace.project(project.id), one("an odd\nday"), "odd") == 122
    changed = workspace.project(project.id)
    rows = [json.loads(line) for line in changed.data.read_text("utf-8").splitlines()]
    assert rows[-2:] == [
        {"text": "a fine day", "label": "positive"},
        {"text": "an odd\nday", "label": "odd"},
    ]
    assert look(changed)["findings"]["labels"]["odd"] == 1


def test_entities_are_added_as_the_file_writes_them(take, entities, workspace, tmp_path):
    project = take(entities)
    assert add(project, one("Then Ada left."), "PER: Ada") == 61
    changed = workspace.project(project.id)
    last = json.loads(changed.data.read_text("utf-8").splitlines()[-1])
    assert last["entities"] == [{"start": 5, "end": 8, "label": "PER"}]
    tagged = tmp_path / "tags.conll"
    tagged.write_text("".join(f"Ada B-PER\nran O\n{n} O\n\n" for n in range(30)))
    other = take(tagged)
    assert look(other)["task"] == "entities"
    assert add(other, one("Ada Byron ran."), "PER: Ada Byron") == 31
    other = workspace.project(other.id)
    last = json.loads(other.data.read_text("utf-8").splitlines()[-1])
    assert last == {
        "tokens": ["Ada", "Byron", "ran", "."],
        "ner_tags": ["B-PER", "I-PER", "O", "O"],
    }


def test_several_labels_are_added(take, tmp_path, workspace):
    path = tmp_path / "many.jsonl"
    rows = [{"text": f"t {n}", "labels": ["a", "b"][: 1 + n % 2]} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    project = take(path).save(task="multi-label")
    assert add(project, one("new"), "a\nb\n") == 41
    last = json.loads(workspace.project(project.id).data.read_text("utf-8").splitlines()[-1])
    assert last == {"text": "new", "labels": ["a", "b"]}


@pytest.mark.parametrize(
    ("text", "answer", "told"),
    [
        ("", "positive", "E-DATA-303  There is no text."),
        ("a", " \n ", "E-DATA-303  There is no answer."),
    ],
)
def test_rows_without_words_are_refused(take, reviews, text, answer, told):
    project = take(reviews)
    before = project.data.read_bytes()
    with pytest.raises(DataError) as error:
        add(project, one(text), answer)
    assert str(error.value).startswith(told) and project.data.read_bytes() == before


def test_conversations_are_added_and_what_is_not_says_so(take, tmp_path, workspace):
    path = tmp_path / "talk.jsonl"
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path.write_text("\n".join(json.dumps({"messages": turns}) for _ in range(30)))
    project = take(path)
    assert look(project)["task"] == "dialogue"
    assert add(project, one("How are you?"), "Fine.\nAnd you?") == 31
    project = workspace.project(project.id)
    assert json.loads(project.data.read_text("utf-8").splitlines()[-1])["messages"] == [
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "Fine.\nAnd you?"},
    ]


def last_row(workspace, project):
    return json.loads(workspace.project(project.id).data.read_text("utf-8").splitlines()[-1])


def written(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_two_texts_are_added(take, tmp_path, workspace):
    rows = [{"premise": f"p {n}", "hypothesis": f"h {n}", "label": "yn"[n % 2]} for n in range(40)]
    project = take(written(tmp_path / "two.jsonl", rows))
    asked = question_of(Form([("text", "new"), ("text_pair", "other")]), TWO)
    assert add(project, asked, "y") == 41
    assert last_row(workspace, project) == {"premise": "new", "hypothesis": "other", "label": "y"}


@pytest.mark.parametrize(
    "fields",
    [
        [("text", "Bo met Ann."), ("head", "Ann"), ("tail", "Bo")],
        [("text", "[E2]Bo[/E2] met [E1]Ann[/E1].")],
    ],
)
def test_marked_pairs_are_added(take, tmp_path, workspace, fields):
    rows = [
        {"text": f"A{n} saw B.", "head": {"start": 0, "end": 2}, "tail": "B",
         "relation": "kl"[n % 2]}
        for n in range(10)
    ] * 4  # fmt: skip
    project = take(written(tmp_path / "pairs.jsonl", rows)).save(task="pairs")
    fields = [(name, re.sub(r"\[(/?)E([12])\]", marks_as_rows_have_them, value))
              for name, value in fields]  # fmt: skip
    assert add(project, question_of(Form(fields), PAIR), "k") == 41
    assert last_row(workspace, project) == {
        "text": "Bo met Ann.", "relation": "k", "head": {"start": 7, "end": 10, "text": "Ann"},
        "tail": {"start": 0, "end": 2, "text": "Bo"},
    }  # fmt: skip


def marks_as_rows_have_them(found):
    return (HEAD if found[2] == "1" else TAIL)[1 if found[1] else 0]


TYPED = {
    "text": "Ann lives in Rome.",
    "entities": [{"start": 0, "end": 3, "type": "person"},
                 {"start": 13, "end": 17, "type": "city"}],
    "relations": [{"head": 0, "tail": 1, "type": "lives in"}],
}  # fmt: skip
SOLD = {
    "text": "Ann sold her boat.",
    "events": [{"type": "sale", "trigger": {"start": 4, "end": 8, "text": "sold"},
                "arguments": [{"role": "seller", "start": 0, "end": 3, "text": "Ann"}]}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "row", "text", "answer", "other", "wanted"),
    [
        (
            "relations", TYPED, "李白 lives in 碎叶.", "lives in: 李白 (person) -> 碎叶 (city)",
            "relations",
            [{"type": "lives in",
              "head": {"start": 0, "end": 2, "text": "李白", "type": "person"},
              "tail": {"start": 12, "end": 14, "text": "碎叶", "type": "city"}}],
        ),
        ("relations", TYPED, "Nobody is there.", "", "relations", []),
        (
            "events", SOLD, "Bo sold it.", "sale: sold | seller: Bo", "events",
            [{"type": "sale", "trigger": {"start": 3, "end": 7, "text": "sold"},
              "arguments": [{"role": "seller", "start": 0, "end": 2, "text": "Bo"}]}],
        ),
    ],
)  # fmt: skip
def test_relations_and_events_are_added(
    take, tmp_path, workspace, task, row, text, answer, other, wanted
):
    rows = [{**row, "text": f"{row['text']} {n}"} for n in range(40)]
    project = take(written(tmp_path / "said.jsonl", rows)).save(task=task)
    assert add(project, one(text), answer) == 41
    found = last_row(workspace, project)
    assert found == {"text": text, other: wanted}
    assert look(workspace.project(project.id))["kept"] == 41


def test_the_baselines_are_those_of_a_run_on_the_same_rows(take, reviews, small_run):
    found = measure(take(reviews))
    report = json.loads((small_run.out / "report.json").read_text())
    dev = {c["name"]: c["dev"] for c in report["candidates"]}
    assert found["splits"] == [66, 30, 24] and found["metric"] == "accuracy"
    for row in found["rows"]:
        wanted = dev[row["name"]]
        assert [row[k] for k in ("value", "low", "high")] == pytest.approx(
            [wanted[k] for k in ("value", "low", "high")]
        )


def test_baselines_of_spans_texts_and_several_labels(take, entities, tmp_path):
    assert [r["name"] for r in measure(take(entities))["rows"]] == ["dictionary"]
    story = tmp_path / "s.jsonl"
    rng = random.Random(0)
    rows = [{"prompt": " ".join(rng.sample(WORDS, 5)), "text": " ".join(rng.sample(WORDS, 8))}
            for _ in range(60)]  # fmt: skip
    story.write_text("\n".join(map(json.dumps, rows)))
    found = measure(take(story).save(task="story"))
    assert found["metric"] == "bits_saved" and found["rows"][0]["name"] == "n-gram"
    assert 0 < found["rows"][0]["value"] < 1
    many = tmp_path / "many.jsonl"
    rows = [{"text": " ".join([("one", "two")[n % 2], *rng.sample(WORDS, 5)]),
             "labels": ["ab"[n % 2]]} for n in range(80)]  # fmt: skip
    many.write_text("\n".join(map(json.dumps, rows)))
    found = measure(take(many).save(task="multi-label"))
    assert found["rows"][0]["value"] == 1.0


def test_baselines_are_measured_once_and_kept(take, reviews):
    project, baselines = take(reviews), Baselines()
    assert baselines.known(project)["state"] == "none"
    baselines.begin(project)
    baselines.wait(project, 60)
    assert baselines.known(project)["state"] == "done"
    assert Baselines().known(project)["rows"][1]["name"] == "tf-idf"
    assert (
        Baselines().known(project.save(columns={"text": "label", "label": "text"}))["state"]
        == "none"
    )


def test_baselines_that_fail_say_why(take, tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("text,label\n" + "".join(f"word {n},same\n" for n in range(20)))
    project, baselines = take(path), Baselines()
    baselines.begin(project)
    baselines.wait(project, 60)
    known = baselines.known(project)
    assert known["state"] == "failed" and known["error"]["error"] == "E-DATA-010"
