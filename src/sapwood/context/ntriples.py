"""One line of N-Triples (W3C, RDF 1.1 N-Triples, 2014): its three terms, or why it is none."""

from __future__ import annotations

import re
from dataclasses import dataclass

# The last part of a predicate that names its subject, in the order in which names are preferred.
LABELS = ("label", "prefLabel", "name", "altLabel")
LABEL_SPACES = (
    "http://www.w3.org/2000/01/rdf-schema#", "http://www.w3.org/2004/02/skos/core#",
    "http://xmlns.com/foaf/0.1/", "http://schema.org/", "https://schema.org/",
)  # fmt: skip
_IRI = r'<([^<>"{}|^`\x00-\x20]*)>'
_NODE = rf'(?:{_IRI}|(_:[^\s<>"]+))'
_LITERAL = (
    r'"((?:[^"\\\n\r]|\\.)*)"'
    r"(?:@[A-Za-z]+(?:-[A-Za-z0-9]+)*|\^\^<[^<>\s]*>)?"
)
_TRIPLE = re.compile(rf"\s*{_NODE}\s*{_IRI}\s*(?:{_NODE}|{_LITERAL})\s*\.\s*(?:#.*)?")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_LETTERS = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", '"': '"', "'": "'", "\\": "\\"}


@dataclass(frozen=True, kw_only=True)
class Statement:
    """The terms of a line: IRIs without brackets; `literal`: the tail is text, without its tag."""

    head: str
    relation: str
    tail: str
    literal: bool


def parse(line: str) -> Statement | str:
    r"""Return the statement of a line that is neither empty nor a comment, or what is wrong.

    >>> parse('<http://ex.org/a> <http://ex.org/name> "a\\u00e9"@fr .').tail
    'aé'
    >>> parse("<http://ex.org/a> <http://ex.org/b> <http://ex.org/c>")
    'no full stop ends the triple'
    """
    match = _TRIPLE.fullmatch(line)
    if match is None:
        return _why_not(line)
    subject, blank, relation, tail, tail_blank, literal = match.groups()
    value = literal if literal is not None else tail or tail_blank
    terms = []
    for raw in (subject or blank, relation, value or ""):
        try:
            terms.append(_ESCAPE.sub(_plain, raw) if "\\" in raw else raw)
        except ValueError as error:
            return str(error)
    return Statement(head=terms[0], relation=terms[1], tail=terms[2], literal=literal is not None)


def label_rank(relation: str) -> int | None:
    """Return how good a name a predicate gives (0 is best), or None where it gives none.

    >>> label_rank("http://www.w3.org/2000/01/rdf-schema#label"), label_rank("http://ex.org/label")
    (0, None)
    """
    cut = max(relation.rfind("#"), relation.rfind("/")) + 1
    if relation[:cut] in LABEL_SPACES and relation[cut:] in LABELS:
        return LABELS.index(relation[cut:])
    return None


def _plain(match: re.Match[str]) -> str:
    short, long, letter = match.groups()
    if letter is not None:
        if letter not in _LETTERS:
            raise ValueError(f"\\{letter} is no escape of N-Triples")
        return _LETTERS[letter]
    code = int(short or long, 16)
    if code > 0x10FFFF:
        raise ValueError(f"\\U{long} is no character")
    return chr(code)


def _why_not(line: str) -> str:
    text = line.strip()
    if text.startswith("@") or re.match(r"(PREFIX|BASE)\b|\w*:\w", text, re.IGNORECASE):
        return "this is Turtle (prefixes), not N-Triples"
    if text.replace('\\"', "").count('"') % 2:
        return "a quote is opened and never closed"
    if not text.endswith("."):
        return "no full stop ends the triple"
    return "not <subject> <predicate> <object> ."
