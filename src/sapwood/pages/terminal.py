"""The ending of a run in a terminal: the candidates' table and the verdict, without colour."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from sapwood.pages.candidates import Report, Row, ranked, score, shown
from sapwood.pages.confidence import summary
from sapwood.pages.panel import panel
from sapwood.pages.verdict import verdict
from sapwood.pages.words import ABSENT, Words, is_number, language_of

_LEAST = 40
# What a stream that cannot show a sign gets instead.
_PLAIN = {
    "\N{MINUS SIGN}": "-",
    "\N{EM DASH}": "-",
    "\N{EN DASH}": "-",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{NO-BREAK SPACE}": " ",
    "\N{MIDDLE DOT}": "-",
    "，": ", ",
    "。": ". ",
    "：": ": ",
    "；": "; ",
    "（": " (",
    "）": ") ",
    "、": ", ",
}
# Columns are left out in this order until the table fits.
_SACRIFICES = ("size", "fit", "dev", "query", "macro", "interval")


def columns_of(text: str) -> int:
    """Return the number of terminal columns of `text`: wide characters take two, marks none.

    >>> columns_of("lora"), columns_of("情感")
    (4, 4)
    """
    total = 0
    for sign in text:
        if not unicodedata.combining(sign):
            total += 2 if unicodedata.east_asian_width(sign) in "WF" else 1
    return total


def terminal_table(
    report: Report, width: int = 80, *, encoding: str = "utf-8", lang: str | None = None
) -> str:
    """Return the candidates' table and the verdict, no line wider than `width` columns (min. 40).

    Where the report has a panel, the task's scores of the recommended stand between the two.

    The recommended is marked with ``*``. Every character can be written in `encoding`: where it
    cannot, signs become ASCII and what is left a question mark; Chinese sentences become English.
    """
    width = max(width, _LEAST)
    language = language_of(lang or report.get("language"))
    if language == "zh" and not _writable("准确率", encoding):
        language = "en"
    words = Words(lang=language)
    lines = [*_table(report, width, words), *_panel(report, width, words)]
    told = [line for sentence in summary(report, words) for line in wrapped(sentence, width)]
    lines += ["", *told] if told else []
    stored = str(report.get("verdict") or "")
    same = language_of(report.get("language")) == language
    sentence = stored if stored and same else verdict(report, language)[0]
    lines += ["", *wrapped(sentence, width)]
    return written("\n".join(lines), width, encoding)


def written(text: str, width: int, encoding: str) -> str:
    """Return `text` in signs that `encoding` has; lines that grow past `width` are wrapped."""
    return text if _writable(text, encoding) else _plain(text, width, encoding)


def aligned(table: Sequence[Sequence[str]], width: int, *, left: int) -> list[str]:
    """Return a table's lines, a rule under the first; the first `left` columns to the left.

    The first column gives way where the table is wider than `width`; it keeps its end, which is
    what tells folders apart.
    """
    sizes = [max(columns_of(row[i]) for row in table) for i in range(len(table[0]))]
    sizes[0] = max(8, min(sizes[0], width - sum(sizes[1:]) - 2 * (len(sizes) - 1)))
    lines = []
    for row in table:
        first = row[0]
        while columns_of(first) > sizes[0]:
            first = "\N{HORIZONTAL ELLIPSIS}" + first.lstrip("\N{HORIZONTAL ELLIPSIS}")[1:]
        cells = []
        for number, (cell, size) in enumerate(zip((first, *row[1:]), sizes, strict=True)):
            pad = " " * (size - columns_of(cell))
            cells.append(cell + pad if number < left else pad + cell)
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * (sum(sizes) + 2 * (len(sizes) - 1)))
    return lines


def _table(report: Report, width: int, words: Words) -> list[str]:
    heads = {
        "name": words("col_candidate"),
        "dev": words("col_dev"),
        "test": words("col_test"),
        "interval": words("col_interval"),
        "macro": words("col_macro_f1"),
        "fit": words("col_fit"),
        "query": words("col_query"),
        "size": words("col_size"),
    }
    rows = [(c, _cells(c, words)) for c in ranked(report)]
    keys = [k for k in heads if k != "macro" or any(c[k] != ABSENT for _, c in rows)]
    for victim in ("", *_SACRIFICES):
        keys = [key for key in keys if key != victim]
        sizes = {k: max(columns_of(r[k]) for r in (heads, *(c for _, c in rows))) for k in keys}
        rest = sum(sizes[k] + 2 for k in keys if k != "name") + 2
        if rest + min(sizes["name"], 24) <= width:
            break
    sizes["name"] = min(sizes["name"], width - rest)
    lines = ["  " + _line(heads, keys, sizes)]
    lines.append("  " + "-" * (sum(sizes.values()) + 2 * (len(keys) - 1)))
    for candidate, cells in rows:
        mark = "* " if candidate.get("name") == report.get("recommended") else "  "
        lines.append((mark + _line(cells, keys, sizes)).rstrip())
        lines += _remark(candidate, width, words)
    return lines


# Below this many columns the task's scores are shown without precision, recall and intervals.
_ROOMY = 64


def _panel(report: Report, width: int, words: Words) -> list[str]:
    """Return the lines of the recommended's scores of the task, after an empty one."""
    found = panel(report, words)
    if found is None:
        return []
    rows = [
        [words("col_measure"), words("col_precision"), words("col_recall"), words("col_f1")],
        *(
            [m["name"], *(words.percent(m[key]) for key in ("precision", "recall", "value"))]
            for m in found["measures"]
        ),
    ]
    if found["groups"]:
        rows = [[words("col_measure"), words("col_interval"), words("col_written")]]
        rows += [
            [line["name"], line["interval"] or ABSENT, line["value"]]
            for group in found["groups"]
            for line in group["lines"]
        ]
    if len(rows) == 1:
        return []
    table = rows if width >= _ROOMY else [[row[0], row[-1]] for row in rows]
    lines = ["", *aligned(table, width, left=1)]
    if found["errors"] and found["errors"]["total"]:
        told = [
            words("kind_" + kind["key"]).replace("：", ":").partition(":")[0] + f"\u00a0{kind['n']}"
            for kind in found["errors"]["kinds"]
        ]
        colon = "：" if words.lang == "zh" else ": "
        told_of = wrapped(f"{words('h_kinds')}{colon}{words.listing(told)}", width)
        lines += [line.replace("\u00a0", " ") for line in told_of]
    return lines + [line for note in found["notes"] for line in wrapped(note, width)]


def _cells(candidate: Row, words: Words) -> dict[str, str]:
    cost = candidate.get("cost") or {}
    dev, test = score(candidate, "dev"), score(candidate, "test")
    spread = test or {}
    has_interval = is_number(spread.get("low")) and is_number(spread.get("high"))
    return {
        "name": shown(candidate.get("name")),
        "dev": words.percent(dev["value"]) if dev else ABSENT,
        "test": words.percent(test["value"]) if test else ABSENT,
        "interval": words.span(spread["low"], spread["high"]) if has_interval else ABSENT,
        "macro": words.percent(spread.get("macro_f1")),
        "fit": words.seconds(cost.get("fit_seconds")),
        "query": words.milliseconds(cost.get("ms_per_query")),
        "size": words.size(cost.get("artifact_bytes")),
    }


def _line(cells: dict[str, str], keys: Sequence[str], sizes: dict[str, int]) -> str:
    name = _cut(cells["name"], sizes["name"])
    padded = [name + " " * (sizes["name"] - columns_of(name))]
    padded += [" " * (sizes[k] - columns_of(cells[k])) + cells[k] for k in keys if k != "name"]
    return "  ".join(padded)


def _remark(candidate: Row, width: int, words: Words) -> list[str]:
    """Return the indented lines that say why a candidate did not finish."""
    status = str(candidate.get("status") or "finished")
    if status == "finished":
        return []
    known = words(f"status_{status}") if status in {"stopped", "failed"} else status
    why = words.told(" ".join(str(candidate.get("why") or "").split()))
    return [
        "    " + line
        for line in wrapped(words("because", status=known, why=why) if why else known, width - 4)[
            :3
        ]
    ]


def _cut(text: str, width: int) -> str:
    if columns_of(text) <= width:
        return text
    while text and columns_of(text) > width - 1:
        text = text[:-1]
    return text + "\N{HORIZONTAL ELLIPSIS}"


def wrapped(text: str, width: int) -> list[str]:
    """Return `text` in lines of at most `width` columns, broken at spaces or between wide signs."""
    lines, line = [], ""
    for piece in _pieces(text):
        if columns_of(line) + columns_of(piece.rstrip()) <= width:
            line += piece
            continue
        if line.strip():
            lines.append(line.rstrip())
        line = piece.lstrip()
        while columns_of(line.rstrip()) > width:
            cut = next(i for i in range(len(line), 0, -1) if columns_of(line[:i]) <= width)
            lines.append(line[:cut])
            line = line[cut:]
    if line.strip():
        lines.append(line.rstrip())
    return lines


def _pieces(text: str) -> list[str]:
    """Return the unbreakable pieces of `text`, each with the spaces that follow it."""
    pieces = [""]
    for sign in text:
        last = pieces[-1][-1:]
        wide = columns_of(sign) == 2 and sign not in "，。：；（）、"
        after_wide = last and columns_of(last) == 2 and sign not in "，。：；）、" and last != "（"
        if sign != " " and last and (last == " " or wide or after_wide) and last != "（":
            pieces.append("")
        pieces[-1] += sign
    return pieces


def _writable(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _plain(text: str, width: int, encoding: str) -> str:
    """Return `text` in signs that `encoding` has, wrapped again where a line grew."""
    known = encoding if _writable("a", encoding) else "ascii"
    for sign, plain in _PLAIN.items():
        if not _writable(sign, known):
            text = text.replace(sign, plain)
    # A wide character leaves two question marks, so that columns stay aligned.
    text = "".join(s if _writable(s, known) else "?" * max(columns_of(s), 1) for s in text)
    lines = [wrapped(x, width) if columns_of(x) > width else [x] for x in text.split("\n")]
    return "\n".join(line for some in lines for line in some)
