"""Settings files and --set: found, read, refused with every mistake at once, and overruled."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from sapwood.cli import root
from sapwood.commands import COMMANDS
from sapwood.commands.defaults import repeatable, run_folder, with_settings
from sapwood.commands.settings import RUNS, attribute, declared, entries, named
from sapwood.commands.wording import locale_language, reader_language, report_language
from sapwood.errors import DataError

FILE = """
[data]
train = "reviews.csv"
task = "classification"

[run]
seed = 3
budget = "90s"

[tune]
learning-rate = 1e-4
checkpointing = true
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def ran(monkeypatch):
    """What `adapt`, `prompt` or `tune` was called with."""
    seen = {}

    def run(data, **given):
        seen.clear()
        seen.update(given, data=data)

    for verb in RUNS:
        monkeypatch.setattr(f"sapwood.commands.{verb}.run", run)
    return seen


def test_a_file_that_is_there_fills_what_is_not_given(sapwood, here, ran):
    (here / "sapwood.toml").write_text(FILE)
    told = sapwood("adapt")
    assert (told.code, told.out, told.err) == (0, "", "Settings from sapwood.toml\n")
    assert (ran["data"], ran["seed"], ran["budget"]) == ("reviews.csv", 3, "90s")
    assert (ran["learning_rate"], ran["checkpointing"]) == (1e-4, True)
    assert ran["model"] == "smollm2-135m"


def test_the_command_line_wins_over_the_file_and_set_over_both(sapwood, here, ran):
    (here / "mine.toml").write_text(FILE)
    told = sapwood("adapt", "other.csv", "--config", "mine.toml", "--seed", "5")
    assert told.err == "Settings from mine.toml\n"
    assert (ran["data"], ran["seed"], ran["budget"]) == ("other.csv", 5, "90s")
    sapwood(
        "adapt", "--config", "mine.toml", "--set", "run.seed=7", "--set=tune.learning_rate=2e-4"
    )
    assert (ran["seed"], ran["learning_rate"]) == (7, 2e-4)
    sapwood("adapt", "--config", "mine.toml", "--set", "run.seed=7", "--seed", "8")
    assert ran["seed"] == 8


def test_a_file_that_is_there_is_left_alone_where_the_data_is_named(sapwood, here, ran):
    (here / "sapwood.toml").write_text(FILE)
    told = sapwood("adapt", "other.csv")
    assert told.err == "" and (ran["data"], ran["seed"]) == ("other.csv", 0)


def test_without_a_file_the_data_is_missing_as_before(sapwood, here):
    told = sapwood("adapt")
    assert told.code == 2 and told.err.startswith("E-CONFIG-002  Missing argument 'DATA'.")


def test_lists_and_names_of_other_tools_are_read_and_the_own_name_is_told(sapwood, here, ran):
    (here / "sapwood.toml").write_text(
        '[data]\ndataset = "d.csv"\n[prompt]\nnum_shots = [4, 16]\nbias = ["labels"]\n'
        '[tune]\nlr = 1\ngradient-checkpointing = true\n[run]\noutput_dir = "o"\n'
    )
    told = sapwood("prompt")
    assert told.err.splitlines() == [
        "Settings from sapwood.toml",
        "sapwood.toml: data.dataset is read as data.train",
        "sapwood.toml: prompt.num_shots is read as prompt.shots",
        "sapwood.toml: tune.lr is read as tune.learning_rate",
        "sapwood.toml: tune.gradient-checkpointing is read as tune.checkpointing",
        "sapwood.toml: run.output_dir is read as run.out",
    ]
    assert ran["prompting"].shots == (4, 16) and ran["prompting"].bias == ("labels",)
    assert (ran["learning_rate"], ran["out"]) == (1.0, Path("o"))
    assert "Not used by adapt: prompt.shots, prompt.bias" in sapwood("adapt").err


def test_every_mistake_is_told_at_once_with_its_line(sapwood, here):
    (here / "sapwood.toml").write_text(
        'train = "x"\n[data]\ntsk = "ner"\ntask = "nre"\nmax-length = "long"\nbudget = "1m"\n'
        "[tune]\nlearning_rte = 1\nlr = -1\nrank = 2.5\n"
        'checkpointing = "yes"\n[prompt]\nshots = [4, "x"]\n'
        'selector = "nearst"\nencoding = "exat"\n'
        '[training]\nx = 1\n[run]\nbudget = "soon"\nseed = true\nrandom_state = 1\n'
    )
    told = sapwood("adapt")
    assert told.code == 2
    head, *details, fix = told.err.splitlines()
    assert head == "E-CONFIG-182  sapwood.toml: 15 settings are wrong"
    assert fix == "  Fix: sapwood render-config shows every setting with its value"
    known = (
        "classification, multi-label, pairs, entities, relations, events, dialogue, story, poetry"
    )
    selectors = ", ".join(attribute("sapwood.context.select:SELECTORS"))
    nearest, exact = " Did you mean 'nearest'?", " Did you mean 'exact'?"
    assert [detail.removeprefix("  • ") for detail in details] == [
        "line 1: train stands outside any section. Did you mean 'train' in [data]?",
        "line 3: [data] tsk is unknown. Did you mean 'task'?",
        f"line 4: data.task is \"nre\", unknown. Did you mean 'ner'? Known: {known}",
        'line 5: data.max_length is "long", not a whole number',
        "line 6: [data] budget is unknown. Did you mean 'budget' in [run]?",
        "line 8: [tune] learning_rte is unknown. Did you mean 'learning_rate'?",
        "line 9: tune.learning_rate is -1, not in the range x>0.",
        "line 10: tune.rank is 2.5, not a whole number",
        'line 11: tune.checkpointing is "yes", not true or false',
        'line 13: prompt.shots is [4, "x"], not a whole number or a list of them',
        f'line 14: prompt.selector is "nearst", unknown.{nearest} Known: {selectors}',
        f"line 15: prompt.encoding is \"exat\", not one of 'exact', 'blocks', 'windows'.{exact}",
        "line 16: section [training] is unknown. Sections: data, model, run, prompt, tune, answer",
        "line 19: run.budget is \"soon\": The budget 'soon' is not a time; write 90s, 10m or 1h",
        "line 20: run.seed is true, not a whole number",
    ]


def test_a_setting_given_twice_under_two_names_is_refused(sapwood, here):
    (here / "sapwood.toml").write_text("[tune]\nrank = 4\nlora_r = 8\n")
    told = sapwood("adapt", "--config", "sapwood.toml")
    assert "line 3: tune.rank is given twice, here as 'lora_r'" in told.err


def test_files_that_cannot_be_read_say_why(sapwood, here):
    (here / "setings.toml").write_text("[data]\ntask =\n")
    told = sapwood("predict", "--config", "settings.toml")
    assert told.code == 2 and told.err == (
        "E-CONFIG-180  Cannot read the settings file settings.toml: No such file or directory. "
        "Did you mean 'setings.toml'?\n  Fix: sapwood init DATA writes one\n"
    )
    told = sapwood("predict", "--config", "setings.toml")
    assert told.err.startswith("E-CONFIG-181  setings.toml is no valid TOML: ")
    assert "line 2" in told.err
    (here / "latin.toml").write_bytes('[prompt]\ninstruction = "caf\xe9"\n'.encode("latin-1"))
    assert sapwood("adapt", "--config", "latin.toml").err.startswith("E-CONFIG-180  latin.toml is")


def test_a_file_with_a_byte_order_mark_is_read(sapwood, here, ran):
    (here / "sapwood.toml").write_text(FILE, encoding="utf-8-sig")
    assert sapwood("adapt").code == 0 and ran["seed"] == 3


def test_wrong_overrides_are_told_together(sapwood, here):
    told = sapwood("adapt", "x.csv", "--set", "rank=3", "--set", "tune.rnk=2", "--set", "a.b=1",
                   "--set", "nothing")  # fmt: skip
    assert told.code == 2 and told.err.splitlines() == [
        "E-CONFIG-183  --set cannot be read.",
        "  • 'rank=3' is not SECTION.KEY=VALUE. Did you mean 'rank' in [tune]?",
        "  • [tune] rnk is unknown. Did you mean 'rank'?",
        "  • [a] b is unknown.",
        "  • 'nothing' is not SECTION.KEY=VALUE.",
        "  Fix: --set tune.rank=4; sapwood render-config shows every setting",
    ]
    told = sapwood("tasks", "--set", "tune.rank=2")
    assert told.err == (
        "E-CONFIG-184  sapwood tasks takes no tune.rank.\n  Fix: it takes run.lang\n"
    )


def test_overrides_are_words_where_they_are_no_toml(sapwood, here, ran):
    sapwood("adapt", "x.csv", "--set", "data.text=My column", "--set", "run.budget=90")
    assert (ran["text"], ran["budget"]) == ("My column", "90")


def test_help_and_lists_need_no_valid_file(sapwood, here):
    (here / "sapwood.toml").write_text("[nothing\n")
    assert sapwood("adapt", "--help").code == 0
    told = sapwood("tune", "--methods")
    assert told.code == 0 and told.err == ""
    assert sapwood("adapt").code == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_a_settings_file(name):
    command = root.get_command(click.Context(root), name)
    inner = getattr(command, "commands", {"": command})
    for one in inner.values():
        flags = [flag for parameter in one.params for flag in parameter.opts]
        assert flags.count("--config") == flags.count("--set") == 1


def test_the_command_itself_stays_as_it_was():
    before = attribute(COMMANDS["adapt"])
    count = len(before.params)
    assert len(with_settings(before).params) == count + 2 == len(before.params) + 2


def test_commands_inside_a_group_are_filled_too(sapwood, here, write_rows):
    write_rows(here / "reviews.csv")
    (here / "sapwood.toml").write_text('[data]\ntrain = "reviews.csv"\n')
    told = sapwood("data", "show", "-n", "1")
    assert told.code == 0 and told.out.startswith("row 1  negative")
    assert told.err.startswith("Settings from sapwood.toml\n")


def test_a_run_is_found_by_its_data_where_no_folder_is_named(sapwood, here, small_run):
    (here / "sapwood.toml").write_text('[data]\ntrain = "some/reviews.csv"\n')
    told = sapwood("report")
    assert "runs/adapt-reviews" in told.err
    (here / "runs").mkdir()
    (here / "runs" / "tune-reviews").symlink_to(small_run.out)
    assert sapwood("report", "--set", "run.lang=en").code == 0
    assert run_folder("tune", "some/reviews.csv[:9]") == Path("runs/tune-reviews")


def test_a_whole_run_from_a_file_says_how_to_repeat_it(sapwood, here, small_base, write_rows,
                                                       monkeypatch):  # fmt: skip
    write_rows(here / "reviews.csv", count=60)
    assert sapwood("init", "reviews.csv", "--text", "text").code == 0
    monkeypatch.setattr("sys.argv", ["sapwood", "prompt", "--set", "prompt.shots=2", "--json"])
    told = sapwood(
        "prompt", "--json", "--set", f"model.model={small_base}", "--set", "prompt.shots=2",
        "--set", "model.encoder=none", "--set", "model.device=cpu", "--set", "model.dtype=float32",
    )  # fmt: skip
    assert told.code == 0, told.err
    report = (here / "runs" / "prompt-reviews" / "report.json").read_text("utf-8")
    assert (
        f"sapwood prompt reviews.csv --json --shots 2 --task classification --model {small_base} "
        "--encoder none --text text --label label --device cpu --dtype float32" in report
    )


def test_the_task_is_guessed_and_said(sapwood, here, monkeypatch):
    lines = [f'{{"tokens": ["Ann", "left", "{n}"], "ner_tags": ["B-PER", "O", "O"]}}\n'
             for n in range(12)]  # fmt: skip
    (here / "d.jsonl").write_text("".join(lines))
    seen = {}

    def stop(*given, **more):
        seen["task"] = given[3]["task"]
        raise DataError("E-X-1", "Stopped.")

    monkeypatch.setattr("sapwood.commands.running._job", stop)
    told = sapwood("adapt", "d.jsonl")
    assert seen["task"] == "entities"
    assert told.err == (
        "Task: entities (tokens: 'tokens' by name; tags: 'ner_tags' by name; 12 entities; "
        "12 of the first 12 rows read so)\nE-X-1  Stopped.\n"
    )
    chinese = sapwood("adapt", "d.jsonl", "--lang", "zh").err
    assert chinese.startswith("任务：entities（tokens：'tokens'（按列名）；")
    told = sapwood("adapt", "d.jsonl", "--task", "NER")
    assert told.err == "E-X-1  Stopped.\n" and seen["task"] == "NER"
    (here / "d.csv").write_text("text,label\na,x\nb,y\nc,x#y\n")
    told = sapwood("adapt", "d.csv")
    assert seen["task"] == "classification"
    assert "If it is another: --task multi-label" in told.err


def test_a_file_for_several_tasks_is_not_guessed_at(sapwood, here):
    row = '{"prompt": "Tell me.", "completion": "%s %d"}\n'
    (here / "d.jsonl").write_text("".join(row % ("It was a long and quiet day. " * 6, n)
                                          for n in range(12)))  # fmt: skip
    told = sapwood("adapt", "d.jsonl")
    assert told.code == 2
    head, *details, fix = told.err.splitlines()
    assert head == "E-CONFIG-185  d.jsonl may be for several tasks; name the one you mean."
    assert [detail.split(":")[0] for detail in details] == ["  • story", "  • dialogue"]
    assert fix == "  Fix: --task story or --task dialogue"


def test_which_language_is_spoken(monkeypatch):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    assert (locale_language(), reader_language(None), report_language(None)) == (None, "en", None)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert (reader_language(None), report_language(None)) == ("zh", "zh")
    assert (reader_language("en"), report_language("en")) == ("en", "en")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    assert (reader_language(None), report_language(None)) == ("en", None)
    assert locale_language({"LC_ALL": "POSIX", "LANG": "zh_CN"}) is None


def test_every_setting_fills_an_option_and_every_option_has_a_setting():
    for name in entries():
        assert declared(name).name
    without = {"as_json", "events", "fresh", "methods"}  # what a settings file is not for
    for verb in RUNS:
        command = attribute(COMMANDS[verb])
        filled = {s.parameter(verb, command) for s in entries().values()}
        left = {p.name for p in command.params if p not in filled}
        assert left <= without, f"{verb}: add {left - without} to settings.toml"


def test_no_other_name_means_two_settings():
    known = {}
    for setting in entries().values():
        for name in (setting.key, *setting.names):
            where = (setting.section, name)
            assert where not in known, f"{setting.name} and {known[where]}: {name}"
            known[where] = setting.name
            assert named(setting.section, name.replace("_", "-"))[0] == setting.name


def test_a_repeated_command_keeps_what_was_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x/sapwood", "adapt", "--config", "a.toml", "--set=a.b=c",
                                     "--set", "tune.rank=4", "--seed", "1"])  # fmt: skip
    command = attribute(COMMANDS["adapt"])
    context = command.make_context("adapt", ["d.csv", "--seed", "1"])
    assert repeatable(context) == ["adapt", "--seed", "1"]
    filled = {"data": "d e.csv", "rank": 4, "checkpointing": True, "seed": 9}
    context = command.make_context("adapt", ["--seed", "1"], default_map=filled)
    assert repeatable(context) == ["adapt", "d e.csv", "--seed", "1", "--rank", "4",
                                   "--checkpointing"]  # fmt: skip


def test_a_settings_file_loads_nothing_heavy(here):
    (here / "sapwood.toml").write_text(FILE.replace("reviews.csv", "nothing.csv"))
    code = (
        "import sys\nfrom sapwood.cli import main\n"
        "try: main(['adapt'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'matplotlib'}\n"
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=False, timeout=60)  # fmt: skip
    assert done.stdout.strip() == "set()" and "No such file: nothing.csv" in done.stderr
