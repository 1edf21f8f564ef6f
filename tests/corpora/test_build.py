"""A whole build: every source, every drop counted, stopped anywhere, by any number of workers."""

import contextlib
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sapwood.corpora import gathering, reading
from sapwood.corpora.build import Share, build
from sapwood.corpora.corpus import Corpus
from sapwood.corpora.settings import Settings
from sapwood.corpora.shelf import read_rows
from sapwood.corpora.sources import find_sources
from sapwood.errors import ConfigError, DataError, ResourceError


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Pieces and shards small enough that a test has several."""
    monkeypatch.setattr(reading, "RECORDS", 8)
    monkeypatch.setattr(gathering, "SHARD", 12_000)


def rows_of(out):
    return [row for path in sorted((out / "documents").iterdir()) for row in read_rows(path)]


def drops_of(out):
    return list(read_rows(out / "drops.jsonl.gz"))


def test_every_kind_of_source_ends_in_one_corpus(make, sources):
    out, card = make(sources)
    rows = rows_of(out)
    found = {}
    for row in rows:
        found.setdefault(row["source"], []).append(row["id"])
    assert {source: len(ids) for source, ids in found.items()} == {
        "wiki": 13,
        "crawl": 8,
        "texts": 8,
        "tale": 1,
        "rows": 6,
        "books": 2,
    }
    assert found["wiki"][0] == "wiki#1" and found["books"] == ["books/one.txt", "books/two.txt"]
    assert len({row["id"] for row in rows}) == len(rows)
    assert [(d["id"], d["reason"], d["step"]) for d in drops_of(out)] == [
        ("wiki#14", "redirect", "extract"),
        ("crawl#9", "exact duplicate", "duplicates"),
    ]
    assert drops_of(out)[1]["detail"] == "of crawl#1"
    counts = card["counts"]
    assert (counts["records"], counts["documents"], counts["dropped"]) == (40, 38, 2)
    assert counts["documents"] == counts["train"]["documents"] + counts["held"]["documents"]
    assert set(card["languages"]) == {"en", "zh"}
    corpus = Corpus.open(out)
    assert len(corpus.part("train")) + len(corpus.part("held")) == 38
    assert corpus.part("train").bytes + corpus.part("held").bytes == counts["bytes"]
    assert len(card["documents"]) > 1 and not (out / ".build").exists()
    for name, content in ((s["name"], s["sha256"]) for s in card["documents"]):
        assert (out / "documents" / f"{name}.jsonl.gz").is_file() and len(content) == 64


def test_documents_keep_the_order_of_the_sources_and_say_what_they_are(make, sources):
    out, _ = make(sources)
    rows = rows_of(out)
    order = list(dict.fromkeys(row["source"] for row in rows))
    assert order == ["wiki", "crawl", "texts", "tale", "rows", "books"]
    first = rows[0]
    assert set(first) == {"id", "text", "source", "language", "title", "url", "part"}
    assert first["url"] == "https://en.wikipedia.org/wiki/Article_0"
    tokens = Corpus.open(out)
    train = [row for row in rows if row["part"] == "train"]
    part = tokens.part("train")
    for at in (0, len(train) // 2, len(train) - 1):
        assert part.document(at).bytes == len(train[at]["text"].encode())


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_other_tokenizers(make, sources, kind):
    out, card = make(sources[2:5], tokenizer=kind)
    assert card["tokenizer"]["kind"] == kind
    assert Corpus.open(out).vocabulary == card["tokenizer"]["vocabulary"] <= 800


def test_two_workers_give_the_bytes_of_one(make, sources, kit):
    one, _ = make(sources, name="one", workers=1)
    two, _ = make(sources, name="two", workers=2)
    assert kit.contents(one) == kit.contents(two)


class Stop(BaseException):
    """A kill, as far as the code can see: no handler of errors catches it."""


def marks(out):
    """Return the names of what is finished in a build, in the order it is written."""
    return sorted(
        p.relative_to(out).as_posix() for p in out.rglob("*.json") if ".part" not in p.name
    )


@pytest.mark.parametrize("stop_at", [1, 2, 4, 7, 9, 12, 15, 18, 22])
def test_a_build_stopped_anywhere_goes_on_and_ends_in_the_same_bytes(
    make, sources, kit, monkeypatch, stop_at
):
    whole, _ = make(sources, name="whole")
    from sapwood.corpora import shelf

    writes = 0
    replace = Path.replace

    def counted(self, target):
        nonlocal writes
        writes += 1
        if writes == stop_at:
            raise Stop
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        with contextlib.suppress(Stop):
            make(sources, name="stopped")
    assert shelf.LEVEL == 6
    stopped, _ = make(sources, name="stopped")
    assert kit.contents(stopped) == kit.contents(whole)


def test_what_is_finished_is_not_done_again(make, sources, monkeypatch):
    from sapwood.corpora import build as building

    def refuse(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(building, "train", refuse)
        with pytest.raises(Stop):
            make(sources)
    done = []
    with monkeypatch.context() as patch:
        from sapwood.corpora import cleaning

        extract = cleaning._documents
        patch.setattr(cleaning, "_documents", lambda *a: (done.append(1), extract(*a))[1])
        make(sources)
    assert done == []


def test_a_finished_corpus_is_left_alone(make, sources, kit):
    out, card = make(sources)
    before = kit.contents(out)
    again, second = make(sources)
    assert (again, second, kit.contents(out)) == (
        out,
        json.loads((out / "corpus.json").read_text()),
        before,
    )
    assert second["counts"] == card["counts"]


def test_ranks_clean_their_share_and_the_last_run_joins_them(tmp_path, make, sources, kit):
    whole, _ = make(sources, name="whole")
    given = find_sources(sources)
    settings = Settings(vocabulary=800, sentinels=8, held=0.1)
    out = tmp_path / "shared"
    for rank in (1, 0, 2):
        _, found = kit.run(build(given, out, settings, Share(rank=rank, world=3)))
        assert (
            found["pieces"] == len(list((out / ".build" / "clean").glob("*.json")))
            or found["pieces"] > 2
        )
        with pytest.raises(DataError, match="not finished"):
            Corpus.open(out)
    make(sources, name="shared")
    assert kit.contents(out) == kit.contents(whole)


def test_held_out_documents_depend_on_content_alone(make, sources, kit):
    held = {}
    for name, places in (("all", sources), ("some", sources[2:])):
        rows = rows_of(make(places, name=name, held=0.3)[0])
        held[name] = {row["id"] for row in rows if row["part"] == "held"}
    assert len(held["some"]) > 2
    assert held["some"] == {name for name in held["all"] if not name.startswith(("wiki", "crawl"))}


def test_something_is_held_out_of_a_small_corpus(make, sources):
    out, card = make(sources[3:4] + sources[5:], held=0.0001)
    assert card["counts"]["held"]["documents"] == 1
    out, card = make(sources[3:4] + sources[5:], name="none", held=0.0)
    assert card["counts"]["held"]["documents"] == 0
    assert len(Corpus.open(out).part("held")) == 0


def test_documents_can_be_held_out_by_name(make, sources):
    out, _ = make(sources, held=0.0, held_documents=("books/*", "wiki#1"))
    held = [row["id"] for row in rows_of(out) if row["part"] == "held"]
    assert held == ["wiki#1", "books/one.txt", "books/two.txt"]


def test_near_duplicates_never_cross_the_split(make, tmp_path, kit):
    path = tmp_path / "rows.jsonl"
    texts = [kit.prose(n, 60) for n in range(30)]
    near = [text.replace("river", "stream") for text in texts]
    path.write_text(
        "\n".join(
            json.dumps({"text": text}) for pair in zip(texts, near, strict=True) for text in pair
        )
    )
    out, card = make([path], held=0.5)
    rows = rows_of(out)
    assert (
        len(rows)
        == 30
        == card["dropped"]["duplicates"].get("near duplicate", 0)
        + card["dropped"]["duplicates"].get("exact duplicate", 0)
    )
    assert {row["part"] for row in rows} == {"train", "held"}


def test_evaluation_texts_and_languages_and_personal_data(make, tmp_path, kit):
    question = "which of these rivers flows through the capital of the smallest country on the map"
    rows = [
        f"{kit.prose(1, 30)} {question}. {kit.prose(2, 30)}",
        kit.chinese(1, 30),
        f"{kit.prose(3)} Write to a@b.org.",
        "Les enfants jouent dans le jardin pendant que leurs parents préparent le repas du soir.",
    ]
    path, keep = tmp_path / "rows.jsonl", tmp_path / "eval.txt"
    path.write_text("\n".join(json.dumps({"text": text}) for text in rows))
    keep.write_text(question)
    out, card = make([path], languages=("en",), keep_out=(keep,), held=0.0)
    texts = [row["text"] for row in rows_of(out)]
    assert len(texts) == 2 and "smallest country" not in " ".join(texts)
    assert texts[1].endswith("Write to [email].")
    assert card["changed"] == {"email": 1, "passages of evaluation texts": 1}
    assert card["dropped"] == {"language": {"another language": 2}}
    assert [(d["id"], d["detail"]) for d in drops_of(out)] == [("rows#2", "zh"), ("rows#4", "fr")]
    assert "Passages that share" in (out / "README.md").read_text()


def test_an_adopted_tokenizer(make, sources, tmp_path):
    base, _ = make(sources[4:], name="base")
    out, card = make(sources, name="with", tokenizer=str(base / "tokenizer"))
    assert card["tokenizer"]["kind"] == "adopted"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / "tokenizer" / name).read_bytes() == (base / "tokenizer" / name).read_bytes()


def test_a_cut_file_stops_the_build_or_is_used_as_far_as_it_goes(make, tmp_path, kit):
    path = tmp_path / "rows.jsonl.gz"
    lines = "\n".join(json.dumps({"text": kit.prose(n)}) for n in range(400))
    whole = gzip.compress(lines.encode())
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(DataError) as caught:
        make([path])
    assert caught.value.code == "E-DATA-195"
    assert "the gzip data are cut off" in caught.value.what
    assert "--damaged keep" in caught.value.fix
    out, card = make([path], name="kept", damaged="keep")
    assert 100 < card["counts"]["documents"] < 400
    assert "cut off" in card["damaged"][0] and "Cut off: rows/" in (out / "README.md").read_text()
    assert make([path], name="again", damaged="keep", workers=2)[1]["damaged"] == card["damaged"]


def test_nothing_left_is_an_error_with_the_reasons(make, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "too short"}\n{"text": ""}\n{"text": "1 2 3 4 5 6 7 8 9 10 11 12 13 14"}'
    )
    with pytest.raises(DataError) as caught:
        make([path])
    assert caught.value.code == "E-DATA-197"
    assert caught.value.details == (
        "1: too short (quality)",
        "1: few letters (quality)",
        "1: empty (normalise)",
    )
    assert "drops.jsonl.gz lists every document" in caught.value.fix


def test_the_folder_is_someone_elses(make, sources, tmp_path):
    out = tmp_path / "corpus"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        make(sources)
    assert caught.value.code == "E-CONFIG-235" and "thesis.txt" in caught.value.what
    shutil.rmtree(out)
    out.write_text("a file")
    with pytest.raises(ConfigError, match="is a file"):
        make(sources)


def test_other_settings_or_sources_need_another_folder_or_fresh(make, sources):
    out, _ = make(sources[4:])
    with pytest.raises(ConfigError) as caught:
        make(sources[4:], held=0.2, languages=("en",))
    assert caught.value.code == "E-CONFIG-236"
    assert caught.value.details == ("held: 0.1 there, 0.2 now", "languages: [] there, ['en'] now")
    with pytest.raises(ConfigError) as caught:
        make(sources)
    assert caught.value.details == (
        "the files of the sources, their order or their sizes",
        "the licences of the sources",
    )
    again, card = make(sources, fresh=True)
    assert again == out and card["counts"]["documents"] == 38
    assert Corpus.open(out).part("train").document(0).bytes > 0


def test_a_source_that_changed_during_a_stopped_build_is_noticed(make, sources, monkeypatch):
    from sapwood.corpora import build as building

    def refuse(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(building, "gather", refuse)
        with pytest.raises(Stop):
            make(sources[4:])
    os.utime(sources[4], (1, 1))
    with pytest.raises(ConfigError) as caught:
        make(sources[4:])
    assert caught.value.details == ("when the files of the sources were changed",)


def test_a_second_build_in_the_same_folder_waits_outside(make, sources, tmp_path):
    from sapwood.corpora.job import locked

    with locked(tmp_path / "corpus", "rank-0-of-1"), pytest.raises(ConfigError) as caught:
        make(sources[4:])
    assert caught.value.code == "E-CONFIG-237"
    make(sources[4:])


def test_a_full_disk_says_so_and_leaves_a_build_that_goes_on(make, sources, kit, monkeypatch):
    whole, _ = make(sources, name="whole")
    real, left = np.save, [3]

    def full(*arguments, **named):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(ResourceError, match="The disk is full"):
            make(sources, name="full")
    out, _ = make(sources, name="full")
    assert kit.contents(out) == kit.contents(whole)


def test_events_say_how_far_it_is(tmp_path, sources, kit):
    given = find_sources(sources)
    settings = Settings(vocabulary=800, sentinels=8)
    events, _ = kit.run(build(given, tmp_path / "corpus", settings, Share()))
    ends = [event.candidate for event in events if event.kind == "end"]
    assert ends == ["clean", "duplicates", "documents", "tokenizer", "tokens"]
    cleaning = [e for e in events if e.kind == "progress" and e.candidate == "clean (kB)"]
    assert all(0 <= e.done <= e.total for e in cleaning)
    assert [e.done for e in cleaning] == sorted(e.done for e in cleaning)
    assert "documents/s" in cleaning[-1].note


def test_settings_that_cannot_be_are_told_together(make, sources):
    with pytest.raises(ConfigError) as caught:
        make(sources, held=1.5, vocabulary=100, languages=("english",))
    assert caught.value.code == "E-CONFIG-234"
    assert len(caught.value.details) == 3


SCRIPT = """
import sys
from pathlib import Path
from sapwood.corpora import gathering, reading
from sapwood.corpora.build import Share, build
from sapwood.corpora.settings import Settings
from sapwood.corpora.sources import find_sources

if __name__ == "__main__":
    reading.RECORDS, gathering.SHARD = 8, 12_000
    out, workers, *places = sys.argv[1:]
    settings = Settings(vocabulary=800, sentinels=8, held=0.1)
    for _ in build(find_sources(places), Path(out), settings, Share(workers=int(workers))):
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_and_a_rerun_give_the_same_bytes(tmp_path, make, sources, kit, workers):
    whole, _ = make(sources, name="whole")
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    out = tmp_path / "killed"
    command = [sys.executable, str(script), str(out), str(workers), *sources]
    kills = 0
    for attempt in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 0.8 + 0.25 * attempt
        before = len(list(out.rglob("*"))) if out.exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            if out.exists() and len(list(out.rglob("*"))) > before + attempt % 3:
                break
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        assert process.wait() in (0, -9)
        if (out / "corpus.json").exists():
            break
    subprocess.run(command, check=True, timeout=120)
    assert kills >= 3
    assert kit.contents(out) == kit.contents(whole)


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path, sources):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "out"), "2", *sources]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    children: set[int] = set()
    deadline = time.monotonic() + 60
    while len(children) < 2 and time.monotonic() < deadline and process.poll() is None:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children |= {int(pid) for pid in listed.read_text().split()}
        time.sleep(0.01)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in children):
        time.sleep(0.1)
    assert len(children) >= 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


PEAK = """
import re, sys
from pathlib import Path
from sapwood.corpora.build import Share, build
from sapwood.corpora.settings import Settings
from sapwood.corpora.sources import find_sources

out, place = sys.argv[1:]
for _ in build(find_sources([place]), Path(out), Settings(vocabulary=2000), Share()):
    pass
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
def test_memory_is_flat(tmp_path, kit):
    """Four times the text takes the memory of once, but for the index of duplicates."""
    peaks = []
    for times in (1, 4):
        path = tmp_path / f"rows-{times}.jsonl"
        with path.open("w") as file:
            for n in range(4000 * times):
                file.write(json.dumps({"text": kit.prose(n, 30)}) + "\n")
        call = [sys.executable, "-c", PEAK, str(tmp_path / f"out-{times}"), str(path)]
        done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=600)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 60, peaks
    assert peaks[1] < 500, peaks
