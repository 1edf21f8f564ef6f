"""What `compare --blind` and `compare --votes` do: ask people, and count what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.commands.answers import answered, own_sampling, spread
from sapwood.commands.decoding import asked, check_writes, sampling
from sapwood.commands.live import make_bases, open_adaptation
from sapwood.errors import ConfigError, DataError
from sapwood.files import write_json, write_text

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation
    from sapwood.evaluation import Bases
    from sapwood.interfaces import Answer, Example
    from sapwood.pages.words import Words


def write_page(folders: Sequence[Path], page: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Let two adaptations answer rows of a file; write the page and its key; return where they are.

    `given`: `data`, `rows`, `lang`, `device`, `dtype` and the options of `decoding`. Raises
    ConfigError: E-COMPARE-003 what is asked for cannot be compared so, and what reading and writing
    raise; DataError: E-COMPARE-004 when both say the same everywhere.
    """
    from sapwood.context.template import is_chinese
    from sapwood.pages.blind import Pair, ballot, blind_page, key_of
    from sapwood.tasks.structured import read_task

    made = _both(folders, given)
    table = read_task(given["data"], made[0].task, columns={}, need_answer=False)
    rows = spread(table.examples, given["rows"])
    bases = make_bases(given["device"], given["dtype"])
    first, second = (_texts(one, bases, rows, given) for one in made)
    pairs = [
        Pair(row=row.row, text=row.text, first=a.words, second=b.words, turns=_before(row))
        for row, a, b in zip(rows, first, second, strict=True)
    ]
    found = ballot(pairs)
    if not found.pairs:
        raise DataError(
            "E-COMPARE-004",
            f"Both wrote the same words to all {len(pairs)} prompts: there is nothing to choose.",
            fix="other adaptations, or --decoding sample",
        )
    key = key_path(page)
    said = "zh" if is_chinese([row.text for row in rows]) else "en"
    names = (str(folders[0]), str(folders[1]))
    write_text(page, blind_page(found, given["lang"] or said))
    write_json(key, key_of(found, names, str(given["data"])))
    return {"page": str(page), "key": str(key), "ballot": found.name,
            "questions": len(found.pairs), "alike": found.alike}  # fmt: skip


def key_path(page: Path) -> Path:
    """Return where the key of a page is kept: next to it."""
    return page.with_name(f"{page.stem}.key.json")


def _both(folders: Sequence[Path], given: Mapping[str, Any]) -> tuple[Adaptation, Adaptation]:
    from sapwood.tasks.structured import task_named

    wrong = []
    if len(folders) != 2:
        wrong.append(f"a blind comparison is between two adaptations, got {len(folders)}")
    elif folders[0].resolve() == folders[1].resolve():
        wrong.append("both folders are the same one")
    if not given["data"]:
        wrong.append("the prompts are missing: --data FILE")
    made = [] if wrong else [open_adaptation(folder) for folder in folders]
    for folder, one in zip(folders, made, strict=False):
        check_writes(one, given, folder)
        if task_named(one.task).family != "generation":
            wrong.append(f"{folder} is for {one.task}, whose answers are right or wrong, not liked")
    if len({one.task for one in made}) > 1:
        wrong.append(f"the tasks differ: {' and '.join(one.task for one in made)}")
    if wrong:
        raise ConfigError(
            "E-COMPARE-003",
            "These cannot be compared blindly.",
            details=wrong,
            fix="sapwood compare DIR DIR --blind page.html --data FILE",
        )
    return made[0], made[1]


def _texts(
    made: Adaptation, bases: Bases, rows: Sequence[Example], given: Mapping[str, Any]
) -> list[Answer]:
    decoding = sampling(given, own_sampling(made)) if asked(given) else None
    return [several[0] for _, several in answered(made, bases, rows, decoding)]


def _before(row: Example) -> tuple[Any, ...]:
    """Return the turns of a conversation before the answer."""
    return row.turns[:-1] if row.turns and row.turns[-1].role == "assistant" else row.turns


def count_votes(paths: Sequence[Path], key: Path | None) -> dict[str, Any]:
    """Return who won by the votes of these files, JSON-ready; see `pages.blind.counted`.

    Without `key` it is looked for next to the votes. Raises DataError: E-COMPARE-005 a file that is
    missing or holds something else, E-COMPARE-006 votes on another page.
    """
    from sapwood.pages.blind import SCHEMA_KEY, SCHEMA_VOTES, counted

    votes = [_read(path, SCHEMA_VOTES, ("ballot", "votes")) for path in paths]
    names = {one["ballot"] for one in votes}
    found = _read(key, SCHEMA_KEY, ("systems", "left", "ballot")) if key else None
    if found is None:
        found = _key_beside(paths, names)
    other = [
        str(p) for p, one in zip(paths, votes, strict=True) if one["ballot"] != found["ballot"]
    ]
    if other:
        raise DataError(
            "E-COMPARE-006",
            f"These votes are on another page than the key is of: {', '.join(other)}.",
            fix="name the key that was written with that page: --key FILE.key.json",
        )
    return counted(found, votes)


def _key_beside(paths: Sequence[Path], names: set[str]) -> dict[str, Any]:
    """Return the key of a ballot among the files next to the votes or in the current folder."""
    from sapwood.pages.blind import SCHEMA_KEY

    folders = dict.fromkeys([*(path.parent for path in paths), Path()])
    for path in (p for folder in folders for p in sorted(folder.glob("*.key.json"))):
        try:
            found = _read(path, SCHEMA_KEY, ("systems", "left", "ballot"))
        except DataError:
            continue
        if found["ballot"] in names:
            return found
    raise DataError(
        "E-COMPARE-005",
        f"The key of these votes is not next to them: no *.key.json of {', '.join(sorted(names))} "
        f"in {', '.join(str(folder) for folder in folders)}.",
        fix="name it: --key FILE.key.json; it was written beside the page",
    )


def _read(path: Path, schema: str, needed: Sequence[str]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError("E-COMPARE-005", f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise DataError("E-COMPARE-005", f"{path} is not JSON: {error}.") from None
    wrong = not isinstance(found, dict) or found.get("schema") != schema
    if wrong or any(name not in found for name in needed):
        raise DataError(
            "E-COMPARE-005",
            f"{path} is not what 'compare --blind' gave: it is no {schema}.",
            fix="--votes takes the file that the page saved, --key the one beside the page",
        )
    return dict(found)


def told(found: Mapping[str, Any], words: Words) -> str:
    """Return the result of a vote in words, a line each."""
    from sapwood.pages.blind import sentence

    counts = {name: found[name] for name in ("voters", "ties", "open", "alike")}
    lines = [sentence(found, words), words("blind_counts", **counts)]
    if found["left"]["votes"]:
        lines.append(words("blind_sides", **found["left"]))
    return "\n".join(lines)
