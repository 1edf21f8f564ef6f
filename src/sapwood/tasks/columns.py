"""Which column holds the text and which the label, chosen by name and never by position."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sapwood.errors import DataError
from sapwood.registry import did_you_mean


# Ranked: a name in an earlier group wins over any name in a later one; two names of one group
# are an ambiguity that only a person can settle.
def _ranked(*groups: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(group.split()) for group in groups)


TEXT_NAMES = _ranked(
    "text 文本",
    "sentence content review comment tweet utterance document 句子 内容 评论 正文 语句 评价内容",
    "query question message body post passage input article sms email feedback description"
    " snippet 问题 消息 反馈 描述 输入",
    "title headline 标题",
)
LABEL_NAMES = _ranked(
    "label 标签",
    "labels sentiment category intent topic class target polarity emotion"
    " 情感 类别 分类 意图 主题 情绪 类目",
    "tag y answer output type rating stars score 评分 类型 星级",
)
# A header such as "text_id" or "label language" speaks about the text, it does not hold it.
(_ABOUT,) = _ranked(
    "id ids index idx length len count num number lang language date time url type source hash"
    " pair name author user score version confidence"
)
ABOUT = frozenset(_ABOUT)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns in use; `label` is None where there is none; `why` says how they were chosen."""

    text: str
    label: str | None
    why: str
    found: tuple[str, ...]


def clean_header(name: object) -> str:
    """Return a column name without BOM, zero-width marks, quotes and surrounding space."""
    text = re.sub(r"[\ufeff\u200b-\u200d\u2060\x00]", "", str(name))
    return text.strip().strip("\"'").strip()


def words(name: str) -> tuple[str, ...]:
    """Return the lower-case words of a column name, camel case and punctuation split.

    >>> words("Review_Text"), words("reviewText"), words("context")
    (('review', 'text'), ('review', 'text'), ('context',))
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    return tuple(word for word in re.split(r"[\W_]+", spaced.casefold()) if word)


def choose_columns(
    found: Sequence[str],
    *,
    text: str | None = None,
    label: str | None = None,
    need_label: bool = True,
    where: str = "the data",
) -> Columns:
    """Choose the text and the label column among the cleaned names `found`.

    A name given by the caller wins; else the canonical name, then aliases as a whole name, then
    aliases as a whole word of the name ("Review Text", never "context"). Raises DataError:
    E-DATA-006 a named column is missing, E-DATA-004 nothing fits, E-DATA-005 several fit.
    """
    names = tuple(name for name in found if name)
    problems: list[str] = []
    codes: list[str] = []
    chosen: dict[str, str | None] = {}
    reasons: list[str] = []
    for role, given, table in (("text", text, TEXT_NAMES), ("label", label, LABEL_NAMES)):
        if given is not None:
            name, reason, code = _named(role, given, names)
        else:
            rest = [n for n in names if n not in (text, label)]
            name, reason, code = _by_name(role, rest, table)
        chosen[role] = name
        optional = role == "label" and not need_label and given is None
        if name is None and not optional:
            problems.append(reason)
            codes.append(code)
        elif name is not None:
            reasons.append(reason)
    if problems:
        _refuse(names, chosen, problems, codes, need_label=need_label, where=where)
    for role in ("text", "label"):
        _refuse_doubles(names, chosen[role], where)
    assert chosen["text"] is not None
    return Columns(text=chosen["text"], label=chosen["label"], why="; ".join(reasons), found=names)


def _named(role: str, given: str, names: Sequence[str]) -> tuple[str | None, str, str]:
    wanted = clean_header(given)
    exact = [name for name in names if name == wanted]
    loose = [name for name in names if words(name) == words(wanted)]
    if exact or loose:
        return (exact or loose)[0], f"{role}: '{(exact or loose)[0]}' as named", ""
    return None, f"there is no column '{given}'.{did_you_mean(given, names)}", "E-DATA-006"


def _by_name(
    role: str, names: Sequence[str], table: Sequence[Sequence[str]]
) -> tuple[str | None, str, str]:
    distinct = list(dict.fromkeys(names))
    split = {name: words(name) for name in distinct}
    for whole in (True, False):
        for group in table if whole else table[:2]:
            aliases = {words(alias) for alias in group}
            if whole:
                fits = [name for name in distinct if split[name] in aliases]
            else:
                flat = {alias[0] for alias in aliases}
                fits = [n for n in distinct if flat & set(split[n]) and not ABOUT & set(split[n])]
            if len(fits) == 1:
                canonical = split[fits[0]] in map(words, table[0])
                return fits[0], f"{role}: '{fits[0]}' by {'name' if canonical else 'alias'}", ""
            if fits:
                listed = " or ".join(f"'{name}'" for name in fits)
                return None, f"the {role} could be {listed}", "E-DATA-005"
    known = ", ".join(name for group in table[:2] for name in group[:6])
    hint = _nearest(distinct, table)
    return None, f"no column looks like the {role} (known names: {known}, ...).{hint}", "E-DATA-004"


def _nearest(names: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    aliases = [alias for group in table[:2] for alias in group]
    for name in names:
        if did_you_mean(name, [alias for alias in aliases if len(alias) > 3]):
            return f" Did you mean '{name}'?"
    return ""


def _refuse(
    names: Sequence[str],
    chosen: dict[str, str | None],
    problems: list[str],
    codes: list[str],
    *,
    need_label: bool,
    where: str,
) -> None:
    rest = [name for name in dict.fromkeys(names) if name not in chosen.values()]
    known = [chosen[role] for role in ("text", "label") if chosen[role] is not None]
    guess = rest[0] if len(rest) == 1 and (known or not need_label) else "COLUMN"
    flags = [f"--text {_quoted(chosen['text'] or guess)}"]
    if need_label:
        flags.append(f"--label {_quoted(chosen['label'] or guess)}")
    listed = ", ".join(f"'{name}'" for name in names) or "none"
    details = [*problems, f"columns found: {listed}"]
    if all(chosen[role] is None for role in ("text", "label")) and "E-DATA-004" in codes:
        details.append("a CSV or TSV file needs a first line that names its columns: text,label")
    raise DataError(
        codes[0], f"{where}: cannot tell which columns to use", details=details, fix=" ".join(flags)
    )


def _refuse_doubles(names: Sequence[str], name: str | None, where: str) -> None:
    if name is not None and Counter(names)[name] > 1:
        places = [str(i) for i, other in enumerate(names, 1) if other == name]
        raise DataError(
            "E-DATA-005",
            f"{where}: columns {' and '.join(places)} are both named '{name}'",
            details=[f"columns found: {', '.join(repr(n) for n in names)}"],
            fix="give each column its own name in the first line",
        )


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f"'{name}'"
