"""A method's configuration as JSON-ready settings, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from sapwood.errors import ModelError
from sapwood.methods import METHODS
from sapwood.methods.parts import Method
from sapwood.registry import resolve


def settings(method: Method) -> dict[str, Any]:
    """Return a method's configuration, JSON-ready; `from_settings` makes it again.

    A method with `to_settings` and `from_settings` of its own is asked for them.
    """
    made = getattr(method, "to_settings", None)
    return asdict(method) if made is None else made()  # type: ignore[call-overload, no-any-return]


def from_settings(name: str, content: Mapping[str, Any]) -> Method:
    """Return the method `name` with these settings.

    Raises ConfigError for an unknown name, ModelError (E-MODEL-022) for unknown settings.
    """
    kind = resolve("method", METHODS, name)
    made: Method
    if (make := getattr(kind, "from_settings", None)) is not None:
        made = make(content)
        return made
    known = {field.name for field in fields(kind)}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    strange = sorted(set(given) - known)
    if strange:
        raise ModelError(
            "E-MODEL-022",
            f"The method '{name}' has no setting {', '.join(strange)}.",
            fix="install the version of Sapwood that wrote it",
        )
    made = kind(**given)
    return made
