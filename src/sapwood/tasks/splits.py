"""Train, development and test rows that share no text, the same whatever the rows' order.

Rows are ranked by a hash of their content and a seed, label by label, so a text always falls on
the same side; exact and near duplicates move as one unit and never cross (Lee et al., 2022,
"Deduplicating Training Data Makes Language Models Better", on what crossing does to a score).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Dropped, Example, Splits
from sapwood.tasks.duplicates import clusters, content_hash, same_text
from sapwood.tasks.readers import Table, sorted_labels

# Development rows choose between candidates. At an accuracy of 85 % the 95 % interval is about
# +-10 points with 50 rows and +-3 with 500: fewer choose by luck, more would teach better as
# training rows. Very small sets give a quarter at most, so that something is left to learn from.
DEV_LEAST, DEV_MOST, DEV_SHARE_MOST = 50, 500, 0.25
FEWEST = 20  # rows of a stratum that is worth balancing
TEST_MOST = 2000  # +-1.6 points; every candidate is scored on all of them, on a CPU if need be


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Rows that must stay together: one text and its near duplicates; `rank` orders units."""

    label: str
    rank: str
    examples: tuple[Example, ...]


def split(
    train: Table,
    *,
    dev: Table | None = None,
    test: Table | None = None,
    dev_share: float = 0.15,
    test_share: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Splits:
    """Split by content, stratified by label; carve `dev` and `test` from `train` where not given.

    Shares are of the rows of `train`, in (0, 1); `limit` caps the training rows. A carved
    development set has 50 to 500 rows (a quarter of a tiny set), a carved test set at most 2,000.
    Given test rows are all kept; rows of `dev` and `train` that repeat them, nearly or exactly,
    are dropped with a reason, and so are repeated and contradictory training rows. Row numbers in
    `dropped` are those of the file the reason names, by default the training file.

    Raises DataError E-DATA-011 when a label has too few distinct texts to be in every split, and
    ConfigError E-CONFIG-021 for a share or a limit out of range.
    """
    _must_be_in_range(dev_share, test_share, limit)
    reasons: dict[str, list[int]] = {}
    for dropped in train.dropped:
        reasons.setdefault(dropped.reason, []).extend(dropped.rows)
    tests = list(test.examples) if test is not None else []
    devs = list(dev.examples) if dev is not None else []
    for name, table in (("dev", dev), ("test", test)):
        for dropped in table.dropped if table is not None else ():
            reasons.setdefault(f"{name}: {dropped.reason}", []).extend(dropped.rows)
    devs = _without(devs, {"a test row": tests}, reasons, prefix="dev: ")
    rest = _without(
        _consistent(train.examples, reasons), {"a test row": tests, "a dev row": devs}, reasons
    )
    units = _units(rest, seed)
    carved = (test is None) + (dev is None)
    _must_suffice(units, train.labels, carved + 1, train.path)
    total = len(rest)
    if test is None:
        picked, units = _carve(units, min(round(test_share * total), TEST_MOST), carved)
        tests = _rows(picked)
    if dev is None:
        wanted = min(max(dev_share * total, DEV_LEAST), DEV_MOST, DEV_SHARE_MOST * total)
        picked, units = _carve(units, round(wanted), 1)
        devs = _rows(picked)
    if limit is not None and sum(len(u.examples) for u in units) > limit:
        units = _limited(units, limit, reasons)
    trains = _rows(units)
    labels = {e.label for e in (*trains, *devs, *tests) if e.label is not None}
    return Splits(
        train=tuple(trains),
        dev=tuple(sorted(devs, key=lambda e: e.row)),
        test=tuple(sorted(tests, key=lambda e: e.row)),
        labels=sorted_labels(labels),
        dropped=tuple(
            Dropped(reason=reason, rows=tuple(sorted(rows))) for reason, rows in reasons.items()
        ),
    )


def split_by(
    train: Table,
    *,
    dev: Table | None = None,
    test: Table | None = None,
    strata: Callable[[Example], str],
    seed: int = 0,
    limit: int | None = None,
) -> Splits:
    """Split as `split` does rows whose answer is no label, balanced by `strata` where it can be.

    A stratum too small to be in every split is none. `labels` are those of the tables.
    """
    counts = Counter(strata(example) for example in train.examples)
    unbalanced = len(counts) < 2 or min(counts.values()) < FEWEST

    def plain(table: Table) -> Table:
        some = (replace(e, label="" if unbalanced else strata(e)) for e in table.examples)
        return replace(table, examples=tuple(some), labels=("",) if unbalanced else tuple(counts))

    made = split(
        plain(train), dev=dev and plain(dev), test=test and plain(test), seed=seed, limit=limit
    )

    def whole_rows(part: Sequence[Example], table: Table | None) -> tuple[Example, ...]:
        own = {example.row: example for example in (table or train).examples}
        return tuple(own[example.row] for example in part)

    labels = {label for table in (train, dev, test) if table is not None for label in table.labels}
    return replace(
        made,
        train=whole_rows(made.train, train),
        dev=whole_rows(made.dev, dev),
        test=whole_rows(made.test, test),
        labels=sorted_labels(labels),
    )


def unseen_labels(splits: Splits) -> dict[str, int]:
    """Return label -> rows for test labels that no training row has; such rows count as errors."""
    known = {example.label for example in splits.train}
    return dict(Counter(e.label for e in splits.test if e.label and e.label not in known))


def _must_be_in_range(dev_share: float, test_share: float, limit: int | None) -> None:
    for name, share in (("dev_share", dev_share), ("test_share", test_share)):
        if not 0 < share < 1:
            raise ConfigError("E-CONFIG-021", f"{name} is {share}", fix="a share between 0 and 1")
    if dev_share + test_share >= 1:
        what = f"dev_share and test_share leave nothing to train on ({dev_share} + {test_share})"
        raise ConfigError("E-CONFIG-021", what, fix="make their sum less than 1")
    if limit is not None and limit < 1:
        raise ConfigError("E-CONFIG-021", f"the limit is {limit} rows", fix="a limit of 1 or more")


def _consistent(examples: Sequence[Example], reasons: dict[str, list[int]]) -> list[Example]:
    """Keep one row of each text; drop every row of a text that has two labels."""
    by_text: dict[str, list[Example]] = defaultdict(list)
    for example in sorted(examples, key=lambda e: e.row):
        by_text[same_text(example.text)].append(example)
    kept = []
    for same in by_text.values():
        if len({example.label for example in same}) > 1:
            rows = [example.row for example in same]
            reasons.setdefault("the same text with different labels", []).extend(rows)
            continue
        kept.append(same[0])
        if len(same) > 1:
            rows = [example.row for example in same[1:]]
            reasons.setdefault("exact duplicate", []).extend(rows)
    return kept


def _without(
    examples: Sequence[Example],
    reserved: Mapping[str, Sequence[Example]],
    reasons: dict[str, list[int]],
    prefix: str = "",
) -> list[Example]:
    """Drop the examples that are duplicates, exact or near, of `reserved` rows."""
    fixed = [(name, example) for name, rows in reserved.items() for example in rows]
    if not fixed:
        return list(examples)
    texts = [example.text for _, example in fixed]
    border = len(texts)
    gone: dict[int, str] = {}
    for group in clusters([*texts, *(example.text for example in examples)]):
        if group[0] >= border:
            continue
        name = fixed[group[0]][0]
        same = {same_text(texts[i]) for i in group if i < border}
        for i in group:
            if i >= border:
                exact = same_text(examples[i - border].text) in same
                gone[i - border] = f"{prefix}{'the same as' if exact else 'nearly'} {name}"
    for i in sorted(gone):
        reasons.setdefault(gone[i], []).append(examples[i].row)
    return [example for i, example in enumerate(examples) if i not in gone]


def _units(examples: Sequence[Example], seed: int) -> list[Unit]:
    """Group near duplicates; a unit bears its most frequent label, the first of equals."""
    groups = clusters([example.text for example in examples])
    grouped = {i for group in groups for i in group}
    groups += [[i] for i in range(len(examples)) if i not in grouped]
    units = []
    for group in groups:
        members = tuple(examples[i] for i in group)
        counts = Counter(str(example.label) for example in members)
        label = min(counts, key=lambda name: (-counts[name], name))
        rank = min(content_hash(example.text, seed) for example in members)
        units.append(Unit(label=label, rank=rank, examples=members))
    return sorted(units, key=lambda unit: unit.rank)


def _must_suffice(units: Iterable[Unit], labels: Sequence[str], least: int, path: str) -> None:
    counts = Counter(unit.label for unit in units)
    short = [(counts[label], label) for label in labels if counts[label] < least]
    if not short:
        return
    details = [
        f"'{label}': {count} distinct {'text' if count == 1 else 'texts'}"
        for count, label in sorted(short)[:20]
    ]
    if len(short) > 20:
        details.append(f"and {len(short) - 20} more labels")
    noun = "label has" if len(short) == 1 else "labels have"
    raise DataError(
        "E-DATA-011",
        f"{path}: {len(short)} {noun} fewer than {least} distinct texts, one for each split",
        details=details,
        fix="add rows for these labels, merge them into others, or take their rows out",
    )


def _quotas(counts: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Share `wanted` rows among labels by size: largest remainders, at least one each."""
    total = sum(counts.values())
    exact = {label: wanted * count / total for label, count in counts.items()}
    quotas = {label: max(1, int(share)) for label, share in exact.items()}
    spare = wanted - sum(quotas.values())
    ranked = sorted(counts, key=lambda label: (int(exact[label]) - exact[label], label))
    for label in ranked[: max(0, spare)]:
        quotas[label] += exact[label] > 1
    return quotas


def _carve(units: Sequence[Unit], wanted: int, leave: int) -> tuple[list[Unit], list[Unit]]:
    """Take about `wanted` rows in rank order: at least a unit of each label, and `leave` stay."""
    by_label: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        by_label[unit.label].append(unit)
    sizes = {label: sum(len(u.examples) for u in own) for label, own in by_label.items()}
    quotas = _quotas(sizes, wanted)
    picked: list[Unit] = []
    for label, own in by_label.items():
        chosen: list[Unit] = []
        room = quotas[label]
        for unit in own:
            if len(unit.examples) <= room and len(chosen) < len(own) - leave:
                chosen.append(unit)
                room -= len(unit.examples)
        # A label of big clusters only: the smallest one goes, so that no split lacks the label.
        picked += chosen or [min(own, key=lambda unit: (len(unit.examples), unit.rank))]
    taken = {unit.rank for unit in picked}
    return picked, [unit for unit in units if unit.rank not in taken]


def _limited(units: Sequence[Unit], limit: int, reasons: dict[str, list[int]]) -> list[Unit]:
    """Keep at most `limit` rows, stratified; with fewer rows than labels, rank alone decides."""
    counts = Counter(unit.label for unit in units for _ in unit.examples)
    quotas = _quotas(counts, limit)
    kept: list[Unit] = []
    beyond: list[int] = []
    total = 0
    for unit in units:
        chosen = []
        for example in sorted(unit.examples, key=lambda e: content_hash(e.text)):
            if quotas[unit.label] > 0 and total < limit:
                quotas[unit.label] -= 1
                total += 1
                chosen.append(example)
            else:
                beyond.append(example.row)
        if chosen:
            kept.append(Unit(label=unit.label, rank=unit.rank, examples=tuple(chosen)))
    if beyond:
        reasons[f"over the limit of {limit:,} training rows"] = beyond
    return kept


def _rows(units: Iterable[Unit]) -> list[Example]:
    return sorted((e for unit in units for e in unit.examples), key=lambda e: e.row)
