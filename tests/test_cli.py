"""The command line itself: quick to start, verbs by name, exit codes, nothing said to strangers."""

import json
import subprocess
import sys

import click
import pytest

from sapwood.cli import main, root
from sapwood.commands import ABOUT, COMMANDS
from sapwood.config import VERSION
from sapwood.errors import ConfigError, DataError, ModelError, ResourceError, SapwoodError


def test_help_lists_every_verb_and_what_it_does(sapwood):
    ran = sapwood("--help")
    assert ran.code == 0
    for name in COMMANDS:
        assert f"  {name} " in ran.out
    words = " ".join(ran.out.split())
    assert all(about in words for about in ABOUT.values())
    assert set(ABOUT) == set(COMMANDS)


def test_no_arguments_show_the_help(sapwood):
    ran = sapwood()
    assert ran.code == 2 and "Usage: sapwood" in ran.err and ran.out == ""


def test_version(sapwood):
    ran = sapwood("--version")
    assert (ran.code, ran.out.strip()) == (0, f"sapwood, version {VERSION}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_loads_and_has_help(sapwood, name):
    ran = sapwood(name, "--help")
    assert ran.code == 0 and f"Usage: sapwood {name}" in ran.out and ran.err == ""
    command = root.get_command(click.Context(root), name)
    flags = {flag for p in command.params for flag in p.opts}
    kinds = getattr(command, "commands", {})
    flags |= {flag for c in kinds.values() for p in c.params for flag in p.opts}
    assert "--json" in flags


@pytest.mark.parametrize(
    "kind, code", [(ConfigError, 2), (DataError, 3), (ResourceError, 4), (ModelError, 5)]
)
def test_each_kind_of_error_has_its_exit_code(sapwood, monkeypatch, kind, code):
    def fail(*given, **more):
        raise kind("E-X-1", "It is so.", details=["one", "two"], fix="do that")

    monkeypatch.setattr("sapwood.commands.live.open_adaptation", fail)
    monkeypatch.setattr("sapwood.commands.predict.open_adaptation", fail)
    ran = sapwood("predict", ".", "text", "--json")
    assert ran.code == code
    assert ran.err == "E-X-1  It is so.\n  • one\n  • two\n  Fix: do that\n"
    assert json.loads(ran.out) == {
        "error": "E-X-1", "what": "It is so.", "details": ["one", "two"], "fix": "do that"
    }  # fmt: skip


@pytest.mark.parametrize(
    "raised, code", [(KeyboardInterrupt(), 130), (click.Abort(), 130), (BrokenPipeError(), 0)]
)
def test_endings_that_are_no_errors(monkeypatch, raised, code):
    def fail(*given, **more):
        raise raised

    class Silent:
        def write(self, text):
            return len(text)

        def flush(self):
            pass

        def close(self):
            pass

    monkeypatch.setattr(root, "main", fail)
    monkeypatch.setattr(sys, "stderr", Silent())
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == code


def test_an_exception_of_ours_is_told_whatever_its_class(sapwood, monkeypatch):
    def fail(*given, **more):
        raise SapwoodError("E-Y-2", "Something.")

    monkeypatch.setattr(root, "main", fail)
    assert sapwood("anything").err == "E-Y-2  Something.\n"


def python(code: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **more,
    )


def test_a_closed_pipe_is_no_error():
    code = "import sys; from sapwood.cli import main; main(['--help'])"
    ran = subprocess.run(
        f'"{sys.executable}" -c "{code}" | head -n 1',
        shell=True, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.stdout.startswith("Usage") and ran.stderr == ""


def test_help_of_a_verb_loads_no_torch():
    code = (
        "import sys\nfrom sapwood.cli import main\n"
        "try: main(['adapt', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'matplotlib'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    assert python(code).stderr.strip() == "set()"


@pytest.mark.parametrize("way", ["locale", "asked"])
def test_errors_speak_chinese_to_who_reads_it_and_english_to_programs(sapwood, monkeypatch, way):
    asked = ["--lang", "zh"] if way == "asked" else []
    if way == "locale":
        monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    ran = sapwood("init", "nowhere.csv", "--json", *asked)
    assert ran.code == 3
    assert ran.err.startswith("E-DATA-001  没有这个文件：nowhere.csv。\n  办法：")
    assert json.loads(ran.out)["what"].startswith("No such file")
    ran = sapwood("init", "--colour", *asked)
    assert "没有选项" in ran.err and "办法：见 sapwood init --help" in ran.err
