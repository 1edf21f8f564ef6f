"""What the words of a command name: adaptations, by the names they are served by, and bases."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sapwood.errors import ConfigError
from sapwood.registry import did_you_mean

_OF_BASES = ("config.json", "tokenizer.json", "model.safetensors")  # one of them: others tell more


def sort_out(what: tuple[str, ...]) -> tuple[list[str], dict[str, Path]]:
    """Return which of the arguments are bases, and adaptations by the names they get.

    Raises ConfigError: E-CONFIG-309 two of one name, E-CONFIG-287 a path that is neither.
    """
    bases: list[str] = []
    folders: dict[str, Path] = {}
    for word in what:
        folder = adaptation_at(Path(word))
        if folder is None:
            _check_base(word)
            bases.append(word)
            continue
        name = name_of(Path(word), folder)
        if name in folders:
            raise ConfigError(
                "E-CONFIG-309",
                f"Two adaptations would be called '{name}'.",
                fix="rename one of the folders, or put both into a --registry",
            )
        folders[name] = folder
    return bases, folders


def _check_base(word: str) -> None:
    """Raise ConfigError (E-CONFIG-287) for a path that no base and no adaptation is at."""
    from sapwood.models.store import BASES

    path = Path(word).expanduser()
    if word in BASES or path.is_file():
        return
    if not path.exists():
        # "owner/name" may be one of the hub's; what has more parts or begins like a path is one
        if path.is_absolute() or word.startswith((".", "~")) or len(path.parts) > 2:
            near = [each.name for each in path.parent.glob("*") if each.is_dir()]
            raise ConfigError(
                "E-CONFIG-287",
                f"There is no folder '{word}'.{did_you_mean(path.name, near)}",
                fix="name the --out of a run, an adaptation, or a base: sapwood models list",
            )
        return
    if any((path / file).is_file() for file in _OF_BASES) or any(path.glob("*.gguf")):
        return
    begun = (path / "run").is_dir()
    raise ConfigError(
        "E-CONFIG-287",
        f"{word} holds neither an adaptation nor a base"
        + (": its run has not finished." if begun else "."),
        fix="run the same `sapwood adapt` again: it goes on where it stopped"
        if begun
        else "name the --out of a run, an adaptation, or a base: sapwood models list",
    )


def adaptation_at(path: Path) -> Path | None:
    """Return the adaptation that a folder is or holds, or None."""
    from sapwood.adaptation import MAIN
    from sapwood.methods.folder import FILES

    for folder in (path, path / "adaptation"):
        if any((folder / file).is_file() for file in (MAIN, *FILES)):
            return folder
    return None


def name_of(path: Path, folder: Path) -> str:
    """Return the name that an adaptation is served by, from that of its run or folder.

    >>> name_of(Path("runs/My Reviews"), Path("runs/My Reviews/adaptation"))
    'my-reviews'
    """
    shown = path.resolve()
    if shown.name == "adaptation" and folder == path:
        shown = shown.parent
    return re.sub(r"[^a-z0-9._-]+", "-", shown.name.lower()).strip("-.")[:64] or "adaptation"


def base_of(folder: Path) -> str:
    """Return the name of the base that an adaptation says it is for, or ""."""
    from sapwood.adaptation import MAIN

    try:
        said = json.loads((folder / MAIN).read_text(encoding="utf-8"))
        return str((said.get("base") or {}).get("name") or "")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, AttributeError):
        return ""  # whoever loads it says what is wrong
    try:
        said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return _ours(str(said.get("base_model_name_or_path") or ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _ours(name: str) -> str:
    """Return the name of our own copy of a base that PEFT calls by its hub id."""
    from sapwood.models.store import BASES

    upstream = {entry.upstream: own for own, entry in BASES.items()}
    return upstream.get(name, name)
