"""What a pretraining run works with, opened and checked: corpora, net, examples, recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch

from sapwood.errors import ConfigError, DataError
from sapwood.launch import Runtime
from sapwood.models.kinds import (
    KINDS,
    MODEL_TYPES,
    RECURRENT,
    Kind,
    check_fit,
    kind_of,
    net_class,
    new_net,
)
from sapwood.models.pair import GENERATOR, loaded_pair
from sapwood.models.products import quickened
from sapwood.objectives import objective
from sapwood.objectives.draws import Draws
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.training.loop import Recipe
from sapwood.training.pretraining_job import WARMUP, Job
from sapwood.training.reading import Reading
from sapwood.training.readings import PAIRS, Examples, Read, reading_for
from sapwood.training.stream import Blend, Stream

# Tokens a step. Small batches make more of a short run; a GPU is idle on them.
CPU_TOKENS, GPU_TOKENS = 2048, 32768
# At width 128, falling with its root; a base that is continued takes a tenth.
RATE, WIDTH, CONTINUED = 3e-3, 128, 0.1
# Where a label for each pair is all there is to learn, gradients are mostly noise, which Muon makes
# as large as any: of 64 pairs a step, the loss of bert-mini's last 50 of 200 steps was 0.44 with
# AdamW at this share of the rate, 0.52 with Muon, and 0.68 with AdamW at the whole rate.
PAIRED = 0.25
WRITERS = ("clm", "fim")  # objectives after which a net continues a text


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All of a run but its plan. `held`: draws of held-out text, "held" of the corpus and "replay"
    of the old one; `identity`: what decides the result; `facts`: of the evidence; `writes`: whether
    the net continues texts; `notes`: what the user should know.
    """

    net: Any
    reading: Reading
    examples: Examples
    held: Mapping[str, Draws]
    recipe: Recipe
    length: int
    optimiser: str
    precision: torch.dtype
    tokenizer: Path
    vocabulary: Vocabulary
    identity: Any
    facts: dict[str, Any]
    writes: bool = False
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


def prepared(job: Job, runtime: Runtime, read: Read = reading_for) -> Setup:
    """Open and check everything that a run needs, what costs nothing first; `read`: see `pretrain`.

    Raises what corpora and objectives raise; ConfigError: E-CONFIG-240 an unknown net, -241 an
    objective that does not train it, -245 a number format that cannot train, -246 rows too long;
    DataError (E-DATA-240) a corpus in another vocabulary than the base's, (E-DATA-241) without
    held-out text.
    """
    from sapwood.corpora.corpus import Corpus

    kind = _kind(job)
    learns = objective(job.objective or kind.objectives[0])
    names = names_of(learns)
    check_fit(kind, names)
    corpora = {"held": Corpus.open(job.corpus)}
    if job.replay is not None:
        corpora["replay"] = Corpus.open(job.replay)
    tokenizer = _tokenizer(corpora["held"].tokenizer)
    vocabulary = Vocabulary.of(tokenizer)
    precision = torch.float32 if job.engine == "tensorflow" else _precision(runtime)
    notes: list[str] = []
    if job.base:
        net, sha256 = _continued(job, kind, names, tokenizer, notes)
    else:
        net = new_net(job.model, vocabulary, job.length, names, seed=job.seed, dropout=job.dropout)
        sha256 = ""
        net.train()
    _check_length(net, job)
    if "replay" in corpora:
        _same_words(tokenizer, _tokenizer(corpora["replay"].tokenizer), job.replay)
    elif job.base:
        notes.append("no --replay: what the base forgets is neither held back nor measured")
    net = quickened(net.to(runtime.device))
    examples, held = _examples(job, learns, corpora, vocabulary)
    paired = set(names) <= set(PAIRS)
    recipe = _recipe(job, net, runtime, share=PAIRED if paired else 1.0)
    suits = "adamw" if paired or kind.name in RECURRENT else "muon"
    optimiser = suits if job.optimiser == "auto" else job.optimiser
    facts: dict[str, Any] = {
        "objective": str(learns),
        "base": {"name": job.base, "sha256": sha256} if job.base else None,
        "parameters": sum(p.numel() for p in net.parameters()),
        "length": job.length, "optimiser": optimiser, "seed": job.seed, "engine": job.engine,
        "dropout": job.dropout, "replay_share": job.share if job.replay else None,
    }  # fmt: skip
    identity = {
        **facts, "model": job.model, "precision": str(precision), "device": runtime.device,
        "corpora": [corpus.sha256 for corpus in corpora.values()],
        "recipe": asdict(recipe), "steps": job.steps, "seconds": job.seconds,
    }  # fmt: skip
    facts |= {"net": job.model or job.base, "runtime": runtime.describe()}
    facts["corpora"] = {name: _about(corpus) for name, corpus in corpora.items()}
    return Setup(
        net=net, reading=read(net, names), examples=examples, held=held, recipe=recipe,
        length=job.length, optimiser=optimiser, precision=precision,
        tokenizer=Path(corpora["held"].tokenizer), vocabulary=vocabulary, identity=identity,
        facts=facts, writes=names[0] in WRITERS and learns.trains == "decoder",
        notes=tuple(notes),
        versions={name: metadata.version(name) for name in ("transformers", "numpy")},
    )  # fmt: skip


def _examples(
    job: Job, learns: Any, corpora: Mapping[str, Any], vocabulary: Vocabulary
) -> tuple[Examples, dict[str, Draws]]:
    """Return (what is trained on, what is held out of each corpus)."""
    given = vocabulary, job.length, job.seed
    held = {name: Draws(learns.evaluated(), _part(c), *given) for name, c in corpora.items()}
    streams = {
        name: Stream(Draws(learns, corpus.part("train"), *given), job.seed)
        for name, corpus in corpora.items()
    }
    if "replay" in streams:
        return Blend(streams["held"], streams["replay"], job.share), held
    return streams["held"], held


def _about(corpus: Any) -> dict[str, Any]:
    """Return what the evidence says of a corpus."""
    part = corpus.part("train")
    return {
        "folder": corpus.folder.name, "sha256": corpus.sha256, "tokens": part.tokens,
        "bytes": part.bytes,
    }  # fmt: skip


def _kind(job: Job) -> Kind:
    """Return the kind of the net, new or continued."""
    if job.model:
        return kind_of(job.model)[0]
    from sapwood.models.load import resolve_base

    auto: Any = import_module("transformers").AutoConfig
    folder = resolve_base(job.base).folder
    config = auto.from_pretrained(str(folder), local_files_only=True)
    name = MODEL_TYPES.get(config.model_type, "")
    if not name:
        raise ConfigError(
            "E-CONFIG-247", f"Training cannot go on with the kind '{config.model_type}'.",
            fix=f"one of {', '.join(MODEL_TYPES)}",
        )  # fmt: skip
    return KINDS[name]


def names_of(learns: Any) -> tuple[str, ...]:
    """Return the names of the objectives that a line names, in its order."""
    members = getattr(learns, "members", ())
    both = (learns.tokens, learns.pair) if learns.name == "sum" else members
    if learns.name not in ("sum", "mix"):
        return (learns.name,)
    return tuple(dict.fromkeys(name for each in both for name in names_of(each)))


def _recipe(job: Job, net: Any, runtime: Runtime, share: float) -> Recipe:
    tokens = CPU_TOKENS if runtime.device == "cpu" else GPU_TOKENS
    width = getattr(net.config, "hidden_size", None) or WIDTH
    usual = share * RATE * (WIDTH / width) ** 0.5 * (CONTINUED if job.base else 1.0)
    return Recipe(
        learning_rate=job.learning_rate or usual,
        batch_size=job.batch_size or max(1, tokens // job.length),
        warmup=WARMUP, weight_decay=job.weight_decay, seed=job.seed, pack_tokens=tokens,
        loss="vocabulary", schedule="stable", order="stream",
    )  # fmt: skip


def _precision(runtime: Runtime) -> torch.dtype:
    if runtime.dtype == "float16":
        raise ConfigError(
            "E-CONFIG-245", "float16 cannot train from scratch: small gradients vanish in it.",
            fix="--dtype bfloat16 or float32",
        )  # fmt: skip
    return runtime.torch_dtype()


def _check_length(net: Any, job: Job) -> None:
    limit = getattr(net.config, "max_position_embeddings", None) or 0
    if 0 < limit < job.length:  # XLNet says -1 for no limit
        raise ConfigError(
            "E-CONFIG-246",
            f"Rows of {job.length:,} tokens are longer than '{job.base}' reads: {limit:,}.",
            fix=f"--length {limit}",
        )


def _part(corpus: Any) -> Any:
    part = corpus.part("held")
    if not len(part):
        raise DataError(
            "E-DATA-241", f"{corpus.folder} has no held-out documents to measure with.",
            fix="build the corpus again with a larger --held-out share, or from more documents",
        )  # fmt: skip
    return part


def _tokenizer(folder: Path) -> Any:
    transformers: Any = import_module("transformers")
    return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def _same_words(one: Any, other: Any, whose: object) -> None:
    if one.get_vocab() != other.get_vocab():
        raise DataError(
            "E-DATA-240",
            f"The corpus and {whose} have different vocabularies "
            f"({len(one):,} and {len(other):,} tokens).",
            fix=f"build it with that tokenizer: sapwood corpus build ... --tokenizer {whose}",
        )


def _continued(
    job: Job, kind: Kind, names: tuple[str, ...], tokenizer: Any, notes: list[str]
) -> tuple[Any, str]:
    """Return (the base to go on with, trainable, without dropout; the hash of its weights)."""
    from sapwood.models.load import resolve_base
    from sapwood.models.silence import silence
    from sapwood.models.weights import weights_hash

    files = resolve_base(job.base)
    _same_words(tokenizer, _tokenizer(files.folder), job.base)
    if kind.name == "electra":
        if not (files.folder / GENERATOR).is_dir():
            raise ConfigError(
                "E-CONFIG-247", f"{job.base} is a discriminator without its generator.",
                fix="name a folder that 'sapwood pretrain --objective rtd' made",
            )  # fmt: skip
        net = loaded_pair(files.folder, dtype=torch.float32)
        return net.eval(), weights_hash(files.folder)
    kinds: Any = net_class(kind, names)
    if kind.name == "decoder":
        kinds = import_module("transformers").AutoModelForCausalLM
    with silence():
        net, said = kinds.from_pretrained(
            str(files.folder), dtype=torch.float32, local_files_only=True, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
    new = sorted(said["missing_keys"])
    if new:
        notes.append(f"{len(new)} tensors are not in {job.base} and begin anew, such as {new[0]}")
    return net.eval(), weights_hash(files.folder)
