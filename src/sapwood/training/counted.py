"""An n-gram model counted from a corpus: pretraining of the oldest kind, in one pass."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from importlib import import_module
from typing import Any

from sapwood.corpora.corpus import Corpus
from sapwood.errors import ConfigError
from sapwood.files import new_folder, write_json, write_text
from sapwood.interfaces import Event
from sapwood.models.kinds import check_fit, kind_of
from sapwood.models.ngram import count_and_smooth, sequences_of
from sapwood.objectives import objective
from sapwood.training.course import digest
from sapwood.training.pretraining_job import Job
from sapwood.training.product import EVIDENCE, card, finished, moved_into, stamped


def count(job: Job) -> Generator[Event, None, dict[str, Any]]:
    """Count the n-grams of `job.corpus` and return the evidence; OUT is then a model's folder.

    Raises ConfigError (E-CONFIG-241) for an objective that is not clm, (E-CONFIG-243) where OUT
    holds a run of another kind, and what counting raises.
    """
    began = time.monotonic()
    kind, size = kind_of(job.model)
    check_fit(kind, (objective(job.objective or "clm").name,))
    corpus = Corpus.open(job.corpus)
    identity = digest({"corpus": corpus.sha256, "model": job.model})
    known = finished(job.out, identity)
    if known is not None:
        yield Event(kind="note", note=f"{job.out} is finished already")
        return known
    if (job.out / "run" / "plan.json").exists():
        raise ConfigError(
            "E-CONFIG-243", f"{job.out} holds a run of another kind.",
            fix="add --fresh to forget it, or choose another --out",
        )  # fmt: skip
    transformers: Any = import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        str(corpus.tokenizer), local_files_only=True
    )
    symbols: Any = import_module("sapwood.models.counting").Symbols.of(tokenizer)
    part, held = corpus.part("train"), corpus.part("held")
    model = yield from count_and_smooth(
        sequences_of(part), order=int(size), symbols=symbols, scratch=None
    )
    yield Event(kind="end", candidate="smooth")
    texts = [held.document(n).ids.tolist() for n in range(len(held))]
    nats = sum(float(one.sum()) for one in model.scored(texts))
    bits = nats / math.log(2) / max(1, held.bytes)
    words = f"{bits:.3f} bits a byte"
    seconds = round(time.monotonic() - began, 2)
    evidence: dict[str, Any] = {
        "objective": "clm", "net": job.model, "base": None,
        "corpora": {"held": {"folder": corpus.folder.name, "sha256": corpus.sha256,
                             "tokens": part.tokens, "bytes": part.bytes}},
        "parameters": sum(model.sizes), "length": int(size), "seed": job.seed,
        "plan": {"steps": 1}, "before": {},
        "held_out": {"held": {"loss": nats / max(1, held.tokens + len(held)),
                              "bits_per_byte": bits, "examples": len(held), "words": words}},
        "cost": {"tokens": part.tokens, "seconds": seconds,
                 "tokens_per_second": round(part.tokens / max(seconds, 1e-9), 1)},
        "runtime": "this machine's CPU",
    }  # fmt: skip
    stamped(evidence, identity)
    job.out.mkdir(parents=True, exist_ok=True)
    with new_folder(job.out / ".made") as made:
        model.write(made)
        tokenizer.save_pretrained(made)
    moved_into(job.out)
    write_text(job.out / "README.md", card(evidence))
    write_json(job.out / EVIDENCE, evidence)
    yield Event(kind="note", note=f"{part.tokens:,} tokens in {seconds} s: held-out {words}")
    return evidence
