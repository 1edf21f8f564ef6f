"""What the routes that read texts answer, as the OpenAPI document tells it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Told(BaseModel):
    """A piece of an answer, which has these entries and no others."""

    model_config = ConfigDict(extra="forbid")


class PromptDetails(Told):
    """Of the prompt's tokens, those that were not computed for the request."""

    cached_tokens: Count


class Usage(Told):
    """The tokens of a request; an adaptation that needs no base has none.

    `prompt_tokens_details` is left out where an adaptation is asked alone, `completion_tokens`
    where nothing was written.
    """

    prompt_tokens: Count
    total_tokens: Count
    completion_tokens: Count = 0
    prompt_tokens_details: PromptDetails | None = None


class Label(Told):
    """A label and how probable it is."""

    label: str
    probability: Share


class Labelled(Told):
    """One text's labels, the most probable first."""

    index: Count
    label: str | None
    labels: list[Label]


class Place(Told):
    """Characters of a text, `end` not included."""

    start: Count
    end: Count
    label: str
    text: str


class FrameFound(Told):
    """One thing that a text says: an entity, a relation, an event."""

    label: str
    head: Place | None
    arguments: list[Place]


class Read(Told):
    """What one text says."""

    index: Count
    frames: list[FrameFound]
    words: str


class Vector(Told):
    """One text's vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


class _List(Told):
    object: Literal["list"]
    model: str
    usage: Usage


class Classified(_List):
    """The answer of `/v1/classify`."""

    data: list[Labelled]


class Extracted(_List):
    """The answer of `/v1/extract`."""

    data: list[Read]


class Vectors(_List):
    """The answer of `/v1/embeddings`."""

    data: list[Vector]
