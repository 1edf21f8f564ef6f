"""What a build is asked to do: every setting that changes its bytes, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sapwood.corpora.tokenizing import KINDS, fewest
from sapwood.errors import ConfigError

RULES = ("auto", "web", "light", "none")
DAMAGED = ("stop", "keep")
# Bytes of text from which a tokenizer is trained, for each of its tokens: 32 MiB for 8,192. More
# changes frequent pieces little, and the trainer holds every different word in memory, of English
# some 20 bytes and of Chinese some 200 for every letter of it.
BYTES_A_TOKEN = 4096
VOCABULARY = 8192  # small nets: the embeddings of a large vocabulary would be most of their weights
SENTINELS = 100  # as T5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a build.

    `languages`: codes that stay, all if none; `rules`: "auto" takes what suits the format; `held`:
    the share of documents held out, in [0, 1); `held_documents`: patterns of ids held out besides;
    `tokenizer`: a kind to train, or the folder of one; `vocabulary`, `sentinels`: of a trained one;
    `keep_out`: files of evaluation texts; `damaged`: what to do where a file is cut off.
    """

    languages: tuple[str, ...] = ()
    rules: str = "auto"
    mask: bool = True
    near: bool = True
    keep_out: tuple[Path, ...] = ()
    held: float = 0.01
    held_documents: tuple[str, ...] = ()
    tokenizer: str = "bpe"
    vocabulary: int = VOCABULARY
    sentinels: int = SENTINELS
    damaged: str = "stop"

    @property
    def trains(self) -> bool:
        """Tell whether the tokenizer is trained on the corpus."""
        return self.tokenizer in KINDS

    @property
    def tokenizer_bytes(self) -> int:
        """Return the bytes of text from which a tokenizer is trained."""
        return BYTES_A_TOKEN * self.vocabulary


def check(settings: Settings) -> None:
    """Raise ConfigError E-CONFIG-234 with everything that is wrong with the settings."""
    wrong = []
    if not 0 <= settings.held < 1:
        wrong.append(f"--held is {settings.held}: a share below 1 is wanted")
    if settings.trains:
        least = fewest(settings.tokenizer, settings.sentinels)
        if settings.vocabulary < least:
            wrong.append(
                f"--vocabulary is {settings.vocabulary:,}: {settings.tokenizer} with "
                f"{settings.sentinels} sentinels needs {least:,} at least"
            )
    for code in settings.languages:
        if not (2 <= len(code) <= 3 and code.isalpha() and code.islower()):
            wrong.append(f"--languages has {code!r}: codes such as en or zh are wanted")
    if wrong:
        raise ConfigError(
            "E-CONFIG-234", "The corpus cannot be built so", details=wrong,
            fix="sapwood corpus build --help",
        )  # fmt: skip
