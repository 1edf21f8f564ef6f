"""Poems in form: how many keep it before tuning, few-shot, tuned, and under a grammar.

Gemma 3 270M writes to the titles of the test quatrains of quantangshi_zh, one poem a title, drawn
at temperature 0.8 from tokens with a twentieth of the most probable one's share: draw n is seeded
by its number alone, so the first ten are no choice of anyone's. Each poem is checked by the form
that its prompt names (lines and characters; rhyme in Middle Chinese; level and oblique tones; all
of it), with Wilson's 95 % intervals. Beside them stand the real poems of these titles, the same
with their lines shuffled, and lines drawn from different poems: what a check is worth is what tells
these apart. SmolLM2-135M writes Shakespearean sonnets to first lines (`--sonnets`). What is
finished is kept under --cache: the same call goes on there, `--only NAME ...` does some arms and
`--pieces N` a little of them. `--markdown FILE` writes the tables and the first ten draws between
the marks in FILE.
"""

from __future__ import annotations

import html
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

from common import (
    arguments,
    contention,
    finish,
    machine,
    say,
    settle,
    shared_folder,
    versions,
)

FORMS = {"wujue": "五言絕句", "qijue": "七言絕句"}
SONNET = "shakespearean"
SHOTS, SONNET_SHOTS = 8, 2
POEMS, PIECE = 64, 32  # poems of each form and arm, and how many are written and kept at once
TEMPERATURE, MIN_P = 0.8, 0.05
TOKENS, SONNET_TOKENS = 56, 224  # a quatrain takes 33 of Gemma's, at most 39; a sonnet about 170
GRAMMAR_TOKENS = 128  # a grammar ends by itself, and may ask for rare characters of 3 tokens each
SHOWN = 10
ARMS = ("before tuning", "few-shot", "tuned", "before tuning, grammar", "few-shot, grammar",
        "tuned, grammar")  # fmt: skip
SONNET_ARMS = ARMS[:3]
KEYS = {
    "lines_right": "lines", "characters_right": "characters", "syllables_right": "syllables",
    "rhyme": "rhyme", "tones": "tones", "metre": "metre", "all_right": "all",
}  # fmt: skip


def quatrains(part: str, limit: int, options: Any) -> list[dict[str, str]]:
    """Return {"prompt", "text", "form"} of up to `limit` poems of each form."""
    from sapwood.tasks.forms import form_named

    rows = []
    folder = shared_folder("poetry/quantangshi_zh")
    # for the tests, which may have no data: the four lines of one poem in every order
    lines = ("春眠不覺曉", "處處聞啼鳥", "夜來風雨聲", "花落知多少")
    poems = [
        (f"題目：{n}", "{}，{}。\n{}，{}。".format(*some))
        for n, some in enumerate(permutations(lines))
    ]
    if folder is not None and not options.smoke:
        lines = (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
        poems = [(row["prompt"], row["text"]) for row in map(json.loads, lines)]
    for name, spoken in FORMS.items():
        form = form_named(name)
        own = [
            {"prompt": f"{prompt.splitlines()[0]}\n體裁：{spoken}", "text": text, "form": name}
            for prompt, text in poems
            if form.keeps(text)
        ]
        rows += own[:limit]
    return rows


def sonnets(part: str, limit: int, options: Any) -> list[dict[str, str]]:
    """Return Shakespeare's sonnets, each asked for by its first line."""
    folder = shared_folder("poetry/shakespeare_sonnets_en")
    if folder is None or options.smoke:
        return []
    lines = (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{**json.loads(line), "form": SONNET} for line in lines]
    return [{key: row[key] for key in ("prompt", "text", "form")} for row in rows][:limit]


def written(
    bases: Any, made: Any, rows: Sequence[dict[str, str]], tokens: int, kept: list[str]
) -> Iterator[list[str]]:
    """Yield one poem a row after those `kept`, a piece at a time, drawn by the row's number."""
    from sapwood.evaluation import asking
    from sapwood.interfaces import Example
    from sapwood.models.choosing import Sampling

    asked_rows = [Example(text=row["prompt"], row=n) for n, row in enumerate(rows)]
    with asking(made, bases) as asked:
        asked.decode_by(Sampling(tokens=tokens, temperature=TEMPERATURE, min_p=MIN_P))
        for start in range(len(kept), len(rows), PIECE):
            piece = asked.drawn(asked_rows[start : start + PIECE])
            yield [several[0].words for several in piece]


def prompted(bases: Any, model: str, shown: Sequence[dict[str, str]], tokens: int) -> Any:
    """Return an adaptation that only prompts, with these demonstrations or none."""
    from sapwood.adaptation import Adaptation
    from sapwood.context.prompter import Context
    from sapwood.context.wording import template_for
    from sapwood.interfaces import Example, Schema
    from sapwood.readouts.written import Written

    texts = [row["prompt"] for row in shown] or ["題目：春曉"]
    examples = tuple(Example(text=row["prompt"], label=row["text"]) for row in shown)
    return Adaptation(
        labels=(), task="poetry", readout_name="generate", base=bases.reference(model),
        readout=Written(task="poetry", schema=Schema(types=()), tokens=tokens),
        context=Context(
            template=template_for("poetry", (), texts), demonstrations=examples,
            shots=len(examples), max_text_tokens=64,
        ),
    )  # fmt: skip


def tuned(data: dict[str, Any], folder: Path, options: Any) -> Any:
    """Return the LoRA that `adapt` trains on the rows; a run that was cut off goes on.

    Few rows are scored: the time is for training.
    """
    from sapwood.adaptation import load
    from sapwood.launch import choose_runtime
    from sapwood.report import model_card
    from sapwood.search.adapt import adapt
    from sapwood.search.job import Job, Tuning

    parts = {"train": data["train"], "dev": data["dev"][::2], "test": data["dev"][1::2]}
    folder.mkdir(parents=True, exist_ok=True)
    for part, some in parts.items():
        plain = ({key: row[key] for key in ("prompt", "text")} for row in some)
        lines = [json.dumps(row, ensure_ascii=False) for row in plain]
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    job = Job(
        data=str(folder / "train.jsonl"), dev=str(folder / "dev.jsonl"),
        test=str(folder / "test.jsonl"), out=folder / "adapt", model=data["model"],
        task="poetry", seconds=options.seconds, max_length=64, only=("lora",),
        tuning=Tuning(epochs=options.epochs, batch_size=8),
    )  # fmt: skip
    place = job.out / "run" / "candidates" / "lora" / "adaptation"
    if not place.exists():
        for _ in adapt(job, choose_runtime("cpu", "float32"), card=model_card):
            pass
    return load(place)


def arm(name: str, form: str, data: dict[str, Any], options: Any) -> list[str]:
    """Return the poems of one arm, written now or before."""
    from sapwood.evaluation import Bases
    from sapwood.launch import choose_runtime

    place = options.cache / f"{form}-{name.replace(', ', '-').replace(' ', '-')}.json"
    found: list[str] = json.loads(place.read_text("utf-8")) if place.exists() else []
    own = [row for row in data["test"] if row["form"] == form]
    if len(found) >= len(own) or options.pieces == 0:
        return found[: len(own)]
    shown = [row for row in data["train"] if row["form"] == form]
    random.Random(0).shuffle(shown)
    english = form == SONNET
    tokens, shots = (SONNET_TOKENS, SONNET_SHOTS) if english else (TOKENS, SHOTS)
    if name.endswith("grammar"):
        tokens = GRAMMAR_TOKENS
    if options.smoke:
        tokens, shots = 160, 1  # the tests' tokenizer writes bytes, and its base reads 512
    model = data["model"]
    bases = Bases(choose_runtime("cpu", "float32"))
    if name.startswith("tuned"):
        folder = options.cache / f"tuned-{'sonnets' if english else 'quatrains'}"
        made = tuned(data, folder, options)
    else:
        made = prompted(bases, model, shown[:shots] if name.startswith("few") else [], tokens)
    if name.endswith("grammar"):
        made = replace(made, readout=replace(made.readout, form=form))
    place.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    for piece in written(bases, made, own, tokens, found):
        found = found + piece
        place.write_text(json.dumps(found, ensure_ascii=False, indent=0), encoding="utf-8")
        say(f"  {form} {name}: {len(found)} poems, {time.perf_counter() - began:.0f} s")
        options.pieces -= 1
        if options.pieces == 0:
            break
    return found


def disordered(poems: Sequence[str], *, mixed: bool) -> list[str]:
    """Return the poems with their lines shuffled, or with each line from some poem of the set."""
    from sapwood.tasks.regulated import verses

    draws = random.Random(0)
    english = poems[0].isascii()
    lines = [poem.splitlines() if english else verses(poem) for poem in poems]
    if mixed:
        lines = [[draws.choice(lines)[n % 4] for n, _ in enumerate(own)] for own in lines]
    else:
        lines = [draws.sample(own, len(own)) for own in lines]
    return ["\n".join(own) for own in lines]


def rated(form: str, way: str, poems: Sequence[str]) -> dict[str, Any]:
    """Return the shares of poems that hold each thing, with intervals."""
    from sapwood.tasks.forms import rates

    found = rates(poems, poems, (form,))
    row: dict[str, Any] = {"form": form, "way": way, "poems": len(poems)}
    for key in KEYS:
        if key in found:
            row[key] = {end: round(found[key][end], 4) for end in ("value", "low", "high")}
    row["different"] = round(len(set(poems)) / len(poems), 4)
    return row


def measured(data: dict[str, Any], arms: Sequence[str], options: Any) -> Iterator[dict[str, Any]]:
    """Yield a row for each form and way of writing, the real poems first."""
    for form in dict.fromkeys(row["form"] for row in data["test"]):
        real = [row["text"] for row in data["test"] if row["form"] == form]
        yield rated(form, "real poems", real)
        yield rated(form, "their lines shuffled", disordered(real, mixed=False))
        yield rated(form, "lines of different poems", disordered(real, mixed=True))
        for name in arms:
            if options.only and name not in options.only:
                continue
            poems = arm(name, form, data, options)
            if not poems:
                continue
            row = rated(form, name, poems)
            row["samples"] = poems[:SHOWN]
            yield row


def told(rows: Sequence[dict[str, Any]], data: Sequence[dict[str, Any]]) -> str:
    """Return the tables and the first draws as Markdown."""
    out = []
    titles = {
        form: [r["prompt"].splitlines()[0] for d in data for r in d["test"] if r["form"] == form]
        for form in dict.fromkeys(row["form"] for row in rows)
    }
    for form in titles:
        own = [row for row in rows if row["form"] == form]
        keys = [key for key in KEYS if key in own[0]]
        out += [f"### {form}: share of poems, in percent, with 95 % intervals", ""]
        out += ["| | poems | " + " | ".join(KEYS[key] for key in keys) + " |"]
        out += ["|---" * (len(keys) + 2) + "|"]
        for row in own:
            cells = [
                f"{100 * row[k]['value']:.1f} ({100 * row[k]['low']:.1f} to "
                f"{100 * row[k]['high']:.1f})"
                for k in keys
            ]
            out.append(f"| {row['way']} | {row['poems']} | " + " | ".join(cells) + " |")
        out.append("")
        for row in own:
            if "samples" not in row:
                continue
            out += [f"<details><summary>{form}, {row['way']}: draws 0 to {SHOWN - 1}</summary>", ""]
            for number, poem in enumerate(row["samples"]):
                lines = " / ".join(line.strip() for line in poem.splitlines() if line.strip())
                shown = html.escape(lines, quote=False) or "(nothing)"
                out.append(f"{number}. *{titles[form][number]}*: {shown}")
            out += ["", "</details>", ""]
    return "\n".join(out)


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    about = machine(options.threads)
    model = options.model if options.smoke else "gemma3-270m"
    few = 4 if options.smoke else 16 if options.quick else options.poems
    sets = {part: quatrains(part, most, options) for part, most in (("train", 1000), ("dev", 16))}
    data = [{"model": model, "test": quatrains("test", few, options), **sets}]
    rows: list[dict[str, Any]] = []
    with contention(about):
        rows += measured(data[0], ARMS, options)
        if options.sonnets:
            sets = {part: sonnets(part, 1000, options) for part in ("train", "dev")}
            data.append({"model": options.model, "test": sonnets("test", few, options), **sets})
            rows += measured(data[1], SONNET_ARMS, options)
    if options.markdown:
        text = options.markdown.read_text(encoding="utf-8")
        before, _, rest = text.partition("<!-- poems: begin -->")
        after = rest.partition("<!-- poems: end -->")[2]
        marks = ("<!-- poems: begin -->\n", "\n<!-- poems: end -->")
        options.markdown.write_text(
            f"{before}{marks[0]}{told(rows, data)}{marks[1]}{after}", encoding="utf-8"
        )
    by = {(row["form"], row["way"]): row for row in rows}
    ratios = {
        f"{form}_all_right_{way.replace(', ', '_').replace(' ', '_').replace('-', '_')}":
            row["all_right"]["value"]
        for (form, way), row in by.items() if row["all_right"]["value"]
    }  # fmt: skip
    return {
        "claim": "Share of written poems that keep their form: counts, rhyme, tones, all of it",
        "machine": about,
        "versions": versions(),
        "data": "made up" if options.smoke else "quantangshi_zh",
        "rows": rows,
        "ratios": ratios,
    }


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cache", type=Path, help="finished pieces")
    parser.add_argument("--seconds", type=float, default=3600, help="most of tuning")
    parser.add_argument("--epochs", type=float, default=1.0, help="of tuning (default 1)")
    parser.add_argument(
        "--pieces",
        type=int,
        default=-1,
        help="stop after so many new ones of 32 poems; the next call goes on",
    )
    parser.add_argument("--poems", type=int, default=POEMS, help="of each form (default 64)")
    parser.add_argument("--only", nargs="+", choices=ARMS, default=[], help="some of the arms")
    parser.add_argument("--sonnets", action="store_true", help="English sonnets as well")
    parser.add_argument("--markdown", type=Path, help="a file whose marked part is replaced")
    options = parser.parse_args()
    settle(options.threads)
    from sapwood.config import home

    options.cache = options.cache or home() / "benchmarks" / "poems"
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
