"""`sapwood check ADAPTATION --for CONSUMER`: what would be refused or ignored, and the fold."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation
    from sapwood.methods.merging import Merged
    from sapwood.methods.portable import BaseFacts, Finding, Reading

NOT_EXACT = 5


@click.command(name="check")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--for", "consumer", required=True, type=click.Choice(["vllm", "llamacpp", "peft"]))
@click.option(
    "--fold",
    "out",
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="Write it as one plain LoRA in this folder.",
)
@click.option(
    "--rank", type=click.IntRange(min=1), help="Rank of the fold.  [default: the largest]"
)
@click.option("--model", "-m", help="Its base.  [default: the one it names, where that is here]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    folder: Path,
    *,
    consumer: str,
    out: Path | None,
    rank: int | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Say what vLLM, llama.cpp or PEFT would refuse or ignore in the adapter in DIR.

    DIR is an adaptation, a run, or a PEFT folder. The exit code is 0 when it would load exactly
    (with --fold: when what was written would), else 5.
    """  # fmt: skip
    from sapwood.methods.portable import consult, read_folder

    if rank is not None and out is None:
        raise ConfigError("E-CONFIG-097", "--rank is the rank of a fold.", fix="add --fold OUT")
    where, made = _opened(folder)
    name = model or _named(where, made)
    facts = _facts(name, asked=model is not None)
    reading = _reading(where, made, consumer, facts)
    folded = None
    if out is not None:
        merged = _folded(where, made, name, rank)
        _write(merged, where, made, out)
        found = (*consult(read_folder(out), consumer, facts).findings, *_beside(made))
        reading = type(reading)(findings=found)
        folded = _said(merged, out)
    if as_json:
        content = {"for": consumer, "exact": reading.exact, "findings": [
            {"effect": f.effect, "what": f.what, "cure": f.cure} for f in reading.findings
        ], "folded": folded}  # fmt: skip
        click.echo(json.dumps(content, ensure_ascii=False))
    else:
        _tell(reading.findings, consumer, reading.exact, folded)
    if not reading.exact:
        sys.exit(NOT_EXACT)


def _opened(folder: Path) -> tuple[Path, Adaptation | None]:
    """Return where the adapter's files lie, and the adaptation if it is one."""
    from sapwood.adaptation import MAIN
    from sapwood.commands.live import open_adaptation

    for place in (folder, folder / "adaptation"):
        if (place / MAIN).exists():
            return place, open_adaptation(place)
    if not folder.is_dir():
        raise ModelError("E-MODEL-040", f"{folder} is no folder.", fix="name an adapter's folder")
    return folder, None


def _named(where: Path, made: Adaptation | None) -> str:
    """Return the name of the base that an adapter says it is for, or an empty string."""
    if made is not None:
        return made.base.name if made.base is not None else ""
    from sapwood.methods.portable import read_folder

    return str(read_folder(where).config.get("base_model_name_or_path") or "")


def _facts(name: str, *, asked: bool) -> BaseFacts | None:
    """Return what the base's configuration says, None where the base is not on this machine."""
    from sapwood.methods.portable import BaseFacts
    from sapwood.models.load import resolve_base
    from sapwood.models.store import BASES, installed

    upstream = {base.upstream: key for key, base in BASES.items()}
    name = upstream.get(name, name)
    if not asked and not Path(name).is_dir() and name not in installed():
        return None
    if not name:
        return None
    from transformers import AutoConfig

    folder = resolve_base(name).folder
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    kind, vocabulary = str(config.model_type), int(getattr(config, "vocab_size", 0))
    return BaseFacts(
        kind=kind, tied=bool(getattr(config, "tie_word_embeddings", False)), vocabulary=vocabulary
    )


def _reading(
    where: Path, made: Adaptation | None, consumer: str, facts: BaseFacts | None
) -> Reading:
    from sapwood.methods.folder import SETTINGS
    from sapwood.methods.portable import Finding, Reading, consult, read_folder

    beside = _beside(made)
    if made is not None and made.method is None and made.prefix is None:
        what = "it has no trained weights: a context and a readout are all it is"
        cure = "give its prompt to the server yourself"
        return Reading(findings=(Finding(effect="refused", what=what, cure=cure), *beside))
    if (where / SETTINGS).exists():
        assert made is None or made.method is not None
        words = "it" if made is None else made.method.describe()  # type: ignore[union-attr]
        what = f"{words} is kept in Sapwood's own files, which {consumer} does not read"
        cure = "add --fold OUT: it writes the nearest plain LoRA, and says what that loses"
        return Reading(findings=(Finding(effect="refused", what=what, cure=cure), *beside))
    found = consult(read_folder(where), consumer, facts).findings
    if facts is None:
        what = "the base is not here, so names were not checked against it (--model BASE does)"
        found = (*found, Finding(effect="note", what=what))
    return Reading(findings=(*found, *beside))


def _beside(made: Adaptation | None) -> tuple[Finding, ...]:
    """Return what an adaptation has beside its weights, which no consumer reads."""
    from sapwood.methods.portable import Finding

    found: list[Finding] = []
    if made is None:
        return ()
    if made.method is not None and made.prefix is not None:
        what = "the trained prefix beside the method is not read"
        cure = "serve it with Sapwood, or train one of both"
        found.append(Finding(effect="ignored", what=what, cure=cure))
    shots = made.context is not None and made.context.shots and made.prefix is None
    if made.method is not None and shots and made.scope == "suffix":
        what = "its scope is 'suffix': trained not to act on the demonstrations, it would there"
        found.append(Finding(effect="ignored", what=what, cure="train it with --scope all"))
    kept = [f"the readout ({made.readout_name})"]
    if made.context is not None and made.prefix is None:
        kept.insert(0, f"the prompt ({made.context.describe() or 'no demonstrations'})")
    found.append(Finding(effect="note", what=f"only the weights travel, not {' or '.join(kept)}"))
    return tuple(found)


def _folded(where: Path, made: Adaptation | None, name: str, rank: int | None) -> Merged:
    from sapwood.methods.folder import SETTINGS, load_trained
    from sapwood.methods.folding import fold, fold_parts
    from sapwood.methods.portable import read_folder

    if made is not None and made.method is None:
        raise ModelError("E-MODEL-067", "There is no method to fold.", fix="name a tuned one")
    own = (where / SETTINGS).exists()
    if own or read_folder(where).config.get("peft_type", "LORA") != "LORA":
        net = _net(name, made)
        load_trained(net, where)
        return fold_parts(net, rank=rank)
    shipped = read_folder(where)
    if not shipped.config.get("use_dora"):
        return fold(shipped, rank=rank)
    net = _net(name, made)

    def weight(path: str) -> Any:
        try:
            layer = net.get_submodule(path)
        except AttributeError:
            raise ModelError(
                "E-MODEL-023", f"The base '{name}' has no module {path}.", fix="--model ITS_BASE"
            ) from None
        return layer.weight.t() if shipped.config.get("fan_in_fan_out") else layer.weight

    return fold(shipped, weight=weight, rank=rank)


def _net(name: str, made: Adaptation | None) -> Any:
    """Return the base's net in float32; of an adaptation's base the weights must be its own."""
    from dataclasses import replace

    from sapwood.commands.live import make_bases

    if not name:
        raise ConfigError(
            "E-CONFIG-096",
            "Folding needs the weights of the base, and the adaptation names none.",
            fix="--model BASE",
        )
    bases = make_bases("cpu", "float32")
    if made is not None and made.base is not None:
        return bases.expect(replace(made.base, name=name)).net
    return bases.get(name).net


def _write(merged: Merged, where: Path, made: Adaptation | None, out: Path) -> None:
    from sapwood.methods.folder import SETTINGS
    from sapwood.methods.folding import as_folder, write_folder
    from sapwood.methods.portable import read_folder

    if (where / SETTINGS).exists():
        assert made is None or made.base is not None
        base = made.base if made is not None else None
        config: Any = {"task_type": "CAUSAL_LM", "fan_in_fan_out": bool(made and made.transposed)}
        config["base_model_name_or_path"] = (base.upstream or base.name) if base else None
    else:
        config = read_folder(where).config
    write_folder(as_folder(merged, config), out)


def _said(merged: Merged, out: Path) -> dict[str, Any]:
    from sapwood.methods.folding import total_loss

    worst = max(merged.lost, key=lambda path: merged.lost[path])
    return {
        "folder": str(out),
        "rank": merged.rank,
        "modules": len(merged.branches),
        "relative_error": total_loss(merged),
        "worst": {"module": worst, "relative_error": merged.lost[worst]},
    }


def _tell(
    findings: Sequence[Finding], consumer: str, exact: bool, folded: dict[str, Any] | None
) -> None:
    if folded is not None:
        lost, worst = folded["relative_error"], folded["worst"]
        how = "exact" if lost < 1e-6 else f"relative error of the change {lost:.2%}"
        if lost >= 1e-6:
            how += f", at most {worst['relative_error']:.2%} ({worst['module']})"
        click.echo(
            f"folded   {folded['modules']} modules to rank {folded['rank']}: {how}. "
            f"{folded['folder']}"
        )
    for finding in findings:
        cure = f"  Cure: {finding.cure}." if finding.cure else ""
        click.echo(f"{finding.effect:<8} {finding.what}.{cure}")
    click.echo(f"{consumer}: " + ("would load exactly" if exact else "would not load exactly"))
