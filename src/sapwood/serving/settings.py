"""What a server is told: where it listens, who may ask, and how much they may ask for."""

from __future__ import annotations

import hmac
import ipaddress
import os
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from sapwood.errors import ConfigError

_LEAST_KEY = 12  # characters; guessing one of 72 bits over a network takes longer than it lives
MAKE_KEY = "python -c 'import secrets; print(secrets.token_urlsafe(24))'"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that one request may hold or take; the bounds of each entry are in `asked`.

    `body`: bytes; `levels` of brackets; `body_seconds` to send it in; `seconds` from its arrival
    until it is answered in full.
    """

    body: int = 2 << 20
    levels: int = 24
    body_seconds: float = 30.0
    seconds: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where a server listens and who may ask it.

    Without a `key` it may only listen on this machine's own address. `admin_key` opens the routes
    that change what is served; without one they stay shut. `drain`: seconds that running requests
    get to end in.

    Raises ConfigError: E-CONFIG-290 another address without a key, E-CONFIG-291 an unusable key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str = field(default="", repr=False)
    admin_key: str = field(default="", repr=False)
    limits: Limits = field(default_factory=Limits)
    drain: float = 30.0

    def __post_init__(self) -> None:
        for name, key in (("key", self.key), ("admin key", self.admin_key)):
            check_key(name, key)
        if self.key and self.key == self.admin_key:
            raise ConfigError(
                "E-CONFIG-291",
                "The admin key is the key: whoever may ask could change what is served.",
                fix=f"make another one: {MAKE_KEY}",
            )
        if not self.key and not is_loopback(self.host):
            raise ConfigError(
                "E-CONFIG-290",
                f"Without a key, {self.host} would let everybody who reaches it use this server.",
                fix=f"export SAPWOOD_KEY=$({MAKE_KEY}), or --host 127.0.0.1",
            )


def read_key(path: Path) -> str:
    """Return the key in a file that only its owner may read. Raises ConfigError (E-CONFIG-291).

    A file that cannot be changed, as a platform mounts its secrets, may be open to others.
    """
    make = f"make one: (umask 077; {MAKE_KEY} > {path})"
    try:
        key = path.read_text(encoding="utf-8").strip()
        others = stat.S_IMODE(path.stat().st_mode) & 0o077 if os.name == "posix" else 0
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(
            "E-CONFIG-291", f"The key file {path} cannot be read: {why}.", fix=make
        ) from None
    if not key:
        raise ConfigError("E-CONFIG-291", f"The key file {path} is empty.", fix=make)
    if others and os.access(path, os.W_OK):
        raise ConfigError(
            "E-CONFIG-291",
            f"The key file {path} is open to other users of this machine.",
            fix=f"chmod 600 {path}",
        )
    return key


def check_key(name: str, key: str) -> None:
    """Raise ConfigError (E-CONFIG-291) for a key that no header can carry, or that is guessed."""
    if key and (len(key) < _LEAST_KEY or not all("!" <= letter <= "~" for letter in key)):
        raise ConfigError(
            "E-CONFIG-291",
            f"The {name} must have {_LEAST_KEY} or more letters, digits and signs, without spaces.",
            fix=f"make one: {MAKE_KEY}",
        )


def is_loopback(host: str) -> bool:
    """Tell an address that only this machine reaches.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("")
    (True, True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def same_word(given: str, wanted: str) -> bool:
    """Compare two keys in a time that tells nothing of them, not even their length."""
    digests = (sha256(word.encode("utf-8", "replace")).digest() for word in (given, wanted))
    return hmac.compare_digest(*digests)


def without_port(host: str) -> str:
    """Return the name or address in a Host header.

    >>> without_port("localhost:80"), without_port("[::1]:80"), without_port("a")
    ('localhost', '::1', 'a')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
