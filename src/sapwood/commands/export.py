"""`sapwood export DIR --to saved-model`: an adaptation or a base for other tools."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.errors import ConfigError

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation
    from sapwood.tensorflow.saved_model import Answer

PROBE = ("A first short text.", "Another one, which is a little longer than the first.")


@click.command(name="export")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, type=click.Choice(["saved-model"]),
              help="TensorFlow's SavedModel (needs 'sapwood[tensorflow]').")  # fmt: skip
@click.option("--out", "-o", required=True, type=click.Path(path_type=Path),
              help="Folder to write.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(folder: Path, *, target: str, out: Path, as_json: bool) -> None:
    """Write the adaptation, run or checkpoint in DIR for a tool that does not have Sapwood.

    A SavedModel takes token ids and a mask; an encoder with a trained head answers with the
    probabilities of its labels, a decoder with the scores of the next token, another net with its
    last hidden states. The tokenizer stands beside it. What was written is read again and compared.
    """
    if out.exists():
        raise ConfigError("E-CONFIG-058", f"{out} exists already.", fix="choose another --out")
    made = _saved_model(folder, out)
    if as_json:
        click.echo(json.dumps({"to": target, "out": str(out), **made}))
        return
    click.echo(f"{out} answers with {made['output']}; differs by {made['difference']:.1e} at most")


def _saved_model(folder: Path, out: Path) -> dict[str, Any]:
    from sapwood.commands.live import make_bases, open_adaptation
    from sapwood.evaluation import Predictor
    from sapwood.tensorflow.arrival import tensorflow
    from sapwood.tensorflow.attached import weights_of
    from sapwood.tensorflow.saved_model import write

    tensorflow()
    bases = make_bases("cpu", "float32")
    plain = (folder / "config.json").is_file() and not (folder / "adaptation.json").is_file()
    if plain:
        base, head = bases.get(str(folder)), None
        attached: Any = nullcontext()
        answer = _answer(base)
    else:
        made = open_adaptation(folder)
        _check(folder, made)
        assert made.base is not None
        base, attached = bases.get(made.base.name), Predictor(made, bases)
        answer, head = _answer(base, made), _head(made)
    probe = [base.tokenizer(text)["input_ids"] for text in PROBE]
    with attached:
        difference = write(weights_of(base.net, head)[0], answer, out, probe)
    base.tokenizer.save_pretrained(str(out / "tokenizer"))
    return {"output": answer.name, "difference": difference, "labels": list(answer.labels)}


def _check(folder: Path, made: Adaptation) -> None:
    """Raise ConfigError (E-CONFIG-265) for an adaptation that is more than a net."""
    problems = []
    if made.base is None:
        problems.append(f"it is read without a net ({made.readout_name})")
    if made.context is not None and made.context.demonstrations:
        problems.append("it shows demonstrations, which the caller would have to")
    if made.prefix is not None:
        problems.append("it stands on an encoded context")
    if made.unmasked:
        problems.append("it reads a decoder as an encoder")
    if made.base is not None and made.base.kind == "encoder" and made.readout_name != "head":
        problems.append(f"its readout is '{made.readout_name}', not a trained head")
    if problems:
        raise ConfigError(
            "E-CONFIG-265", f"{folder} cannot be a SavedModel.", details=problems,
            fix="tune an encoder (`sapwood tune DATA --model minilm-l6`), or export its base",
        )  # fmt: skip


def _head(made: Adaptation) -> Any:
    from sapwood.training.heads import TrainedHead

    return TrainedHead(made.readout) if made.readout_name == "head" else None


def _answer(base: Any, made: Adaptation | None = None) -> Answer:
    from sapwood.tensorflow.saved_model import Answer

    if made is not None and made.readout_name == "head":
        readout: Any = made.readout
        temperature = 1.0 if made.decision is None else made.decision.temperature
        return Answer(
            name="probabilities", pooling=readout.pooling, labels=made.labels,
            temperature=temperature,
        )  # fmt: skip
    return Answer(name="next_token_scores" if base.kind == "decoder" else "states")
