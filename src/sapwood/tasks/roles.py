"""Which column plays which part in a task, by name and never by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sapwood.errors import ConfigError, DataError
from sapwood.registry import did_you_mean
from sapwood.tasks.columns import Columns, clean_header, words
from sapwood.tasks.kinds import Opening


@dataclass(frozen=True, kw_only=True)
class Role:
    """A part that a column plays: `names` it goes by, the better first.

    `answer` roles may be missing where no answer is needed, `optional` ones always.
    """

    name: str
    names: tuple[str, ...]
    optional: bool = False
    answer: bool = False


Layout = tuple[Role, ...]


def role(name: str, names: str, *, optional: bool = False, answer: bool = False) -> Role:
    """Return a role whose `names` are given in one string."""
    return Role(name=name, names=tuple(names.split()), optional=optional, answer=answer)


TEXT = role(
    "text",
    "text 文本 sentence sentText content review document passage utterance context 句子 内容 原文"
    " tokens token words sentence_tokens",
)


def choose(
    opening: Opening, layouts: Sequence[Layout], *, show: tuple[str, str]
) -> tuple[dict[str, str], Columns]:
    """Return (role -> column, the columns as a table reports them) of the first layout that fits.

    `show`: the roles that hold the text and the answer. A name the caller gave wins; with an
    answer that is not needed, a layout that has one still comes first. Raises DataError
    E-DATA-006 (a named column is missing), E-DATA-004 (no layout fits), E-DATA-005 (two columns
    of one name), ConfigError E-CONFIG-121 (an unknown role).
    """
    given = _given(opening, layouts)
    for lenient in (False, True) if not opening.need_answer else (False,):
        for layout in layouts:
            chosen = _fitted(layout, opening.found, given, lenient=lenient)
            if chosen is not None and set(given) <= set(chosen):
                _refuse_doubles(opening, chosen)
                return chosen, _reported(opening, chosen, given, show)
    raise _nothing_fits(opening, layouts, given)


def _given(opening: Opening, layouts: Sequence[Layout]) -> dict[str, str]:
    known = {role.name for layout in layouts for role in layout}
    chosen: dict[str, str] = {}
    missing: list[str] = []
    for name, column in opening.given.items():
        if name not in known:
            raise ConfigError(
                "E-CONFIG-121",
                f"This task reads no column for '{name}'.{did_you_mean(name, known)}",
                fix=f"name columns for: {', '.join(sorted(known))}",
            )
        wanted = clean_header(column)
        loose = [found for found in opening.found if words(found) == words(wanted)]
        if wanted in opening.found:
            chosen[name] = wanted
        elif loose:
            chosen[name] = loose[0]
        else:
            missing.append(f"there is no column '{column}'.{did_you_mean(column, opening.found)}")
    if missing:
        raise DataError(
            "E-DATA-006",
            f"{opening.where}: cannot tell which columns to use",
            details=[*missing, _listed(opening.found)],
            fix="name a column that is there",
        )
    return chosen


def _fitted(
    layout: Layout, found: Sequence[str], given: dict[str, str], *, lenient: bool
) -> dict[str, str] | None:
    chosen = {name: column for name, column in given.items() if name in {r.name for r in layout}}
    split = {words(column): column for column in reversed(found)}
    for part in layout:
        if part.name in chosen:
            continue
        taken = set(chosen.values())
        fits = (split.get(words(name)) for name in part.names)
        column = next((c for c in fits if c is not None and c not in taken), None)
        if column is not None:
            chosen[part.name] = column
        elif not part.optional and not (part.answer and lenient):
            return None
    return chosen


def _refuse_doubles(opening: Opening, chosen: dict[str, str]) -> None:
    for column in chosen.values():
        places = [str(i) for i, name in enumerate(opening.found, 1) if name == column]
        if len(places) > 1:
            raise DataError(
                "E-DATA-005",
                f"{opening.where}: columns {' and '.join(places)} are both named '{column}'",
                details=[_listed(opening.found)],
                fix="give each column its own name in the first line",
            )


def _reported(
    opening: Opening, chosen: dict[str, str], given: dict[str, str], show: tuple[str, str]
) -> Columns:
    why = [
        f"{name}: '{column}' {'as named' if name in given else 'by name'}"
        for name, column in chosen.items()
    ]
    return Columns(
        text=chosen.get(show[0]) or next(iter(chosen.values())),
        label=chosen.get(show[1]),
        why="; ".join(why),
        found=opening.found,
    )


def _nothing_fits(opening: Opening, layouts: Sequence[Layout], given: dict[str, str]) -> DataError:
    details: list[str] = []
    guesses: list[str] = []
    for layout in layouts:
        lacking = []
        for part in layout:
            there = _fitted((part,), opening.found, given, lenient=not opening.need_answer)
            if there is not None:
                continue
            lacking.append(f"{part.name} ({', '.join(part.names[:4])}, ...)")
            near = (did_you_mean(name, opening.found) for name in part.names if len(name) > 3)
            guesses += [guess for guess in near if guess]
        if lacking:
            details.append(f"no column looks like {' or '.join(lacking)}")
    hint = guesses[0] if guesses else ""
    details = list(dict.fromkeys(details))
    details[0] += f".{hint}" if hint else ""
    needed = layouts[0][-1].name
    return DataError(
        "E-DATA-004",
        f"{opening.where}: cannot tell which columns to use",
        details=[*details, _listed(opening.found)],
        fix=f"rename a column, or name it: {needed}=COLUMN",
    )


def _listed(found: Sequence[str]) -> str:
    return f"columns found: {', '.join(repr(name) for name in dict.fromkeys(found)) or 'none'}"
