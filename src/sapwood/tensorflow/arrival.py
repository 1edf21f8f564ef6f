"""TensorFlow, imported when it is asked for, without its start-up noise."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from sapwood.errors import ConfigError


@cache
def tensorflow() -> Any:
    """Return the module `tensorflow`.

    Raises ConfigError (E-CONFIG-260) when it is not installed or cannot be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet() as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what TensorFlow itself uses
        try:
            found = import_module("tensorflow")
        except ImportError as error:
            lines = [*said(), str(error)]
            raise ConfigError(
                "E-CONFIG-260",
                "The engine 'tensorflow' needs TensorFlow, which cannot be imported.",
                details=[line for line in lines if line.strip()][-3:],
                fix="pip install 'sapwood[tensorflow]', or --engine torch",
            ) from error
    return found


@contextmanager
def _quiet() -> Iterator[Any]:
    """Keep what C++ libraries write to the terminal while they load; yields a reader of it.

    TF_CPP_MIN_LOG_LEVEL leaves four lines about oneDNN, which are written before it is read.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def said() -> list[str]:
            file.seek(0)
            return file.read().decode(errors="replace").splitlines()

        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
