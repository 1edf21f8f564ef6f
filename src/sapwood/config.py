"""Where Sapwood keeps what it downloads and converts."""

from __future__ import annotations

import os
from pathlib import Path

from sapwood.errors import ResourceError

VERSION = "0.1.0"


def home() -> Path:
    """Return Sapwood's cache folder, made if missing: SAPWOOD_HOME, else the platform's own.

    Raises ResourceError (E-RESOURCE-020) when the folder cannot be made or written.
    """
    from platformdirs import user_cache_dir

    named = os.environ.get("SAPWOOD_HOME", "").strip()
    folder = Path(named).expanduser() if named else Path(user_cache_dir("sapwood"))
    problem = "it is not a folder" if folder.exists() and not folder.is_dir() else ""
    if not problem:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                problem = "it may not be written"
        except OSError as error:
            problem = error.strerror or str(error)
    if problem:
        raise ResourceError(
            "E-RESOURCE-020",
            f"Cannot use {folder} for downloads: {problem}",
            fix="set SAPWOOD_HOME to a folder you can write",
        )
    return folder
