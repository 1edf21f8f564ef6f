"""What is asked of a served base, what comes back while it is answered, and who can answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from sapwood.errors import ResourceError, SapwoodError
from sapwood.interfaces import Answer, Turn
from sapwood.models.choosing import Sampling

T = TypeVar("T")


class Busy(ResourceError):
    """The queue is full (E-RESOURCE-070); `after`: seconds after which to try again."""

    def __init__(self, waiting: int, after: float) -> None:
        super().__init__(
            "E-RESOURCE-070",
            f"{waiting} requests are waiting already, which is all that this server lets wait.",
            fix=f"try again in {after:.0f} s",
        )
        self.after = after


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Text to be written by a base or an adaptation of it.

    `model`: an adaptation's name, or the base's. One of `text`, which is continued (an adaptation
    with a context is asked about it under that context), `turns`, a conversation that goes through
    the tokenizer's chat template, and `ids`, tokens as they are. `sampling.samples` answers come
    back; `top`: with each token so many alternatives and their log-probabilities, 0 for none but
    the token's own; `schema`: the JSON schema that answers follow, or "{}" for any JSON object.
    With `fit` an answer for which `sampling.tokens` are too many gets what is left.
    """

    model: str
    text: str = ""
    turns: tuple[Turn, ...] = ()
    ids: tuple[int, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    top: int = 0
    schema: str = ""
    fit: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenLog:
    """A token that was written: its text, its log-probability, and the most probable ones."""

    text: str
    log_probability: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one sample of a wish has got since the last update.

    `text`: new words, whole characters only, never part of a stop word; `tokens`: how many tokens
    it has so far; `finish`: "" while it goes on, then "stop", "length", "cancelled" or "error",
    with `error` saying why. `prompt`: tokens of the prompt, context and prefix included, `cached`
    of which were not computed for this wish.
    """

    sample: int = 0
    text: str = ""
    logs: tuple[TokenLog, ...] = ()
    tokens: int = 0
    finish: str = ""
    error: SapwoodError | None = None
    prompt: int = 0
    cached: int = 0


@dataclass(frozen=True, kw_only=True)
class Found(Generic[T]):
    """A value for each text that was read, and the tokens that it took.

    `prompt`: tokens that were read, context and prefix included, `cached` of which were not
    computed for this request. Of an adaptation that is asked alone, `prompt` counts its texts and
    `cached` is None, not known. `written`: tokens of answers that were written.
    """

    values: list[T]
    prompt: int = 0
    cached: int | None = 0
    written: int = 0


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of one served model.

    `parent`: the base's name, "" for the base itself; `kind`: "base" or "adaptation"; `task`: as
    `sapwood tasks` names it, "" for the base; `writes`: whether it can be asked by a `Wish`;
    `resident`: whether it is in memory now; `created`: seconds since 1970; `digest`: of its
    content, the same for equal adaptations whatever their names; `queries`, `tokens`: answered so
    far; `bytes`: memory while it is resident.
    """

    name: str
    parent: str = ""
    kind: str = "adaptation"
    task: str = ""
    labels: tuple[str, ...] = ()
    parts: Mapping[str, str | None] = field(default_factory=dict)
    writes: bool = True
    resident: bool = True
    created: int = 0
    digest: str = ""
    queries: int = 0
    tokens: int = 0
    bytes: int = 0


class Ticket(Protocol):
    """A wish that is being answered."""

    def cancel(self) -> None:
        """Stop as soon as the running step is done; what came so far stays. Harmless when done."""
        ...


class Engine(Protocol):
    """One frozen base and the adaptations on it, asked from any thread.

    Methods raise SapwoodErrors: ConfigError E-CONFIG-280 an unknown model (with "did you mean"),
    E-CONFIG-281 a model that cannot do what is asked; ModelError E-MODEL-030 a prompt longer than
    the base reads; `Busy` where the queue is full; ResourceError E-RESOURCE-071 while it shuts
    down or after its thread died.
    """

    base: str

    @property
    def alive(self) -> bool:
        """Whether it answers: False once its thread died."""
        ...

    def models(self) -> tuple[About, ...]:
        """Return what is served, the base first."""
        ...

    def write(self, wish: Wish, tell: Callable[[Update], None]) -> Ticket:
        """Begin to answer; `tell` is called from another thread, never blocking, until each sample
        has had an update with `finish`.
        """
        ...

    def classify(self, model: str, texts: Sequence[str]) -> Future[Found[dict[str, float]]]:
        """Return the probability of each label for each text."""
        ...

    def extract(self, model: str, texts: Sequence[str]) -> Future[Found[Answer]]:
        """Return what an extraction adaptation finds in each text."""
        ...

    def embed(self, model: str, texts: Sequence[str]) -> Future[Found[list[float]]]:
        """Return a vector for each text."""
        ...

    def open(self, name: str, folder: Path) -> About:
        """Serve the adaptation in `folder` as `name`, once it is checked in full: hashes, shapes,
        finite numbers, its base, its golden probe. One of that name is replaced at once for new
        requests, those that run end with the old one. Nothing changes when it is refused.
        """
        ...

    def close(self, name: str) -> None:
        """Serve it no longer; requests that run end as they are."""
        ...

    def waiting(self) -> int:
        """Return how many requests wait for a place in the batch."""
        ...

    def stop(self, seconds: float) -> int:
        """Take no more requests, let those that run end for so long, cancel the rest; return how
        many were cancelled.
        """
        ...
