"""MediaWiki markup to plain text in one pass over nested marks, linear in the page's length.

A general parser spends 50 ms on an article to keep every node; only the words are wanted here, so
templates, tables and links are found by their brackets alone and looked at no further.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split("|"))


# Elements whose content is no prose: notes, formulas, scores, pictures, programs.
NO_PROSE = (
    "ref", "gallery", "math", "chem", "ce", "score", "timeline", "imagemap", "hiero", "graph",
    "syntaxhighlight", "source", "templatedata", "templatestyles", "mapframe", "maplink",
    "inputbox",
    "references", "categorytree", "section", "indicator", "style", "table",
)  # fmt: skip
# Sections of lists rather than prose, in English and Chinese, by lower-case title.
LISTS = _names(
    "references|external links|see also|further reading|notes|bibliography|footnotes|sources"
    "|citations|notes and references|references and notes|works cited|gallery|external link"
    "|参考文献|參考文獻|参考资料|參考資料|外部链接|外部連結|外部鏈接|参见|參見|参看|參看|注释|註釋|註解|注解"
    "|延伸阅读|延伸閱讀|脚注|腳註|参考来源|參考來源|相关条目|相關條目|扩展阅读|擴展閱讀"
)
# Templates that stand for words of the sentence they are in; all others go without a trace.
FIRST = _names(
    "nowrap|nobr|abbr|small|big|visible anchor|va|em|strong|tooltip|nihongo|ill|interlanguage link"
    "|link-en|lang-en-short|sic|blockquote|quote|quotation|cquote|quote box|poem|poemquote"
    "|smallcaps|sc|angbr|vanchor|not a typo|proper name|le|tsl|linktext|formatnum|number|num|val"
    "|nts|translation|gloss|sup|sub|mvar|math|bo|keypress|chset-cell"
)
LAST = _names("lang|langx|transl|transliteration|rtl-lang|lang-sr|script|unicode|hlist")
SIGNS = {
    "ndash": "–", "mdash": "—", "en dash": "–", "em dash": "—", "snd": " – ",
    "spaced ndash": " – ",
    "spaced mdash": " — ", "spnd": " – ", "dash": " – ", "'": "'", "''": '"', "!": "|", "=": "=",
    "·": " · ", "•": " • ", "dot": " · ", "bull": " • ", "nbsp": " ", "space": " ", "snds": " – ",
    "circa": "c. ", "c.": "c. ", "okina": "\u02bb", "hamza": "\u02bc", "ayin": "\u02bd",
    "lrm": "", "zwj": "",
}  # fmt: skip
BRACES = re.compile(r"(?m)\{\{|\}\}|^[ \t:]*\{\||^[ \t]*\|\}(?!\})")
SQUARE = re.compile(r"\[\[|\]\]")
OUTSIDE = re.compile(r"\[(?:(?:[a-z]{2,9}:)?//|mailto:)([^\[\]\n]*)\]", re.I)
HEADING = re.compile(r"(?m)^(={1,6})[ \t]*(.{1,250}?)[ \t]*\1[ \t]*$")
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)\b[^<>]*>")
BREAKS = frozenset(
    {"br", "p", "div", "li", "ul", "ol", "tr", "td", "blockquote", "poem", "center", "dd", "dt"}
)
VARIANT = re.compile(r"-\{([^{}\n]{0,300})\}-")
SIMPLIFIED = re.compile(r"(?:^|;)\s*(?:zh-(?:hans|cn|sg|my))\s*:\s*([^;]*)", re.I)
HOLLOW = re.compile(r"[(（]\s*(?:[,;:，；：、]\s*)*[)）]")
OPENED = re.compile(r"([(（])\s*(?:[,;，；、]\s*)+")
MARGIN = re.compile(r"(?m)^[*#:;]+[ \t]*")
NAMED = re.compile(r"\s*([\w -]+?)\s*=(.*)", re.S)  # an argument that is named
PIECES = 20_000  # links or templates on a page; beyond, it is a machine's list and no article


def plain_text(markup: str, hidden: str = "") -> str:
    """Return the prose of a page: paragraphs, headings of sections that have any, list items.

    `hidden` names the namespaces of files and categories in the page's language, as "a|b".
    """
    text = _without_comments(markup)
    for name in NO_PROSE:
        text = _without_element(text, name)
    text = VARIANT.sub(_variant, text)
    text = _replaced(text, BRACES, _inline)
    names = "|".join(filter(None, ["file|image|category|media", hidden.lower()]))
    pattern = re.compile(rf"\s*(?:{names})\s*:", re.I)
    text = _replaced(text, SQUARE, lambda inside: _link(inside, pattern))
    text = OUTSIDE.sub(lambda m: m[1].partition(" ")[2], text)
    text = re.sub(r"__[A-Z]+__", "", text)
    text = re.sub(r"'{2,5}", "", text)
    text = TAG.sub(lambda m: "\n" if m[2].lower() in BREAKS else "", text)
    text = html.unescape(text).replace("\xa0", " ")
    text = OPENED.sub(r"\1", HOLLOW.sub("", text))
    return _sections(text)


def _without_comments(text: str) -> str:
    """Return text without <!-- -->; one that never closes ends the page, as in MediaWiki."""
    parts, at = [], 0
    while (start := text.find("<!--", at)) >= 0:
        parts.append(text[at:start])
        end = text.find("-->", start)
        if end < 0:
            return "".join(parts)
        at = end + 3
    return "".join([*parts, text[at:]])


def _without_element(text: str, name: str) -> str:
    """Return text without the elements of a name; where one never closes, only its tag goes."""
    low = text.lower()
    if f"<{name}" not in low:
        return text
    close = f"</{name}"
    parts, at = [], 0
    for tag in re.finditer(rf"<{name}\b[^<>]*>", text, re.I):
        if tag.start() < at:
            continue
        parts.append(text[at : tag.start()])
        at = tag.end()
        if not tag[0].endswith("/>"):
            end = low.find(close, at)
            if end >= 0:
                after = low.find(">", end)
                at = len(text) if after < 0 else after + 1
    return "".join([*parts, text[at:]])


def _variant(match: re.Match[str]) -> str:
    """Return the simplified words of a Chinese conversion mark -{zh-hans:..; zh-hant:..}-."""
    inside = match[1].rsplit("|", 1)[-1]
    if ":" not in inside:
        return inside
    chosen = SIMPLIFIED.search(inside)
    return chosen[1] if chosen else inside.split(";")[0].split(":", 1)[-1]


def _outermost(text: str, marks: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the outermost balanced pairs; unbalanced marks pair with nothing."""
    waiting: list[tuple[str, int]] = []
    pairs: list[tuple[int, int]] = []
    for mark in marks.finditer(text):
        sign = mark[0].strip(" \t:")
        if sign in ("{{", "{|", "[["):
            waiting.append((sign, mark.start()))
            continue
        opener = {"}}": "{{", "|}": "{|", "]]": "[["}[sign]
        if waiting and waiting[-1][0] == opener:
            pairs.append((waiting.pop()[1], mark.end()))
        elif sign == "}}" and len(waiting) > 1 and waiting[-2][0] == opener:
            waiting.pop()  # a table left open inside a template
            pairs.append((waiting.pop()[1], mark.end()))
    reached = 0
    for start, end in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if start >= reached:
            yield start, end
            reached = end


def _replaced(
    text: str, marks: re.Pattern[str], words: Callable[[str], str], depth: int = 0
) -> str:
    """Return text with every outermost pair replaced by `words` of what is inside it."""
    parts, at = [], 0
    for start, end in _outermost(text, marks):
        parts.append(text[at:start])
        inside = text[start:end].strip(" \t:")[2:-2]
        if depth < 5 and len(parts) < PIECES:  # deeper nesting holds no words of the sentence
            said = words(inside if text[start:end].lstrip(" \t:")[1] != "|" else "")
            parts.append(
                _replaced(said, marks, words, depth + 1) if "{{" in said or "[[" in said else said
            )
        at = end
    rest = "".join([*parts, text[at:]])
    return re.sub(r"\{\{+|\}\}+|^\{\||^\|\}", "", rest) if marks is BRACES and depth == 0 else rest


def _inline(inside: str) -> str:
    """Return the words that a template stands for, mostly none.

    >>> _inline("lang|fr|mot juste"), _inline("convert|5|km|mi"), _inline("cite web|url=x")
    ('mot juste', '5 km', '')
    """
    name, *rest = _arguments(inside)
    name = name.strip().lower().replace("_", " ")
    if name in SIGNS:
        return SIGNS[name] + (rest[0] if rest and name in ("circa", "c.") else "")
    head, colon, tail = name.partition(":")
    if colon and head == "formatnum":
        return tail
    named = [(match, argument) for argument in rest for match in [NAMED.match(argument)]]
    given = {match[1]: match[2].strip() for match, _ in named if match}
    places = [given[key] for key in ("1", "text", "quote") if key in given][:1]
    places += [argument.strip() for match, argument in named if not match]
    if not places:
        return ""
    if name in ("convert", "cvt") and len(places) > 1:
        if places[1] in ("to", "-", "–", "and", "by", "x", "or") and len(places) > 3:
            return f"{places[0]} {places[1]} {places[2]} {places[3]}"
        return f"{places[0]} {places[1]}"
    if name == "as of":
        return "As of " + " ".join(reversed(places))
    if name == "frac":
        return "/".join(places[-2:]) if len(places) < 3 else f"{places[0]} {places[1]}/{places[2]}"
    if name in FIRST:
        return places[0]
    if name in LAST or name.startswith("lang-"):
        return places[-1] if name != "lang" or len(places) < 2 else places[1]
    return ""


def _arguments(inside: str) -> list[str]:
    """Split a template at its own bars, not at those of what is nested in it."""
    parts, depth, at = [], 0, 0
    for mark in re.finditer(r"\{\{|\[\[|\}\}|\]\]|\|", inside):
        if mark[0] == "|":
            if depth == 0:
                parts.append(inside[at : mark.start()])
                at = mark.end()
        else:
            depth = max(0, depth + (1 if mark[0] in ("{{", "[[") else -1))
    return [*parts, inside[at:]]


def _link(inside: str, hidden: re.Pattern[str]) -> str:
    """Return the words of a link: its label, else its target; none for pictures and categories."""
    if hidden.match(inside) or re.match(r"\s*[a-z]{2,3}(?:-[a-z]+)?\s*:[^|]*$", inside):
        return ""
    target, bar, label = inside.partition("|")
    if bar and label.strip():
        return label.rsplit("|", 1)[-1] if "[[" not in label else label
    return target.strip().lstrip(":").split("#")[0] or target.strip().lstrip("#")


def _sections(text: str) -> str:
    """Return paragraphs without sections that are lists of sources, and without empty headings."""
    parts: list[str] = []
    skipped = 0  # level of the heading under which everything is left out
    at = 0
    headings = [*HEADING.finditer(text)]
    for number in range(-1, len(headings)):
        match = headings[number] if number >= 0 else None
        end = headings[number + 1].start() if number + 1 < len(headings) else len(text)
        at = match.end() if match else 0
        if match is not None:
            level = len(match[1])
            if skipped and level > skipped:
                continue
            skipped = level if match[2].strip().lower() in LISTS else 0
            if skipped:
                continue
            parts.append("\0" + match[2].strip())
        lines = (" ".join(line.split()) for line in MARGIN.sub("", text[at:end]).split("\n"))
        parts += [line for line in lines if any(map(str.isalnum, line)) and line[0] not in "|!{}"]
    after_each = [*parts[1:], "\0"][: len(parts)]
    kept = [
        line[1:] if line[0] == "\0" else line
        for line, after in zip(parts, after_each, strict=True)
        if line[0] != "\0" or after[0] != "\0"
    ]
    return "\n\n".join(kept)
