"""The folder of projects: names that are no paths, settings that stay, runs by number."""

import pytest

from sapwood.errors import ConfigError, DataError
from sapwood.studio.workspace import Workspace


@pytest.mark.parametrize(
    ("name", "identity", "shown"),
    [
        ("Film Reviews (2024).csv", "film-reviews-2024", "Film Reviews (2024).csv"),
        ("../../../etc/passwd.csv", "passwd", "passwd.csv"),
        ("C:\\Users\\me\\notes.tsv", "notes", "notes.tsv"),
        ("评论.jsonl", "data", "评论.jsonl"),
        ("a" * 300 + ".json", "a" * 32, "a" * 115 + ".json"),
        ("--help.csv", "help", "--help.csv"),
        ("x\0y.csv", "x-y", "x\0y.csv"),
    ],
)
def test_a_files_name_is_no_path(take, workspace, reviews, name, identity, shown):
    project = take(reviews, name)
    assert (project.id, project.name) == (identity, shown)
    assert project.data.parent == workspace.root / identity / "data"
    assert workspace.project(identity) == project
    assert project.data.read_bytes() == reviews.read_bytes()


def test_names_that_are_taken_get_a_number(take, workspace, reviews):
    assert [take(reviews).id for _ in range(3)] == ["reviews", "reviews-2", "reviews-3"]
    assert len(workspace.projects()) == 3


def test_other_kinds_of_file_are_refused(take, reviews):
    with pytest.raises(DataError) as told:
        take(reviews, "virus.exe")
    assert str(told.value) == (
        "E-DATA-300  'virus.exe' is no kind of data file that is known here.\n"
        "  Fix: bring a .csv, .tsv, .jsonl, .json, .parquet or .conll file"
    )


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "A", "no\\pe", ".coming", "x" * 99, "revews"]
)
def test_projects_are_named_not_found_by_path(take, workspace, reviews, name):
    take(reviews)
    with pytest.raises(ConfigError) as told:
        workspace.project(name)
    assert told.value.code == "E-CONFIG-310"
    assert ("Did you mean 'reviews'?" in told.value.what) == (name == "revews")


def test_settings_and_runs_are_there_for_the_next_server(take, workspace, reviews):
    project = take(reviews).save(task="classification", columns={"text": "text"})
    first = project.new_run({"budget": "30s", "model": "m"})
    second = project.new_run({"budget": "1m", "model": "m"})
    again = Workspace(workspace.root).project("reviews")
    assert again == project and again.task == "classification"
    assert [run.number for run in again.runs()] == [second.number, first.number] == [2, 1]
    assert again.run(1).asked["budget"] == "30s" and again.run(1).report() is None
    with pytest.raises(ConfigError, match="has no run 7"):
        again.run(7)


def test_what_another_version_wrote_is_no_project(take, workspace, reviews):
    project = take(reviews)
    (project.folder / "project.json").write_text('{"name": "x", "odd": 1}')
    assert workspace.projects() == ()


def test_a_project_can_be_removed(take, workspace, reviews):
    project = take(reviews)
    workspace.remove(project)
    assert workspace.projects() == () and not project.folder.exists()
    assert [p.name for p in workspace.root.iterdir()] == [".coming"]
