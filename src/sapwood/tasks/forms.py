"""Forms of poems: a table of them, the form that a set of poems keeps, and how many keep it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from sapwood.errors import ConfigError
from sapwood.registry import resolve
from sapwood.tally import share

FORMS = {
    "wujue": "sapwood.tasks.regulated:WUJUE",
    "qijue": "sapwood.tasks.regulated:QIJUE",
    "wulu": "sapwood.tasks.regulated:WULU",
    "qilu": "sapwood.tasks.regulated:QILU",
    "shakespearean": "sapwood.tasks.sonnets:SHAKESPEAREAN",
    "petrarchan": "sapwood.tasks.sonnets:PETRARCHAN",
    "spenserian": "sapwood.tasks.sonnets:SPENSERIAN",
    "couplets": "sapwood.tasks.sonnets:COUPLETS",
}
# What people also call them.
OTHER_NAMES = {
    "五绝": "wujue", "五絕": "wujue", "五言绝句": "wujue", "五言絕句": "wujue",
    "七绝": "qijue", "七絕": "qijue", "七言绝句": "qijue", "七言絕句": "qijue",
    "五律": "wulu", "五言律诗": "wulu", "五言律詩": "wulu", "wulü": "wulu", "wulv": "wulu",
    "七律": "qilu", "七言律诗": "qilu", "七言律詩": "qilu", "qilü": "qilu", "qilv": "qilu",
    "sonnet": "shakespearean", "english": "shakespearean", "italian": "petrarchan",
}  # fmt: skip
# A set may mix forms (Tang poems do): those that a twentieth of its poems keep are its forms, if
# half of its poems keep one of them; else the set has no form that a poem could miss.
RARE, MOST = 0.05, 0.5


class Form(Protocol):
    """A form that a poem may keep."""

    @property
    def language(self) -> str:
        """Return the language of its poems, "zh" or "en"."""
        ...

    def keeps(self, text: str) -> bool:
        """Tell whether a text has the form's lines, whatever it sounds like."""
        ...

    def check(self, text: str) -> dict[str, Any]:
        """Return what a poem holds of the form, yes or no each, and shares; JSON-ready."""
        ...


def form_named(name: str) -> Form:
    """Return the form of a name or of what people also call it.

    Raises ConfigError (E-CONFIG-001) when there is none.
    """
    found: Form = resolve("form of poems", FORMS, OTHER_NAMES.get(name.lower(), name.lower()))
    return found


def guessed(texts: Sequence[str]) -> tuple[str, ...]:
    r"""Return the names of the forms that these poems keep, the most frequent first, often none.

    >>> guessed(["床前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。"])
    ('wujue',)

    Raises ResourceError (E-RESOURCE-040, -041) without the packages that know how words sound.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        names = [name for name in FORMS if form_named(name).keeps(text)]
        if len(names) > 1:  # sonnets are told apart by their rhymes
            marks = {name: form_named(name).check(text)["rhyme_share"] for name in names}
            names = [max(names, key=marks.__getitem__)]
        counts.update(names)
    found = [name for name, count in counts.most_common() if count >= RARE * len(texts)]
    kept = sum(counts[name] for name in found)
    return tuple(found) if texts and kept >= MOST * len(texts) else ()


def nearest(text: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the check of a poem by that form of `names` which it holds most of."""
    checks = [form_named(name).check(text) for name in names]
    return max(checks, key=lambda found: sum(map(float, found.values())))


def rates(wanted: Sequence[str], said: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Return how many written poems keep one of the forms `names`, and how many wanted ones do.

    For each thing that a form asks for {"value", "low", "high", "wanted"}, shares of poems (for
    names that end in `_share` means over poems), with a 95 % interval; JSON-ready.
    """
    found: dict[str, Any] = {"forms": ", ".join(names)}
    ours, theirs = ([nearest(text, names) for text in texts] for texts in (said, wanted))
    for key in ours[0]:
        score = share(key, np.array([float(check.get(key, 0.0)) for check in ours])).interval()
        told = {"value": score.value, "low": score.low, "high": score.high}
        real = float(np.mean([float(check.get(key, 0.0)) for check in theirs]))
        found[key] = {**told, "wanted": real}
    return found


def check_named(name: str) -> str:
    """Return the name in the table of a form that a poem can be written under.

    Raises ConfigError: no such form (E-CONFIG-001), or one that no grammar holds (E-CONFIG-140).
    """
    chosen = OTHER_NAMES.get(name.lower(), name.lower())
    if form_named(chosen).language != "zh":
        chinese = [known for known in FORMS if form_named(known).language == "zh"]
        raise ConfigError(
            "E-CONFIG-140",
            f"Poems cannot be written under the form '{name}': its metre and rhymes are no grammar "
            "of characters.",
            fix=f"use one of: {', '.join(chinese)}; sonnets are checked, not forced",
        )
    return chosen
