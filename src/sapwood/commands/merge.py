"""`sapwood merge ADAPTATION...`: several adaptations of one base become one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.commands.bridging import checked, hand_over, tell
from sapwood.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation
    from sapwood.methods.merging import Combining


@click.command(name="merge")
@click.argument("folders", metavar="DIR...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--weights", metavar="W,W,...", help="One weight each.  [default: the mean's; with ties 1 each]"
)
@click.option(
    "--how",
    default="linear",
    show_default=True,
    type=click.Choice(["linear", "svd", "ties", "dare", "dare-ties", "average"]),
)
@click.option(
    "--density",
    type=click.FloatRange(min=0, min_open=True, max=1),
    default=1.0,
    show_default=True,
    help="Share of the values that ties and dare keep.",
)
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    help="Rank of the result.  [default: linear: all of it; else the largest]",
)
@click.option(
    "--on",
    default="deltas",
    show_default=True,
    type=click.Choice(["deltas", "factors"]),
    help="What is combined; 'factors' is what PEFT does by default.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), required=True, help="Folder to write."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(folders: tuple[Path, ...], *, out: Path, as_json: bool, **given: Any) -> None:
    """Combine the trained weights of several adaptations of one base.

    'average' takes the mean of any method's tensors; all others combine LoRAs of any ranks and
    targets. Labels, context, prefix and facts must agree; the readout of the first is kept, so
    measure the result: sapwood eval OUT --data FILE.
    """  # fmt: skip
    from sapwood.adaptation import load
    from sapwood.methods.folding import total_loss

    if len(folders) < 2:
        raise ConfigError("E-CONFIG-098", "Name two adaptations or more.", fix="sapwood merge A B")
    places = [_place(folder) for folder in folders]
    checked(out)
    settings = _settings(given)
    made = [load(place) for place in places]
    check_agree(made, places)
    result, merged = merge_adaptations(made, settings)
    lost = 0.0 if merged is None else total_loss(merged)
    weights = settings.usual(len(made))
    origin = {
        "how": settings.how, "on": settings.on, "weights": list(weights),
        "density": settings.density, "seed": settings.seed, "relative_error": lost,
        "from": [_origin(place, one) for place, one in zip(places, made, strict=True)],
    }  # fmt: skip
    result = replace(result, evidence={"merged": origin})
    size = hand_over(result, out)
    lines = {
        "merged": f"{len(made)} adaptations, {settings.how}, weights "
        + ", ".join(f"{w:g}" for w in weights),
        "method": result.parts()["method"] or "",
        "cut": f"relative error of the change {lost:.2%}" if lost else "nothing",
        "readout": f"that of {places[0]}",
        "size": f"{size:,} bytes",
    }
    short = {**origin, "from": [str(place) for place in places]}
    tell({"parts": result.parts(), "bytes": size, "merged": short}, lines, out, as_json=as_json)


def merge_adaptations(made: Sequence[Adaptation], settings: Combining) -> tuple[Adaptation, Any]:
    """Return the first adaptation with the weights of all combined, and what the cut lost.

    Its golden probe is empty: nothing was run. Raises what `merging.combine` and
    `merging.average` do.
    """
    from sapwood.adaptation import Golden
    from sapwood.methods.merging import average, branches, combine

    pairs = [(one.method, one.weights) for one in made]
    if settings.how == "average":
        method, weights = average(pairs, settings.weights)  # type: ignore[arg-type]
        merged = None
    else:
        found = [branches(method, held) for method, held in pairs]  # type: ignore[arg-type]
        merged = combine(found, settings)
        method, weights = merged.as_method()
    golden = Golden()
    joined = replace(
        made[0], method=method, weights=weights, decision=None, golden=golden, evidence={}
    )
    return joined, merged


def check_agree(made: Sequence[Adaptation], places: Sequence[Path]) -> None:
    """Raise ModelError (E-MODEL-068) naming all in which adaptations differ from the first."""
    from sapwood.adaptation import CONTEXT, PREFIX
    from sapwood.context.facts import RECORDS, SETTINGS

    first = made[0]
    words = {CONTEXT: "context", SETTINGS: "facts", RECORDS: "facts"}
    problems = [f"{place} has no method" for one, place in zip(made, places, strict=True)
                if one.method is None]  # fmt: skip
    files = [_files(place) for place in places]
    for one, place, held in list(zip(made, places, files, strict=True))[1:]:
        if one.base is not None and first.base is not None and one.base.sha256 != first.base.sha256:
            problems.append(
                f"{place} is for the base {one.base.name} ({one.base.sha256[:12]}), the first for "
                f"{first.base.name} ({first.base.sha256[:12]})"
            )
        for name in ("labels", "readout_name", "embedder", "scope"):
            if getattr(one, name) != getattr(first, name):
                problems.append(
                    f"{place}: {name} is {_short(getattr(one, name))}, "
                    f"the first has {_short(getattr(first, name))}"
                )
        names = (
            CONTEXT,
            SETTINGS,
            RECORDS,
            *(n for n in {*held, *files[0]} if n.startswith(PREFIX)),
        )
        differ = {
            words.get(name, "prefix") for name in names if held.get(name) != files[0].get(name)
        }
        problems += [f"{place} has another {word}" for word in sorted(differ)]
    if problems:
        raise ModelError(
            "E-MODEL-068",
            "These adaptations cannot be merged.",
            details=problems,
            fix="merge adaptations of one base, trained for one prompt and the same labels",
        )


def _settings(given: dict[str, Any]) -> Combining:
    from sapwood.methods.merging import Combining

    try:
        parts = (given["weights"] or "").split(",")
        weights = tuple(float(part) for part in parts if part.strip())
    except ValueError:
        raise ConfigError(
            "E-CONFIG-098",
            f"--weights is '{given['weights']}', not numbers with commas.",
            fix="--weights 0.5,0.5",
        ) from None
    return Combining(
        how=given["how"], weights=weights, density=given["density"], rank=given["rank"],
        on=given["on"], seed=given["seed"],
    )  # fmt: skip


def _place(folder: Path) -> Path:
    """Return the adaptation in a folder or in the run that the folder holds."""
    from sapwood.adaptation import MAIN

    inner = folder / "adaptation"
    return inner if (inner / MAIN).exists() and not (folder / MAIN).exists() else folder


def _files(place: Path) -> dict[str, str]:
    from sapwood.adaptation import MAIN

    found: dict[str, str] = json.loads((place / MAIN).read_text(encoding="utf-8"))["files"]
    return found


def _origin(place: Path, made: Adaptation) -> dict[str, Any]:
    from sapwood.adaptation import MAIN

    digest = sha256((place / MAIN).read_bytes()).hexdigest()
    said = {"folder": str(place), "sha256": digest, "method": made.parts()["method"]}
    return {**said, "evidence": dict(made.evidence)}


def _short(value: Any) -> str:
    words = str(value)
    return words if len(words) <= 60 else words[:57] + "..."
