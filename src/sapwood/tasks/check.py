"""Every problem of a labelled data set at once: what, where, why, and what mends it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from sapwood.interfaces import Example
from sapwood.tasks.duplicates import clusters, same_text
from sapwood.tasks.labels import near_misses, nearest_label
from sapwood.tasks.languages import languages
from sapwood.tasks.readers import Table
from sapwood.tasks.structured import task_named

Labels = Callable[[Example], tuple[str, ...]]  # the labels that an example holds
Level = Literal["block", "warn", "note"]

OVERLAP_BLOCKS = 0.01  # of the test rows: beyond, a score says little about new texts
DROPPED_WARNS = 0.05
TRUNCATED_WARNS = 0.10
FEW = 10  # rows of a class; fewer cannot be split, let alone measured
TEST_FEW = 100  # rows; below, a 95 % interval is wider than +-7 points at 85 %
MIXED_WARNS = 0.05  # share of a second language
CONFLICT_WARNS = 0.01
SHOWN = 40  # characters of a value shown


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One kind of problem: `count` rows, numbered in `rows`, with one value as an example."""

    code: str
    level: Level
    what: str
    count: int
    rows: tuple[int, ...] = ()
    value: str = ""
    cause: str = ""
    fix: str = ""
    where: Literal["data", "test"] = "data"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What `check` found.

    `relabel` (wrong -> right label), `repeated` and `leaked` (rows of the data, the latter also
    in the test data) are what `write_fixed` will mend.
    """

    path: str
    rows: int
    kept: int
    labels: Mapping[str, int]
    problems: tuple[Problem, ...]
    languages: Mapping[str, float]
    lengths: Mapping[str, Any]
    near_duplicates: int = 0
    leakage: Mapping[str, int] = field(default_factory=lambda: {"exact": 0, "near": 0})
    relabel: Mapping[str, str] = field(default_factory=dict)
    repeated: tuple[int, ...] = ()
    leaked: tuple[int, ...] = ()
    columns: Mapping[str, str | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def blocks(self) -> bool:
        """Tell whether a problem makes training or its score meaningless."""
        return any(problem.level == "block" for problem in self.problems)

    @property
    def warns(self) -> bool:
        """Tell whether a problem deserves a look before training."""
        return any(problem.level == "warn" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return all findings as one JSON-ready object; row lists are complete."""
        return {"schema": "sapwood.check/1", "blocks": self.blocks, **asdict(self)}


def check(
    table: Table,
    *,
    test: Table | None = None,
    limit_tokens: int | None = None,
    count_tokens: Callable[[list[str]], list[int]] | None = None,
) -> Findings:
    """Look for every known problem in `table`, and for leakage into `test`.

    `limit_tokens` is the longest text a model takes, in the unit of `count_tokens` (default:
    characters). Blocking: test overlap above 1 %. Warnings: more than 5 % of rows dropped, more
    than 10 % too long, a class under 10 rows, fewer than 100 test rows, likely slips in labels.
    """
    examples, labels_of = table.examples, task_named(table.task).labels
    counts = Counter(label for example in examples for label in labels_of(example))
    groups = clusters([example.text for example in examples])
    repeated, doubles = _doubles(examples, groups)
    misses, one = near_misses(counts), table.task in ("classification", "pairs")
    values = _many_classes(examples, counts) if one else []
    lengths, long = _lengths(examples, limit_tokens, count_tokens)
    shares = languages([example.text for example in examples])
    leaked: tuple[int, ...] = ()
    leakage, leaks = {"exact": 0, "near": 0}, list[Problem]()
    if test is not None:
        leakage, leaks, leaked = _leakage(table, test)
    problems = [
        *_dropped(table, "data"),
        *_mended(table),
        *_label_slips(examples, misses, labels_of, fixable=table.task == "classification"),
        *doubles,
        *leaks,
        *(_dropped(test, "test") if test is not None else []),
        *(_test_labels(test, counts, labels_of) if test is not None else []),
        *(values or _small_classes(examples, counts, misses, labels_of)),
        *long,
        *_mixed(shares),
    ]
    order = {"block": 0, "warn": 1, "note": 2}
    return Findings(
        path=table.path,
        rows=table.rows,
        kept=len(examples),
        labels=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        problems=tuple(sorted(problems, key=lambda problem: order[problem.level])),
        languages=shares,
        lengths=lengths,
        near_duplicates=sum(p.count for p in doubles if p.code == "D-NEAR"),
        leakage=leakage,
        relabel=misses if table.task == "classification" else {},
        repeated=repeated,
        leaked=leaked,
        columns={"text": table.columns.text, "label": table.columns.label},
        notes=table.notes,
    )


def shown(text: str) -> str:
    """Return the start of a value on one line."""
    line = same_text(text)
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."


def histogram(lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return (counts, edges) of at most 20 equal bins over non-negative lengths."""
    if not lengths:
        return [], []
    step = max(1, -(-(max(lengths) + 1) // 20))
    bins = max(lengths) // step + 1
    counts = Counter(length // step for length in lengths)
    return [counts[i] for i in range(bins)], [step * i for i in range(bins + 1)]


def _dropped(table: Table, where: Literal["data", "test"]) -> list[Problem]:
    lost = sum(len(dropped.rows) for dropped in table.dropped)
    level: Level = "warn" if lost > DROPPED_WARNS * table.rows else "note"
    return [
        Problem(
            code="D-DROPPED",
            level=level,
            what=dropped.reason,
            count=len(dropped.rows),
            rows=dropped.rows,
            cause="these rows are left out",
            fix=dropped.fix,
            where=where,
        )
        for dropped in table.dropped
    ]


def _mended(table: Table) -> list[Problem]:
    return [
        Problem(code="D-MENDED", level="note", what=m.reason, count=len(m.rows), rows=m.rows)
        for m in table.mended
    ]


def _label_slips(
    examples: Sequence[Example], misses: Mapping[str, str], labels_of: Labels, *, fixable: bool
) -> list[Problem]:
    problems = []
    for wrong, right in misses.items():
        rows = tuple(example.row for example in examples if wrong in labels_of(example))
        problems.append(
            Problem(
                code="D-LABEL",
                level="warn",
                what=f"label '{wrong}': did you mean '{right}'?",
                count=len(rows),
                rows=rows,
                value=wrong,
                cause="it would be learnt as a class of its own",
                fix="--fix OUT writes the frequent form" if fixable else "mend it in the file",
            )
        )
    return problems


def _doubles(
    examples: Sequence[Example], groups: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], list[Problem]]:
    by_text: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_text[same_text(example.text)].append(example)
    repeated: list[int] = []
    conflicts: list[Example] = []
    for same in by_text.values():
        if len(same) > 1 and len({example.label for example in same}) > 1:
            conflicts += same
        else:
            repeated += [example.row for example in same[1:]]
    near: list[Example] = []
    for group in groups:
        members = [examples[i] for i in group]
        distinct = {same_text(example.text): example for example in reversed(members)}
        near += sorted(distinct.values(), key=lambda example: example.row)[1:]
    problems = [
        _found("D-SAME", "note", "the same text and label again", [e for e in examples
               if e.row in set(repeated)], "a text that counts twice weighs twice",
               "--fix OUT keeps the first"),
        _found("D-CONFLICT", "warn" if len(conflicts) > CONFLICT_WARNS * len(examples) else "note",
               "the same text with different labels", conflicts,
               "no model can be right on all of them", "decide by hand which label is right"),
        _found("D-NEAR", "note", "nearly the same text as another row", near,
               "they are kept in one split, so that none leaks", ""),
    ]  # fmt: skip
    return tuple(sorted(repeated)), [problem for problem in problems if problem.count]


def _found(
    code: str, level: Level, what: str, examples: Sequence[Example], cause: str, fix: str
) -> Problem:
    return Problem(
        code=code,
        level=level,
        what=what,
        count=len(examples),
        rows=tuple(sorted(example.row for example in examples)),
        value=shown(min(examples, key=lambda example: example.row).text) if examples else "",
        cause=cause,
        fix=fix,
    )


def _leakage(table: Table, test: Table) -> tuple[dict[str, int], list[Problem], tuple[int, ...]]:
    """Return (counts of leaking test rows, the problems, the training rows to take out)."""
    known = {same_text(example.text) for example in table.examples}
    border = len(table.examples)
    exact: list[Example] = []
    near: list[Example] = []
    leaked: list[int] = []
    for group in clusters([example.text for example in (*table.examples, *test.examples)]):
        if group[0] < border <= group[-1]:
            leaked += [table.examples[i].row for i in group if i < border]
            for i in group:
                if i >= border:
                    example = test.examples[i - border]
                    (exact if same_text(example.text) in known else near).append(example)
    share = (len(exact) + len(near)) / len(test.examples)
    level: Level = "block" if share > OVERLAP_BLOCKS else "warn"
    cause = f"together {share:.1%} of the test rows are known from training: scores are too good"
    fix = f"--fix OUT leaves {len(leaked):,} training rows out"
    problems = [
        _found("D-LEAK", level, "also in the training data", exact, cause, fix),
        _found("D-LEAK-NEAR", level, "nearly the same as a training row", near, cause, fix),
    ]
    found = [replace(problem, where="test") for problem in problems if problem.count]
    return {"exact": len(exact), "near": len(near)}, found, tuple(sorted(leaked))


def _test_labels(test: Table, counts: Counter[str], labels_of: Labels) -> list[Problem]:
    problems = []
    unseen = [label for label in test.labels if label not in counts]
    guesses = {label: nearest_label(label, counts) for label in unseen}
    groups = [[label] for label in unseen if guesses[label]]
    groups += [strange] if (strange := [label for label in unseen if not guesses[label]]) else []
    for group in groups:
        rows = tuple(e.row for e in test.examples if not {*group}.isdisjoint(labels_of(e)))
        listed = ", ".join(f"'{label}'" for label in group[:4])
        more = f" and {len(group) - 4} more" if len(group) > 4 else ""
        verb = "label {} is" if len(group) == 1 else "labels {} are"
        guess = guesses[group[0]]
        problems.append(
            Problem(
                code="D-UNSEEN",
                level="warn",
                what=f"{verb.format(listed + more)} not in the training data"
                + (f": did you mean '{guess}'?" if guess else ""),
                count=len(rows),
                rows=rows,
                value=group[0],
                cause="no model can answer these rows right",
                fix="add training rows, or mend the label",
                where="test",
            )
        )
    if len(test.examples) < TEST_FEW:
        problems.append(
            Problem(
                code="D-TEST-SMALL",
                level="warn",
                what=f"only {len(test.examples)} test rows",
                count=len(test.examples),
                cause="differences between models will rarely be separable",
                fix=f"{TEST_FEW} rows or more",
                where="test",
            )
        )
    return problems


def _many_classes(examples: Sequence[Example], counts: Counter[str]) -> list[Problem]:
    """Tell a column of numbers or free text from one of classes."""
    if len(examples) < 2 * FEW or len(counts) * 2 <= len(examples):
        return []
    listed = ", ".join(f"'{shown(label)}'" for label in list(counts)[:3])
    return [
        Problem(
            code="D-CLASSES",
            level="block",
            what=f"{len(counts):,} different labels in {len(examples):,} rows: {listed}, ...",
            count=len(examples),
            cause="these are values or texts, not classes",
            fix="choose another column with --label",
        )
    ]


def _small_classes(
    examples: Sequence[Example],
    counts: Counter[str],
    misses: Mapping[str, str],
    labels_of: Labels,
) -> list[Problem]:
    small = {label: n for label, n in counts.items() if n < FEW and label not in misses}
    if not small:
        return []
    ranked = sorted(small.items(), key=lambda item: (item[1], item[0]))
    listed = ", ".join(f"'{label}' {n}" for label, n in ranked[:4])
    more = f" and {len(ranked) - 4} more" if len(ranked) > 4 else ""
    noun = "class has" if len(small) == 1 else "classes have"
    return [
        Problem(
            code="D-FEW",
            level="warn",
            what=f"{len(small)} {noun} fewer than {FEW} rows: {listed}{more}",
            count=sum(small.values()),
            rows=tuple(e.row for e in examples if not small.keys().isdisjoint(labels_of(e))),
            value=ranked[0][0],
            cause="too few to learn from and to measure",
            fix="add rows, or merge small classes into one",
        )
    ]


def _lengths(
    examples: Sequence[Example],
    limit: int | None,
    count_tokens: Callable[[list[str]], list[int]] | None,
) -> tuple[dict[str, Any], list[Problem]]:
    texts = [example.text for example in examples]
    lengths = count_tokens(texts) if count_tokens else [len(text) for text in texts]
    unit = "tokens" if count_tokens else "characters"
    bars, edges = histogram(lengths)
    ordered = sorted(lengths)
    card = {
        "unit": unit,
        "counts": bars,
        "edges": edges,
        "limit": limit,
        "median": ordered[len(ordered) // 2],
        "longest": ordered[-1],
    }
    long = [e for e, n in zip(examples, lengths, strict=True) if limit is not None and n > limit]
    if not long:
        return card, []
    level: Level = "warn" if len(long) > TRUNCATED_WARNS * len(examples) else "note"
    what = f"longer than the limit of {limit:,} {unit} (longest: {ordered[-1]:,})"
    cause = "the end of the text would be cut off"
    return card, [_found("D-LONG", level, what, long, cause, f"a limit of {ordered[-1]:,}")]


def _mixed(shares: Mapping[str, float]) -> list[Problem]:
    named = [(code, share) for code, share in shares.items() if code != "other"]
    if len(named) < 2 or named[1][1] < MIXED_WARNS:
        return []
    listed = ", ".join(f"{code} {share:.0%}" for code, share in named)
    return [
        Problem(
            code="D-LANGUAGES",
            level="warn",
            what=f"several languages: {listed}",
            count=0,
            cause="a base model for one of them reads the others badly",
            fix="choose a multilingual base, or one file a language",
        )
    ]
