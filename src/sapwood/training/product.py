"""What a pretraining run leaves: an ordinary checkpoint, its evidence, its card, a few samples."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapwood.config import VERSION
from sapwood.files import new_folder, write_json, write_text
from sapwood.models.silence import silence
from sapwood.objectives import Vocabulary
from sapwood.training.pretraining_job import Job
from sapwood.training.pretraining_setup import Setup
from sapwood.training.readings import ENCODERS

EVIDENCE = "pretraining.json"  # written last: a folder that has it is whole
SCHEMA = "sapwood.pretraining/1"
SAMPLES, PROMPT, WRITTEN = 3, 16, 48  # how many, and tokens of each
TEMPERATURE = 0.8


@dataclass(frozen=True, kw_only=True)
class Sample:
    """How the net goes on with the beginning of a held-out document."""

    prompt: str
    text: str


def finished(out: Path, identity: str) -> dict[str, Any] | None:
    """Return the evidence of a run that ended in `out` with these settings, or None."""
    try:
        known = json.loads((out / EVIDENCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(known, dict) and known.get("identity") == identity
    return known if same else None


def save_product(setup: Setup, job: Job, evidence: dict[str, Any], identity: str) -> None:
    """Write the checkpoint into OUT, `pretraining.json` last."""
    out = job.out
    config = setup.net.config
    if not job.base:
        if setup.vocabulary.opening is not None:
            config.bos_token_id = setup.vocabulary.opening
        config.eos_token_id = setup.vocabulary.eos
    with new_folder(out / ".made") as part, silence():
        setup.net.save_pretrained(part)
        if template := None if job.base else framing(config.model_type, setup.vocabulary):
            framed(_tokenizer(setup.tokenizer), template).save_pretrained(part)
        else:
            for file in sorted(Path(setup.tokenizer).iterdir()):
                if file.is_file():
                    shutil.copyfile(file, part / file.name)
    moved_into(out)
    stamped(evidence, identity)
    write_text(out / "README.md", card(evidence))
    write_json(out / EVIDENCE, evidence)


def framing(model_type: str, vocabulary: Vocabulary) -> tuple[list[Any], list[Any]] | None:
    """Return what stands around a text and around a pair, as the net was trained; None: nothing.

    Each is a list of token ids, with "A" and "B" for the texts.
    """
    first, last, end = vocabulary.first, vocabulary.separator, vocabulary.eos
    if model_type in (*ENCODERS, "electra") and None not in (first, last):
        return [first, "A", last], [first, "A", last, "B", last]
    if model_type == "xlnet" and None not in (first, last):
        return ["A", last, first], ["A", last, "B", last, first]
    if model_type == "t5" and end is not None:
        return ["A", end], ["A", end, "B", end]
    return None


def framed(tokenizer: Any, template: tuple[list[Any], list[Any]]) -> Any:
    """Return the tokenizer with special tokens set around texts; `template`: see `framing`."""
    from tokenizers import processors

    single, pair = template
    names = {n: tokenizer.convert_ids_to_tokens(n) for n in pair if not isinstance(n, str)}
    second = {"A": "$A:0", "B": "$B:1"}

    def written(parts: list[Any]) -> list[str]:
        after = parts.index("B") if "B" in parts else len(parts)
        return [
            second[part] if isinstance(part, str) else f"{names[part]}:{int(at > after)}"
            for at, part in enumerate(parts)
        ]

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=written(single), pair=written(pair),
        special_tokens=[(name, number) for number, name in names.items()],
    )  # fmt: skip
    return tokenizer


def _tokenizer(folder: Path) -> Any:
    transformers: Any = import_module("transformers")
    return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def moved_into(out: Path) -> None:
    """Move what lies in OUT's folder of new files into OUT itself."""
    for path in sorted((out / ".made").iterdir()):
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    (out / ".made").rmdir()


def stamped(evidence: dict[str, Any], identity: str) -> None:
    """Write into the evidence what it is and which run it belongs to."""
    evidence |= {"schema": SCHEMA, "identity": identity, "sapwood": VERSION}


@torch.no_grad()
def continuation(setup: Setup, seed: int) -> list[Sample]:
    """Return samples: beginnings of held-out documents, gone on with at a temperature."""
    tokenizer = _tokenizer(setup.tokenizer)
    draws, found = setup.held["held"], []
    random = torch.Generator().manual_seed(seed)
    setup.net.eval()
    for number in range(min(SAMPLES, draws.plan(0))):
        ids = [int(n) for n in draws.draw(0, number)["input_ids"][:PROMPT]]
        before = len(ids)
        most = min(WRITTEN, setup.length - before)
        for _ in range(most):
            given = torch.tensor([ids], device=next(setup.net.parameters()).device)
            token = _drawn(setup.net(input_ids=given).logits[0, -1], random)
            if token == setup.vocabulary.eos:
                break
            ids.append(token)
        words = [tokenizer.decode(part, skip_special_tokens=True) for part in
                 (ids[:before], ids[before:])]  # fmt: skip
        found.append(Sample(prompt=words[0], text=words[1]))
    return found


def _drawn(logits: Tensor, random: torch.Generator) -> int:
    share = (logits.float().cpu() / TEMPERATURE).softmax(-1)
    return int(torch.multinomial(share, 1, generator=random))


def card(evidence: dict[str, Any]) -> str:
    """Return the model card, from the evidence alone."""
    cost, plan = evidence["cost"], evidence["plan"]
    base = evidence["base"]
    made = f"It goes on from `{base['name']}`." if base else "It was trained from nothing."
    about = (
        f"{made} Objective: `{evidence['objective']}`; {evidence['parameters']:,} weights; rows of "
        f"{evidence['length']} tokens."
    )
    lines = [
        "---", "library_name: transformers", "tags:", "- sapwood", "---", "",
        f"# {evidence['net']}, pretrained", "", about, "", "## Text", "",
    ]  # fmt: skip
    for name, corpus in evidence["corpora"].items():
        what = "replayed against forgetting" if name == "replay" else "learnt"
        lines.append(
            f"- {corpus['folder']} ({what}): {corpus['tokens']:,} tokens, {corpus['bytes']:,} "
            f"bytes; sha256 `{corpus['sha256']}`. Its own card names sources and licences, which "
            "bind this model too."
        )
    lines += ["", "## Held-out text, never trained on", "", "| text | before | after |",
              "|---|---|---|"]  # fmt: skip
    for name, held in evidence["held_out"].items():
        before = evidence["before"].get(name, {}).get("words", "")
        lines.append(f"| {'old' if name == 'replay' else 'this'} | {before} | {held['words']} |")
    spent = (
        f"{plan['steps']:,} steps, {cost['tokens']:,} tokens, {cost['seconds']:,.0f} s at "
        f"{cost['tokens_per_second']:,.0f} tokens/s on {evidence['runtime']}."
    )
    lines += ["", "## Cost", "", spent]
    for sample in evidence.get("samples", ()):
        lines += ["", f"> {sample['prompt']} **{sample['text']}**".replace("\n", " ")]
    lines += ["", f"All figures, settings and versions: `{EVIDENCE}`.", ""]
    return "\n".join(lines)
