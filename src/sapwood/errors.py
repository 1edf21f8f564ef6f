"""Every error a user can meet.

SapwoodError            exit  what it is about
├── ConfigError            2  a flag, a name, a setting
├── DataError              3  a file, a row, a label
├── ResourceError          4  memory, disk, time, network
└── ModelError             5  weights, tokenizers, adaptations
"""

from __future__ import annotations

from collections.abc import Sequence


class SapwoodError(Exception):
    """A message for the user: a stable code, what is wrong, every problem found, and the fix.

    `code` looks like ``E-DATA-014``; `what` is one sentence that names the thing and the place;
    `details` are further problems, one line each; `fix` is a command or an action.
    """

    exit_code = 1
    lead = "Fix: "  # before the fix

    def __init__(self, code: str, what: str, *, details: Sequence[str] = (), fix: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.details = tuple(details)
        self.fix = fix

    def __str__(self) -> str:
        lines = [f"{self.code}  {self.what}"]
        lines += [f"  • {detail}" for detail in self.details]
        if self.fix:
            lines.append(f"  {self.lead}{self.fix}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return the same content as a JSON-ready object."""
        return {
            "error": self.code,
            "what": self.what,
            "details": list(self.details),
            "fix": self.fix,
        }


class ConfigError(SapwoodError):
    """A flag, a name or a setting is wrong."""

    exit_code = 2


class DataError(SapwoodError):
    """A data file or its rows cannot be used."""

    exit_code = 3


class ResourceError(SapwoodError):
    """Memory, disk, time or network is missing."""

    exit_code = 4


class ModelError(SapwoodError):
    """Weights, a tokenizer or an adaptation cannot be used."""

    exit_code = 5
