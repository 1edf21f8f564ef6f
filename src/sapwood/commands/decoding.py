"""How answers are written, as every command that writes some asks for it: one set of options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from sapwood.errors import ConfigError

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation
    from sapwood.models.choosing import Sampling

WAYS = ("greedy", "sample", "beam", "contrastive")
TEMPERATURE, TOP_P = 0.7, 0.9  # of samples: what chat programs commonly use
BEAMS = 4
CONTRAST, CONTRAST_TOP_K = 0.6, 5  # Su et al. 2022 (arXiv 2202.06417): 0.6, and 5 to 8 tokens
# What only some ways to choose can do.
_ONLY = {
    "temperature": ("sample",), "top_p": ("sample",), "min_p": ("sample",),
    "top_k": ("sample", "contrastive"), "beams": ("beam",), "length_penalty": ("beam",),
    "contrast": ("contrastive",), "samples": ("sample", "beam"), "seed": ("sample",),
}  # fmt: skip
_POSITIVE = click.IntRange(min=1)
_SHARE = click.FloatRange(min=0, min_open=True, max=1)
_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--decoding", type=click.Choice(WAYS),
                 help="How tokens are chosen.  [default: what the options below ask for]"),
    click.option("--temperature", type=click.FloatRange(min=0),
                 help=f"Sharpness of samples; 0 takes the most probable token.  "
                      f"[default: {TEMPERATURE}]"),
    click.option("--top-p", type=_SHARE,
                 help=f"Share of the probable tokens that samples come from.  [default: {TOP_P}]"),
    click.option("--top-k", type=_POSITIVE,
                 help=f"Number of them; of contrastive search {CONTRAST_TOP_K} unless named."),
    click.option("--min-p", type=click.FloatRange(min=0, max=1, max_open=True),
                 help="Least share of the most probable token's."),
    click.option("--beams", type=click.IntRange(min=2),
                 help=f"Beginnings that beam search keeps.  [default: {BEAMS}]"),
    click.option("--length-penalty", type=float,
                 help="Above 0 beams may be longer, below 0 they are shorter.  [default: 1]"),
    click.option("--contrast", type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
                 help=f"Weight of saying something new in contrastive search.  "
                      f"[default: {CONTRAST}]"),
    click.option("--repetition-penalty", type=click.FloatRange(min=0, min_open=True),
                 help="Above 1 an answer's own tokens come less easily again."),
    click.option("--no-repeat", type=_POSITIVE,
                 help="No run of so many tokens comes twice in an answer."),
    click.option("--stop", "stops", metavar="WORDS", multiple=True,
                 help="Words that end an answer; may be given several times."),
    click.option("--max-tokens", type=_POSITIVE, help="Most tokens of an answer."),
    click.option("--min-tokens", type=_POSITIVE, help="Least tokens before it may end."),
    click.option("--seed", type=click.IntRange(min=0), help="Of samples.  [default: 0]"),
)  # fmt: skip
_SEVERAL = click.option("--samples", type=_POSITIVE, help="Answers to each row.  [default: 1]")
NAMES = (
    "decoding", "temperature", "top_p", "top_k", "min_p", "beams", "length_penalty", "contrast",
    "repetition_penalty", "no_repeat", "stops", "max_tokens", "min_tokens", "seed", "samples",
)  # fmt: skip


def options(function: Any) -> Any:
    """Add the options of one answer to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def several(function: Any) -> Any:
    """Add the options of several answers to a command."""
    return options(_SEVERAL(function))


def asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user named among the options of this file."""
    return {name: given[name] for name in NAMES if given.get(name) not in (None, ())}


def sampling(given: Mapping[str, Any], usual: Sampling) -> Sampling:
    """Return how answers are written: what the user named, else as `usual`.

    Raises ConfigError: E-CONFIG-131 for an option that the way to choose cannot follow, and what
    `Sampling` raises.
    """
    from dataclasses import replace

    named = asked(given)
    way = named.pop("decoding", None) or _implied(named) or usual.way
    if named.get("temperature") == 0 and way == "greedy":
        del named["temperature"]
    if named.get("samples") == 1:
        del named["samples"]
    _check(way, named)
    for option, field in (("max_tokens", "tokens"), ("min_tokens", "least_tokens")):
        if option in named:
            named[field] = named.pop(option)
    if "least_tokens" in named and "tokens" not in named:
        named["tokens"] = max(usual.tokens, named["least_tokens"])
    return replace(usual, **{**_of_way(way, usual), **named})


def _implied(named: Mapping[str, Any]) -> str | None:
    """Return the way to choose that options speak of, or None."""
    if named.get("temperature") == 0:
        return "greedy"
    for way, names in (
        ("beam", ("beams", "length_penalty")),
        ("contrastive", ("contrast",)),
        ("sample", ("temperature", "top_p", "min_p", "top_k")),
    ):
        if any(name in named for name in names):
            return way
    return "sample" if named.get("samples", 1) > 1 else None


def _of_way(way: str, usual: Sampling) -> dict[str, Any]:
    """Return the settings that make a way to choose, as they are where nothing is named."""
    plain: dict[str, Any] = {
        "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "beams": 1, "contrast": 0.0,
        "samples": 1,
    }  # fmt: skip
    if way == usual.way:
        return {}
    if way == "sample":
        return plain | {"temperature": TEMPERATURE, "top_p": TOP_P}
    if way == "beam":
        return plain | {"beams": BEAMS}
    return plain | ({"contrast": CONTRAST, "top_k": CONTRAST_TOP_K} if way != "greedy" else {})


def _check(way: str, named: Mapping[str, Any]) -> None:
    wrong = [name for name in named if way not in _ONLY.get(name, WAYS)]
    details = [f"{flag(name)} is for {' and '.join(_ONLY[name])}, not for {way}" for name in wrong]
    if way == "sample" and named.get("temperature") == 0:
        details.append("--temperature 0 takes the most probable token: that is greedy")
    if details:
        raise ConfigError(
            "E-CONFIG-131",
            f"These options do not go with --decoding {way}.",
            details=details,
            fix="leave them out, or name another --decoding",
        )


def flag(name: str) -> str:
    """Return the option that sets `name`."""
    return "--stop" if name == "stops" else "--" + name.replace("_", "-")


def writes(made: Adaptation) -> bool:
    """Return whether an adaptation's answers are written by a base."""
    return made.base is not None and made.reads == "answers"


def check_writes(made: Adaptation, given: Mapping[str, Any], where: object) -> None:
    """Raise ConfigError (E-CONFIG-132) where options say how to write and nothing is written."""
    named = asked(given)
    if not named or writes(made):
        return
    how = f"by '{made.readout_name}' it chooses among {len(made.labels)} labels"
    if made.reads == "states":
        how = f"by '{made.readout_name}' it finds its answers in the text"
    elif made.reads == "answers":
        how = f"'{made.readout_name}' has no base that writes"
    raise ConfigError(
        "E-CONFIG-132",
        f"{where} writes no answers: {how}.",
        details=[f"{flag(name)} says how answers are written" for name in named],
        fix=f"leave out {', '.join(flag(name) for name in named)}",
    )
