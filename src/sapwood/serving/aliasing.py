"""Other names for what is served: what they mean is changed at once, and can be taken back."""

from __future__ import annotations

from sapwood.errors import ConfigError
from sapwood.serving.desk import Desk
from sapwood.serving.registry import check_name


def point(desk: Desk, alias: str, target: str | None) -> None:
    """Let an alias mean a served model from now on, or nothing (None).

    Raises ConfigError: E-CONFIG-280 the target is not served, E-CONFIG-302 no name,
    E-CONFIG-304 the name is taken, or there is no such alias.
    """
    registry = desk.changeable()
    desk.follow()
    check_name(alias, "alias")
    if desk.serves(alias):
        raise ConfigError(
            "E-CONFIG-304", f"'{alias}' is a model itself.", fix="choose another alias"
        )
    if target is not None:
        _check_served(desk, target)
    elif alias not in registry.aliases():
        raise ConfigError("E-CONFIG-304", f"There is no alias '{alias}'.")
    registry.point(alias, target)


def roll_back(desk: Desk, alias: str) -> str:
    """Let an alias mean what it meant before; return that.

    Raises ConfigError: E-CONFIG-280 that is no longer served, E-CONFIG-304 there is none.
    """
    registry = desk.changeable()
    desk.follow()
    before = registry.previous(alias)
    _check_served(desk, before)
    registry.roll_back(alias, before)
    return before


def _check_served(desk: Desk, model: str) -> None:
    if not desk.serves(model):
        raise ConfigError(
            "E-CONFIG-280",
            f"'{model[:64]}' is not served here.",
            fix="load it first: POST /admin/load",
        )
