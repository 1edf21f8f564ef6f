"""Poems under a form: an adaptation whose answers keep it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sapwood.errors import ConfigError

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation

# Eight lines of seven characters and a mark, of which rare characters take three tokens.
LEAST_TOKENS = 192


def under_form(made: Adaptation, name: str, where: object) -> Adaptation:
    """Return an adaptation that writes its poems under the form `name`.

    Raises ConfigError: no such form (E-CONFIG-001), one that no grammar holds (E-CONFIG-140), or an
    adaptation that writes no poems (E-CONFIG-141).
    """
    from sapwood.readouts.written import Written
    from sapwood.tasks.forms import check_named

    chosen = check_named(name)
    if made.task != "poetry" or not isinstance(made.readout, Written):
        raise ConfigError(
            "E-CONFIG-141",
            f"{where} writes no poems (its task is {made.task}), so --form means nothing to it.",
            fix="leave out --form, or adapt a base to poems: sapwood adapt FILE --task poetry",
        )
    tokens = max(made.readout.tokens, LEAST_TOKENS)
    return replace(made, readout=replace(made.readout, form=chosen, tokens=tokens))
