"""`compress`, `distill` and `meta`: from files to folders that load, with what they say."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from sapwood.adaptation import Adaptation, BaseRef, load, save
from sapwood.commands import compress, distill, meta
from sapwood.commands.bridging import losses
from sapwood.context.prompter import Context
from sapwood.context.template import default_template
from sapwood.errors import ConfigError, DataError
from sapwood.evaluation import Bases
from sapwood.interfaces import Example
from sapwood.launch import choose_runtime
from sapwood.readouts import bias
from sapwood.readouts.verbalizer import Verbalizer

LABELS = ("negative", "positive")
MACHINE = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module")
def prompted(tmp_path_factory, small_base):
    """The folder of an adaptation that shows four demonstrations to the tiny base."""
    texts = ["great film", "dull plot", "lovely cast", "weak end"]
    shown = tuple(
        Example(text=text, label=LABELS[(n + 1) % 2], row=n) for n, text in enumerate(texts)
    )
    made = Adaptation(
        labels=LABELS,
        readout_name="verbalizer",
        readout=Verbalizer(labels=LABELS, bias=bias.none(2)),
        base=Bases(choose_runtime("cpu", "float32")).reference(str(small_base)),
        context=Context(
            template=default_template(LABELS, texts),
            demonstrations=shown,
            selection="stratified",
            shots=4,
        ),
    )
    folder = tmp_path_factory.mktemp("prompted") / "a"
    save(made, folder)
    return folder


def run(module, *arguments):
    """Run one command as click does; errors of ours are raised, not printed."""
    done = CliRunner().invoke(module.command, [str(a) for a in arguments], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done


def test_compress_all_then_some_with_training(prompted, write_rows, tmp_path):
    done = run(compress, prompted, "--out", tmp_path / "all", *MACHINE)
    assert "prefix" in done.stdout and "tokens, from 4 demonstrations" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not load(tmp_path / "all" / "adaptation").prefix.trained
    data = write_rows(tmp_path / "rows.csv", count=24)
    done = run(
        compress, prompted, data, "--tokens", 8, "--epochs", 1, "--json",
        "--out", tmp_path / "some", *MACHINE,
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert said["parts"]["prefix"] == "8 tokens, from 4 demonstrations (last), trained"
    assert said["compressed"]["rows"] == 24
    assert said["bytes"] > 0
    assert load(tmp_path / "some" / "adaptation").prefix.tokens == 8
    assert not list((tmp_path / "some" / "run").glob("checkpoint-*"))


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_distill_reads_no_label(prompted, tmp_path, method):
    data = tmp_path / "texts.csv"
    data.write_text("text\n" + "".join(f"a film of {n} songs\n" for n in range(40)))
    done = run(
        distill, prompted, data, "--method", method, "--tokens", 8, "--epochs", 1,
        "--out", tmp_path / "out", *MACHINE,
    )  # fmt: skip
    assert "agreement" in done.stdout and "on 4 held-out texts" in done.stdout
    made = load(tmp_path / "out" / "adaptation")
    assert (made.prefix is not None, made.method is not None) == (
        method == "prefix",
        method == "lora",
    )
    assert made.evidence["distilled"]["teacher"]["parts"]["context"] == (
        "4 demonstrations, stratified"
    )


def test_meta_measures_the_held_out_task_before_and_after(small_base, write_rows, tmp_path):
    data = write_rows(tmp_path / "rows.csv", count=40)
    topics = tmp_path / "topics.csv"
    topics.write_text(
        "text,label\n" + "".join(f"the {'ball' if n % 2 else 'tune'} of {n},{'ab'[n % 2]}\n"
                                 for n in range(40))
    )  # fmt: skip
    arguments = (
        topics, "--held-out", data, "--model", small_base, "--shots", 4, "--episodes", 8,
        "--queries", 10, "--orders", 2, *MACHINE,
    )  # fmt: skip
    done = run(meta, *arguments, "--out", tmp_path / "out")
    assert "labels exchanged: follows them" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    made = load(tmp_path / "out" / "adaptation")
    assert made.labels == LABELS and made.method is not None
    said = made.evidence["robustness"]
    assert said["before"]["queries"] == said["after"]["queries"] == 10
    done = run(meta, *arguments, "--one-target", "--json", "--out", tmp_path / "one")
    assert json.loads(done.stdout)["practised"]["settings"]["every"] is False


def test_meta_never_practises_on_what_it_asks(small_base, write_rows, tmp_path, monkeypatch):
    """The same file as DATA and as --held-out: in-context tuning within one task."""
    from sapwood.bridges import demonstrate, robustness

    seen, real, measure = [], demonstrate.demonstrate, robustness.robustness

    def spy(bases, base, tasks, held_out, **others):
        seen.append({row.text for task in (*tasks, held_out) for row in task.rows})
        return real(bases, base, tasks, held_out, **others)

    def asked(predict, shown, queries, labels, **others):
        assert seen[0] and not seen[0] & {query.text for query in queries}
        return measure(predict, shown, queries, labels, **others)

    monkeypatch.setattr(demonstrate, "demonstrate", spy)
    monkeypatch.setattr(robustness, "robustness", asked)
    data = write_rows(tmp_path / "rows.csv", count=40)
    run(
        meta, data, "--held-out", data, "--model", small_base, "--shots", 4, "--episodes", 4,
        "--queries", 10, "--orders", 1, "--out", tmp_path / "out", *MACHINE,
    )  # fmt: skip


def test_wrong_uses_say_what_is_wrong(prompted, small_base, write_rows, tmp_path):
    data = write_rows(tmp_path / "rows.csv", count=12)
    (tmp_path / "mine" / "adaptation").mkdir(parents=True)
    with pytest.raises(ConfigError, match="was not made by Sapwood"):
        run(compress, prompted, "--out", tmp_path / "mine", *MACHINE)
    with pytest.raises(DataError, match="needs at least 8 different texts"):
        run(distill, prompted, data, "--limit", 4, "--out", tmp_path / "x", *MACHINE)
    with pytest.raises(ConfigError, match="too few to show some and ask 12"):
        run(meta, data, "--held-out", data, "--queries", 12, "--out", tmp_path / "x", *MACHINE)
    moved = tmp_path / "moved"
    save(replace(load(prompted), base=BaseRef(name=str(small_base), sha256="0", kind="decoder")),
         moved)  # fmt: skip
    with pytest.raises(Exception, match="not the one this adaptation was made for"):
        run(compress, moved, "--out", tmp_path / "y", *MACHINE)


def test_losses_in_words():
    curve = {"loss": [1.0] * 10 + [0.5] * 10, "seconds": [0.1] * 20}
    assert losses(curve) == "20 steps in 2.0 s, loss 1.000 to 0.500"


@pytest.mark.slow
@pytest.mark.weights("smollm2-135m")
def test_the_three_on_a_real_base(sapwood, write_rows, tmp_path):
    """From a prompted base to a prefix, a student and practised weights, each answering again."""
    data, dtype = write_rows(tmp_path / "rows.csv", count=40), ("--dtype", "auto")
    texts = ["great film", "dull plot", "lovely cast", "weak end"]
    shown = tuple(
        Example(text=text, label=LABELS[(n + 1) % 2], row=n) for n, text in enumerate(texts)
    )
    made = Adaptation(
        labels=LABELS,
        readout_name="verbalizer",
        readout=Verbalizer(labels=LABELS, bias=bias.none(2)),
        base=Bases(choose_runtime("cpu", "auto")).reference("smollm2-135m"),
        context=Context(
            template=default_template(LABELS, texts),
            demonstrations=shown,
            selection="stratified",
            shots=4,
        ),
    )
    save(made, tmp_path / "prompted")
    runs = {
        "prefix": ("compress", tmp_path / "prompted", data, "--tokens", 16, "--epochs", 2),
        "student": ("distill", tmp_path / "prompted", data, "--epochs", 1),
        "practised": (
            "meta", data, "--held-out", data, "--shots", 4, "--episodes", 8, "--queries", 8,
            "--orders", 2,
        ),
    }  # fmt: skip
    for name, arguments in runs.items():
        ran = sapwood(*arguments, *dtype, "--out", tmp_path / name)
        assert ran.code == 0, ran.err
        print(ran.out, ran.err)
        ran = sapwood("predict", tmp_path / name, "a superb film", "an awful film", *dtype)
        assert ran.code == 0, ran.err
        print(ran.out)
        rows = [line.split("\t") for line in ran.out.splitlines()]
        superb, awful = (float(p) if said == "positive" else 1 - float(p) for said, p, _ in rows)
        # Forty rows of four texts leave the border between labels anywhere; the order they learn.
        assert superb > max(0.5, awful + 0.1), name
