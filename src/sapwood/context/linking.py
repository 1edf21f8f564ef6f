"""Which entities a text mentions: their names found by a trie of words, the longest first.

Spaced scripts match on word boundaries, Han by characters. Case, underscores, hyphens and a
plural s make no difference. Time is linear in the text (times the words of the longest name),
however many entities there are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sapwood.context.similarity import UNSPACED

# A character of a script without spaces, a word, or a sign that keeps "C++" apart from "C" and
# "York. New" from "York New"; hyphens and underscores only separate words.
_PIECE = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+|[^\w\s\-\u2010-\u2015]")
_SIGN = re.compile(r"[^\w]")
# One-word names that are these words would be found in every English text ("It", "Who", "US").
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can do does for from had has have he her his how i if "
        "in is it its me my no not of on or our she so than that the their them then they this to "
        "us was we were what when which who will with would you your s t",
    )
)
_END = ""  # the key of a trie node's own entities; no piece of text is empty
_Node = dict[str, "object"]


@dataclass(frozen=True, kw_only=True)
class Mention:
    """A name found in a text: the entities it may mean, and the pieces of text it covers."""

    entities: tuple[str, ...]
    start: int
    stop: int


class NameIndex:
    """A trie over the words of all names."""

    def __init__(self, names: Mapping[str, Iterable[str]]) -> None:
        self._root: _Node = {}
        for entity, own in names.items():
            for name in own:
                found = pieces(name)
                while found and _SIGN.fullmatch(found[-1]) and len(found) > 1 and name[-1] in ".,;":
                    found = found[:-1]
                if not _fit(found):
                    continue
                self._add(found, entity)
                last = singular(found[-1])
                if last != found[-1]:
                    self._add([*found[:-1], last], entity)

    def _add(self, name: list[str], entity: str) -> None:
        node = self._root
        for piece in name:
            node = node.setdefault(piece, {})  # type: ignore[assignment]
        entities: dict[str, None] = node.setdefault(_END, {})  # type: ignore[assignment]
        entities[entity] = None

    def mentions(self, text: str) -> list[Mention]:
        """Return the mentions in the order of the text, none overlapping, longer names first."""
        found = pieces(text)
        matches: list[Mention] = []
        for start in range(len(found)):
            nodes, stop = [self._root], start
            while nodes and stop < len(found):
                forms = dict.fromkeys((found[stop], singular(found[stop])))
                nodes = [node[form] for node in nodes for form in forms if form in node]  # type: ignore[misc]
                stop += 1
                entities = [e for node in nodes for e in node.get(_END, ())]  # type: ignore[attr-defined]
                if entities:
                    own = tuple(dict.fromkeys(entities))
                    matches.append(Mention(entities=own, start=start, stop=stop))
        taken = [False] * len(found)
        kept = []
        for match in sorted(matches, key=lambda m: (m.start - m.stop, m.start)):
            if not any(taken[match.start : match.stop]):
                taken[match.start : match.stop] = [True] * (match.stop - match.start)
                kept.append(match)
        return sorted(kept, key=lambda m: m.start)


def pieces(text: str) -> list[str]:
    """Return the words, single Han or kana characters and signs of a text, case-folded.

    >>> pieces("Wi-Fi_router 味道"), pieces("C++'s")
    (['wi', 'fi', 'router', '味', '道'], ['c', '+', '+', "'", 's'])
    """
    plain = unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold()
    return _PIECE.findall(plain)


def singular(word: str) -> str:
    """Return an English word without a plural ending; other words as they are.

    >>> [singular(word) for word in ("algae", "plants", "bodies", "boxes", "virus", "glass", "bus")]
    ['algae', 'plant', 'body', 'box', 'virus', 'glass', 'bus']
    """
    if len(word) < 4 or not word.isascii() or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("xes", "ches", "shes", "sses", "zes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word


def _fit(name: list[str]) -> bool:
    """Tell whether a name can be looked for without being found everywhere."""
    if not any(re.match(r"\w", piece) for piece in name):
        return False
    return len(name) > 1 or name[0] not in _FUNCTION_WORDS
