"""`sapwood init FILE`: what a file holds, guessed and said, and a settings file to start from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.commands.settings import FOUND, as_toml, by_section, default_of
from sapwood.commands.wording import laid_out, reader_language, say, wrapped
from sapwood.errors import ConfigError
from sapwood.translation import spoken

if TYPE_CHECKING:
    from sapwood.interfaces import Example
    from sapwood.tasks.kinds import Task
    from sapwood.tasks.readers import Table
    from sapwood.tasks.structured import Guess

MOST = 20_000  # rows that are looked at; reading them takes a second or two
LABELS = 8  # listed by name; the others are counted
REASONS = 3  # for lost rows, listed
SHOWN = 200  # characters of the first row: about three lines
SEEN = 0.005  # share of a language; below, it is 0 %
COLUMN = 12  # where what is said begins, behind "First row"
# Characters a token, measured on 300 rows each of four English and four Chinese data sets:
# SmolLM2 and MiniLM 3.7 to 4.6 in English, Gemma 3 1.0 to 1.4 in Chinese.
A_TOKEN, A_TOKEN_HAN = 4.4, 1.3


@dataclass(frozen=True, kw_only=True)
class Suggested:
    """The base for a task in a language: `why` is a key of words.toml, `encoder` stands beside."""

    model: str
    encoder: str | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen of a file: its rows, the task they are for and all they may be for.

    `columns`: those in use, by role, as a settings file names them; `shares`: of languages.
    """

    data: str
    task: Task
    why: str
    guesses: tuple[Guess, ...]
    table: Table
    columns: Mapping[str, str]
    shares: Mapping[str, float]
    base: Suggested


@click.command(name="init")
@click.argument("data", metavar="FILE")
@click.option("--task", help="Kind of task: see `sapwood tasks`.  [default: guessed]")
@click.option("--text", metavar="COL", help="Column of the text.")
@click.option("--label", metavar="COL", help="Column of the label.")
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path(FOUND),
              show_default=True, help="Settings file to write.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a settings file that is there.")
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Language of the words.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(data: str, *, out: Path, force: bool, as_json: bool, **given: Any) -> None:
    """Guess task, columns and language of FILE, and write a settings file for every command.

    FILE may also be a folder with train and test files, or a Hugging Face data set. Prints what it
    saw; everything in the settings file is explained there.
    """
    if out.exists() and not force:
        raise ConfigError(
            "E-CONFIG-188", f"{out} exists; it is not overwritten.",
            fix="another --out, or --force to replace it",
        )  # fmt: skip
    from sapwood.files import write_text

    lang = reader_language(given["lang"])
    named = {role: given[role] for role in ("text", "label") if given[role]}
    seen = look(data, given["task"], named)
    if as_json:
        click.echo(json.dumps({**as_json_object(seen), "settings": str(out)}, ensure_ascii=False))
    else:
        for head, words in described(seen, lang):
            click.echo(laid_out(say(lang, f"init_{head}") if head else "", words, column=COLUMN))
    run = "sapwood adapt" + ("" if out == Path(FOUND) else f" --config {out}")
    values = chosen(seen, given["lang"])
    write_text(out, written(values, (data, run), lang))
    click.echo(say(lang, "init_wrote", path=out), err=True)
    click.echo(say(lang, "init_next", command=run), err=True)


def look(data: str, task: str | None, named: Mapping[str, str]) -> Look:
    """Read the first rows of a file as the task named, or the one they are likeliest for.

    Raises what the readers raise; ConfigError E-CONFIG-001 for an unknown task.
    """
    from sapwood.tasks.languages import languages
    from sapwood.tasks.readers import find_files
    from sapwood.tasks.structured import choose_guess, guess_source, read_task, task_named

    wanted = task_named(task).name if task else None
    train = str(find_files(data)["train"])
    guesses = guess_source(train, named)
    best = choose_guess(guesses) or (guesses[0] if guesses else None)
    name = wanted or (best.task if best else "classification")
    place = train if train.endswith("]") or "#" in Path(train).name else f"{train}[:{MOST}]"
    table = read_task(place, name, columns=named)
    kind = task_named(name)
    shares = languages([whole(kind, example) for example in table.examples])
    return Look(
        data=data,
        task=kind,
        why="" if wanted or best is None else best.why,
        guesses=tuple(guesses),
        table=table,
        columns=_columns(train, kind, table, named),
        shares=shares,
        base=suggested(kind, shares),
    )


def whole(kind: Task, example: Example) -> str:
    """Return all that is read of an example: its conversation, its text, with a free answer."""
    if example.turns:
        return "\n".join(turn.content for turn in example.turns)
    return f"{example.text}\n{example.label}" if kind.family == "generation" else example.text


def _columns(train: str, kind: Task, table: Table, named: Mapping[str, str]) -> dict[str, str]:
    """Return the columns by role, where the task takes the roles "text" and "label" for them."""
    from sapwood.errors import SapwoodError
    from sapwood.tasks.structured import read_task

    said = {"text": table.columns.text, "label": table.columns.label}
    roles = {role: column for role, column in said.items() if column}
    try:
        again = read_task(f"{train}[:2]", kind.name, columns=roles, classes=1)
    except SapwoodError:  # its roles have other names, or its columns no role of these
        return dict(named)
    same = (again.columns.text, again.columns.label) == tuple(said.values())
    return roles if same else dict(named)


def suggested(kind: Task, shares: Mapping[str, float]) -> Suggested:
    """Return the base for a task in the language that most rows are in.

    Encoders find spans in a text far sooner than decoders write them; MiniLM reads English only,
    and of the bases that need no hub Gemma 3 alone reads and writes other languages.
    """
    main = next(iter(shares), None)
    if main not in ("en", None):
        return Suggested(
            model="gemma3-270m",
            encoder=None if main == "zh" else "none",
            why="why_chinese" if main == "zh" else "why_other",
        )
    why = "why_english" if main else "why_short"
    if kind.family == "extraction":
        return Suggested(model="minilm-l6", encoder=None, why=f"{why}_found")
    return Suggested(model="smollm2-135m", encoder="minilm-l6", why=why)


def tokens(text: str) -> int:
    """Return about how many tokens a text is.

    >>> tokens("How many are these?"), tokens("这有多少个？")
    (4, 5)
    """
    wide = sum("\u2e80" <= character <= "\uffef" for character in text)
    return max(1, round(wide / A_TOKEN_HAN + (len(text) - wide) / A_TOKEN))


def described(seen: Look, lang: str) -> list[tuple[str, str]]:
    """Return (key of the head, or "" for a further line, words) of each line of the summary."""
    table, kind = seen.table, seen.task
    metric = say(lang, f"metric_{kind.metric}")
    family = say(lang, f"family_{kind.family}")
    task = say(lang, "kind_of_task", task=kind.name, family=family, metric=metric)
    lines = [("file", table.path), ("task", task)]
    lines += [("why", spoken(seen.why, lang) or say(lang, "why_named"))]
    for guess in likely(seen)[:2]:
        why = spoken(guess.why, lang)
        lines.append(("others", say(lang, "other_task", task=guess.task, why=why)))
    lines.append(("columns", ", ".join(table.columns.found)))
    lines += _rows(table, lang)
    lines.append(("labels", _labels(seen, lang)))
    lines.append(("length", _lengths(seen, lang)))
    lines.append(("language", _shares(seen.shares, lang)))
    lines += _base(seen.base, lang)
    text, answer = _example(seen)
    return [*lines, ("example", text), ("answer", answer)]


def likely(seen: Look) -> list[Guess]:
    """Return the other tasks that the rows look at least half as much like as the likeliest."""
    most = max((guess.weight for guess in seen.guesses), default=0.0)
    found = (guess for guess in seen.guesses if guess.task != seen.task.name)
    return [guess for guess in found if 2 * guess.weight >= most]


def _rows(table: Table, lang: str) -> list[tuple[str, str]]:
    key = "rows_head" if table.rows == MOST else "rows_read"
    kept = say(lang, key, kept=f"{len(table.examples):,}", rows=f"{table.rows:,}")
    lines = [("rows", kept)]
    for lost in table.dropped[:REASONS]:
        reason = spoken(lost.reason, lang)
        lines.append(("", say(lang, "rows_lost", count=f"{len(lost.rows):,}", reason=reason)))
    if len(table.dropped) > REASONS:
        lines.append(("", say(lang, "more_reasons", count=len(table.dropped) - REASONS)))
    return lines


def counts(seen: Look) -> Counter[str]:
    """Return how many rows or frames bear each label."""
    return Counter(label for e in seen.table.examples for label in seen.task.labels(e))


def _labels(seen: Look, lang: str) -> str:
    found = counts(seen)
    if not found:
        return say(lang, "label_free")
    named = [f"{label} {count:,}" for label, count in found.most_common(LABELS)]
    if len(found) > LABELS:
        named.append(say(lang, "label_rest", count=f"{len(found) - LABELS:,}"))
    listed = ("、" if lang == "zh" else ", ").join(named)
    return say(lang, "label_counts", count=f"{len(found):,}", listed=listed)


def _sizes(seen: Look) -> list[int]:
    return sorted(tokens(whole(seen.task, example)) for example in seen.table.examples)


def _limit() -> int:
    from sapwood.commands.settings import entries

    limit: int = default_of(entries()["data.max_length"])
    return limit


def _lengths(seen: Look, lang: str) -> str:
    sizes, limit = _sizes(seen), _limit()
    said = {"middle": f"{sizes[len(sizes) // 2]:,}", "most": f"{sizes[-1]:,}"}
    if seen.task.family == "generation":  # whose answers have room of their own
        return say(lang, "free_lengths", **said)
    cut = sum(size > limit for size in sizes) / len(sizes)
    if not cut:
        return say(lang, "short_lengths", **said, limit=limit)
    percent = f"{100 * cut:.0f}" if cut >= 0.01 else "< 1"
    return say(lang, "text_lengths", **said, cut=percent, limit=limit)


def _shares(shares: Mapping[str, float], lang: str) -> str:
    named = [
        say(lang, "share", name=say(lang, f"lang_{c}") if c in ("en", "zh", "other") else c,
            percent=f"{100 * share:.0f}")
        for c, share in shares.items() if share >= SEEN
    ]  # fmt: skip
    return ("、" if lang == "zh" else ", ").join(named) or say(lang, "too_short")


def _base(base: Suggested, lang: str) -> list[tuple[str, str]]:
    from sapwood.models.store import installed

    beside = base.encoder if base.encoder != "none" else None
    said = {"base": base.model, "encoder": beside, "why": say(lang, base.why)}
    lines = [("base", say(lang, "base_with" if beside else "base_alone", **said))]
    for name in (base.model, beside):
        if name and name not in installed():
            lines.append(("", say(lang, "base_absent", name=name)))
    return lines


def _example(seen: Look) -> tuple[str, str]:
    from sapwood.tasks.supervised import in_words

    rows = seen.table.examples
    full = next((row for row in rows if seen.task.labels(row)), rows[0])
    example = next(iter(in_words(seen.task.name, [full])))
    text, answer = example.text, example.label or ""
    if example.turns:
        *asked, last = example.turns
        text, answer = "\n".join(f"{turn.role}: {turn.content}" for turn in asked), last.content
    return _short(text), _short(answer)


def _short(text: str) -> str:
    flat = " / ".join(line.strip() for line in text.splitlines() if line.strip())
    return flat if len(flat) <= SHOWN else flat[: SHOWN - 3].rstrip() + "..."


def as_json_object(seen: Look) -> dict[str, Any]:
    """Return the summary as a JSON-ready object."""
    sizes = _sizes(seen)
    return {
        "file": seen.table.path,
        "task": seen.task.name,
        "why": seen.why,
        "others": [{"task": guess.task, "why": guess.why} for guess in likely(seen)],
        "columns": dict(seen.columns),
        "rows": seen.table.rows,
        "usable": len(seen.table.examples),
        "lost": [{"reason": d.reason, "rows": len(d.rows)} for d in seen.table.dropped],
        "labels": dict(counts(seen).most_common()),
        "tokens": {"middle": sizes[len(sizes) // 2], "most": sizes[-1]},
        "languages": dict(seen.shares),
        "model": seen.base.model,
        "encoder": seen.base.encoder,
    }


def chosen(seen: Look, lang: str | None) -> dict[str, Any]:
    """Return the settings that differ from the default, or that init decided, by dotted name."""
    found: dict[str, Any] = {"data.train": seen.data, "data.task": seen.task.name}
    found |= {f"data.{role}": column for role, column in seen.columns.items()}
    found["model.model"] = seen.base.model
    if seen.base.encoder:
        found["model.encoder"] = seen.base.encoder
    if lang:
        found["run.lang"] = lang
    return found


def written(values: Mapping[str, Any], start: Sequence[str], lang: str) -> str:
    """Return a settings file with every setting explained; `start`: the data and the command.

    What is not in `values` stands behind a #, with its default or an example.
    """
    data, run = start
    lines = _comment(say(lang, "head_of", data=data, command=run))
    for key in ("head_paths", "head_over", "head_commented"):
        lines += _comment(say(lang, key))
    for section, settings in by_section():
        lines += ["", f"[{section}]"]
        for number, setting in enumerate(settings):
            about, default = setting.about[lang], default_of(setting)
            if default is None and setting.unset is not None and setting.name not in values:
                gap = "" if lang == "zh" else " "
                about += gap + say(lang, "left_out", unset=setting.unset[lang])
            lines += [*([""] if number else []), *_comment(about)]
            if setting.name in values:
                lines.append(f"{setting.key} = {as_toml(values[setting.name])}")
            else:
                shown = setting.example if default is None else default
                lines.append(f"# {setting.key} = {as_toml(shown)}")
    return "\n".join(lines) + "\n"


def _comment(words: str) -> list[str]:
    return [f"# {line}" for line in wrapped(words, 78)]
