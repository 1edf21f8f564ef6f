"""What each route may be asked: every entry, its kind and its bounds.

Entries of the OpenAI API that change nothing here are taken and ignored (user, metadata, store);
those that would change the answer and are not served may only say "no"; all others are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SAMPLES, STOPS, STOP_CHARACTERS = 8, 8, 64
TEXTS, PROMPTS, MESSAGES, PARTS = 64, 32, 256, 64
CHARACTERS = 400_000  # of one text: some 100,000 tokens, more than a base here reads
IDS, TOKENS, TOP = 131_072, 131_072, 20
SCHEMA_CHARACTERS, SCHEMA_LEVELS = 32_768, 16

Name = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=CHARACTERS)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=TEXTS)]
Stop = Annotated[str, Field(min_length=1, max_length=STOP_CHARACTERS)]
Token = Annotated[int, Field(ge=0, lt=1 << 31, strict=True)]
Tokens = Annotated[list[Token], Field(min_length=1, max_length=IDS)]
Zero = Annotated[float, Field(ge=0, le=0)] | None
Nothing = Annotated[list[Any], Field(max_length=0)] | None
NoEntries = Annotated[dict[str, Any], Field(max_length=0)] | None
Words = Annotated[str, Field(max_length=512)] | None
# What is known of and refused: told apart from what no API has, since a client may rely on it.
UNSERVED = frozenset(
    ("tools", "tool_choice", "functions", "function_call", "tool_calls", "logit_bias", "audio",
     "presence_penalty", "frequency_penalty", "echo", "suffix", "best_of", "dimensions",
     "prediction", "web_search_options", "modalities", "reasoning_effort", "verbosity",
     "chat_template", "chat_template_kwargs")
)  # fmt: skip


class Body(BaseModel):
    """A request's body: no unknown entries, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class Message(Body):
    """One message of a conversation; entries of answers that come back as they were are taken."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=PARTS)]
    name: Words = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing = None
    annotations: Nothing = None

    def words(self) -> str:
        """Return the content as one text."""
        whole = self.content
        return whole if isinstance(whole, str) else "".join(part.text for part in whole)


class StreamOptions(Body):
    """What a stream holds besides the answer."""

    include_usage: bool = False
    include_obfuscation: bool = False  # ignored: there are no other parties on the way


class AnyForm(Body):
    """Answers in any words, or any JSON object."""

    type: Literal["text", "json_object"]


class NamedSchema(Body):
    """A JSON schema with its name."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: Words = None
    strict: bool | None = None  # answers always follow their schema


class SchemaForm(Body):
    """Answers that follow a JSON schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class Ignored(Body):
    """Entries that OpenAI's clients send and that change nothing here."""

    user: Words = None
    store: bool | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    service_tier: Words = None
    safety_identifier: Words = None
    prompt_cache_key: Words = None


class Written(Ignored):
    """What both ways to ask for writing share.

    Answers are greedy unless `temperature` says otherwise. `top_k`, `min_p` and
    `repetition_penalty` are known from other servers; OpenAI's API does not have them.
    """

    model: Name
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000)] | None = None
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    n: Annotated[int, Field(ge=1, le=SAMPLES)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=TOKENS)] | None = None
    presence_penalty: Zero = None
    frequency_penalty: Zero = None
    logit_bias: NoEntries = None
    response_format: AnyForm | SchemaForm | None = None


class Completion(Written):
    """A text, or tokens, to be continued; an adaptation with a context is asked about the text."""

    prompt: (
        Text | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS)] | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=PROMPTS)]
    )  # fmt: skip
    logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None
    echo: Literal[False] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Literal[""] | None = None


class Chat(Written):
    """A conversation to be answered."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None
    tools: Nothing = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: Nothing = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None


class Embedded(Ignored):
    """Texts to be turned into vectors."""

    model: Name
    input: Text | Texts
    encoding_format: Literal["float", "base64"] | None = None


class Read(Body):
    """Texts to be labelled, or to be searched for what they say."""

    model: Name
    input: Text | Texts


Registered = Annotated[str, Field(pattern=r"^[a-z0-9_-][a-z0-9._-]{0,63}$")]


class Load(Body):
    """A subfolder of the registry to serve under a name; without `folder` they are the same."""

    name: Registered
    folder: Registered | None = None


class Unload(Body):
    """A model to serve no longer."""

    name: Registered


class Alias(Body):
    """A name that means a served model from now on; null takes the alias away."""

    alias: Registered
    target: Name | None


class RollBack(Body):
    """An alias that means again what it meant before."""

    alias: Registered
