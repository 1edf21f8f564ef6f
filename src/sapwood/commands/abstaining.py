"""Labels of texts as lines, with no answer where the probability is under a threshold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from sapwood.errors import ConfigError

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation
    from sapwood.evaluation import Predictor
    from sapwood.interfaces import Floats

SILENT = "(no answer)"
_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--abstain", metavar="P", type=click.FloatRange(min=0, max=1),
                 help="Give no label to rows whose best one is less probable than P."),
    click.option("--coverage", metavar="SHARE", type=float,
                 help="The same, with the P that this share of the development rows reached."),
)  # fmt: skip


def silence(function: Any) -> Any:
    """Add the options that tell which rows get no answer to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def threshold_of(made: Adaptation, given: Mapping[str, Any]) -> float | None:
    """Return the probability that a label needs, None where every row is answered.

    Raises ConfigError: E-CONFIG-163 both options, E-CONFIG-164 answers without a probability each,
    E-CONFIG-160 and 161 as `Decision.threshold` does.
    """
    abstain: float | None = given.get("abstain")
    coverage: float | None = given.get("coverage")
    if abstain is None and coverage is None:
        return None
    if abstain is not None and coverage is not None:
        raise ConfigError(
            "E-CONFIG-163",
            "--abstain and --coverage both say which rows get no answer.",
            fix="give one of them",
        )
    from sapwood.evaluation import answers_of

    if answers_of(made):
        flag = "--abstain" if coverage is None else "--coverage"
        raise ConfigError(
            "E-CONFIG-164",
            f"{flag} needs one probability a label; this adaptation does the task '{made.task}'.",
            fix=f"leave {flag} out",
        )
    if coverage is None:
        return abstain
    from sapwood.readouts.decision import Decision

    return (made.decision or Decision()).threshold(coverage)


def label_lines(
    predictor: Predictor, rows: Sequence[str], threshold: float | None, *, as_json: bool
) -> Iterator[str]:
    """Yield a line for each text: label, probability and text, or one JSON object.

    Where rows were left without an answer, how many is told on stderr at the end.
    """
    from sapwood.context.facts import facts_json
    from sapwood.evaluation import CHUNK

    made, silent = predictor.adaptation, 0
    for number, part in enumerate(predictor.stream(rows)):
        chunk = rows[number * CHUNK : (number + 1) * CHUNK]
        known = made.facts.find(chunk) if made.facts is not None and as_json else None
        for place, (words, values) in enumerate(zip(chunk, part, strict=True)):
            told = threshold is None or float(values.max()) >= threshold
            silent += not told
            if not as_json:
                label = made.labels[int(values.argmax())] if told else SILENT
                yield f"{label}\t{values.max():.3f}\t{words}"
                continue
            content = _content(made, words, values, told=told)
            if known is not None:  # what was put before this text, and where it comes from
                content["facts"] = facts_json(known[place])
            yield json.dumps(content, ensure_ascii=False)
    if silent:
        click.echo(
            f"{silent:,} of {len(rows):,} rows have no answer: no label has a probability of "
            f"{threshold:.3f}",
            err=True,
        )


def _content(made: Adaptation, words: str, values: Floats, *, told: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"text": words, "label": made.labels[int(values.argmax())]}
    if not told:
        content |= {"label": None, "best": content["label"]}
    return {**content, "probabilities": dict(zip(made.labels, map(float, values), strict=True))}
