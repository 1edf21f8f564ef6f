"""`sapwood chat`: talk to a base, or to an adaptation's, in the terminal or by lines of stdin."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.commands.decoding import TEMPERATURE, TOP_P, options, sampling
from sapwood.errors import ConfigError, DataError, ModelError, SapwoodError

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation
    from sapwood.models.conversation import Conversation

_HELP = """/reset    forget the conversation, keep the context
/context  show what stands before the conversation, and how full the window is
/help     show these lines
/exit     leave (Ctrl-D does too); Ctrl-C stops an answer"""
# Stored contexts of all chats together; a context of 1,000 tokens takes 46 MB for SmolLM2-135M in
# float32, so the last few dozen stay.
_STORE_BYTES = 4 << 30
_TOKENS = 256  # of an answer: some ten sentences


@click.command(name="chat")
@click.argument("folder", metavar="[ADAPTATION]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--model", "-m", help="Base: a name, hub id, folder or .gguf file.  [default: smollm2-135m]"
)
@click.option("--context", type=click.Path(path_type=Path), help="Text file to put before it.")
@click.option("--demonstrations", metavar="DATA", help="Labelled data to show as earlier turns.")
@click.option(
    "--shots", type=click.IntRange(min=1), default=8, show_default=True, help="How many of them."
)
@click.option("--system", metavar="WORDS", help="Words that say how to answer.")
@options
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object an answer.")
def command(folder: Path | None, *, model: str | None, **given: Any) -> None:
    """Talk to a base: each line is a message. What was said is never encoded twice.

    Answers are samples of at most 256 tokens unless the options say otherwise. Beams and
    contrastive search show an answer once it is whole. Where ADAPTATION is a language model as it
    is (n-gram, recurrent, a pretrained folder), each line is continued instead.
    """
    if folder is not None and model is not None:
        raise ConfigError(
            "E-CONFIG-072",
            "An adaptation names its own base; --model names another.",
            fix="leave one of them out",
        )
    from sapwood.commands import continuing

    plain = continuing.continues(folder, model)
    if plain is not None:
        continuing.talk(plain, given, _lines(), as_json=given["as_json"])
        return
    made = _open(folder)
    system, messages = _pinned(made, given)
    from sapwood.commands.live import make_bases

    bases = make_bases(given["device"], given["dtype"])
    name = made.base.name if made is not None and made.base is not None else model or "smollm2-135m"
    base = bases.get(name)
    if base.kind != "decoder":
        raise ModelError(
            "E-MODEL-034",
            f"'{name}' is an encoder: it reads texts and writes none.",
            fix="use a decoder, such as smollm2-135m or gemma3-270m",
        )
    with _attached(base.net, made):
        conversation = _conversation(base, [*system, *messages], given)
        if not given["as_json"]:
            click.echo(f"{name}, {len(conversation.beginning):,} tokens of context, "
                       f"{conversation.limit:,} fit. /help says more.", err=True)  # fmt: skip
        conversation.begin()
        _talk(conversation, as_json=given["as_json"])


def _open(folder: Path | None) -> Adaptation | None:
    if folder is None:
        return None
    from sapwood.commands.live import open_adaptation

    made = open_adaptation(folder)
    if made.base is None or made.base.kind != "decoder" or made.unmasked:
        raise ModelError(
            "E-MODEL-034",
            f"{folder} has no base that writes text: it reads its answer by {made.readout_name}.",
            fix="name an adaptation of a decoder, or a base with --model",
        )
    return made


def _pinned(
    made: Adaptation | None, given: dict[str, Any]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the system message and the earlier turns that the options and adaptation ask for."""
    from sapwood.context.template import default_template

    turns: list[tuple[str, str]] = []
    instruction = ""
    if made is not None and made.context is not None:
        template = made.context.template
        instruction = template.instruction
        shown = made.context.demonstrations if made.context.sharing == "all" else ()
        turns = _turns((d.text, template.words[str(d.label)]) for d in shown)
    if given["demonstrations"]:
        chosen, labels = _demonstrations(given)
        template = default_template(labels, [d.text for d in chosen])
        instruction = instruction or template.instruction
        turns += _turns((d.text, template.words[str(d.label)]) for d in chosen)
    pieces = [given["system"] if given["system"] is not None else instruction]
    if given["context"] is not None:
        pieces.append(_text(given["context"]))
    words = "\n\n".join(piece for piece in pieces if piece)
    return ([("system", words)] if words else []), turns


def _turns(pairs: Any) -> list[tuple[str, str]]:
    return [m for text, reply in pairs for m in (("user", text), ("assistant", reply.strip()))]


def _demonstrations(given: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    from sapwood.context.select import SELECTORS
    from sapwood.registry import resolve
    from sapwood.tasks.readers import find_files, read_examples

    table = read_examples(find_files(given["demonstrations"])["train"])
    labels = tuple(sorted({str(e.label) for e in table.examples}))
    chosen = resolve("selector", SELECTORS, "stratified")().select(
        table.examples, [""], given["shots"], given["seed"], labels=labels
    )
    return [table.examples[n] for n in chosen[0]], labels


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(
            "E-DATA-090", f"The context {path} cannot be read: {why}.", fix="--context TEXTFILE"
        ) from None


@contextmanager
def _attached(net: Any, made: Adaptation | None) -> Iterator[None]:
    """Attach an adaptation's method while the block runs."""
    if made is None or made.method is None:
        yield
        return
    from sapwood.methods import parts
    from sapwood.methods.folder import attach_trained

    attach_trained(net, made.method, made.weights, where="the adaptation")
    try:
        yield
    finally:
        parts.detach(net)


def _conversation(base: Any, pinned: list[tuple[str, str]], given: dict[str, Any]) -> Conversation:
    from sapwood.config import home
    from sapwood.methods import parts
    from sapwood.models.conversation import Conversation
    from sapwood.models.decoder import Decoder
    from sapwood.models.generate import Sampling
    from sapwood.models.stored import ContextStore

    decoder = Decoder(
        base.net,
        weights_key=lambda: f"{base.sha256} {parts.weights_key(base.net)}",
        store=ContextStore(home() / "contexts", _STORE_BYTES),
    )
    usual = Sampling(tokens=_TOKENS, temperature=TEMPERATURE, top_p=TOP_P)
    chosen = sampling(given, usual)
    return Conversation(decoder, base.tokenizer, pinned, limit=base.max_length, sampling=chosen)


def _talk(conversation: Conversation, *, as_json: bool) -> None:
    """Read messages until the input ends; errors of one message do not end the conversation."""
    for words in _lines():
        if words.startswith("/"):
            if words in ("/exit", "/quit"):
                return
            click.echo(_obeyed(words, conversation), err=True)
            continue
        try:
            _reply(conversation, words, as_json=as_json)
        except SapwoodError as error:
            click.echo(
                json.dumps(error.to_json(), ensure_ascii=False) if as_json else "", nl=as_json
            )
            click.echo(str(error), err=True)


def _lines() -> Iterator[str]:
    """Yield what the user writes, without blank lines."""
    live = sys.stdin.isatty()
    if not live and hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    if live:
        with_history()
    while True:
        try:
            line = input("> " if live else "")
        except EOFError:
            if live:
                click.echo()
            return
        except KeyboardInterrupt:
            if not live:
                raise
            click.echo("\nCtrl-D leaves.", err=True)
            continue
        if line.strip():
            yield line.strip()


def with_history() -> None:
    """Let the arrow keys edit and recall lines, where Python was built with readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


def _obeyed(words: str, conversation: Conversation) -> str:
    """Do what a line that begins with a slash says; return what to tell."""
    if words == "/reset":
        conversation.reset()
        return "The conversation is forgotten, the context is kept."
    if words == "/context":
        shown = [f"{role}: {text}" for role, text in conversation.pinned] or ["(no context)"]
        return "\n".join([*shown, f"{conversation.used():,} of {conversation.limit:,} tokens used"])
    return _HELP if words == "/help" else f"There is no {words.split(maxsplit=1)[0]}.\n{_HELP}"


def _reply(conversation: Conversation, words: str, *, as_json: bool) -> None:
    """Write the answer as it comes; Ctrl-C ends it and it is kept as far as it came."""
    started, stopped = time.perf_counter(), False
    pieces = conversation.answer(words)
    try:
        for piece in pieces:
            if not as_json:
                click.echo(piece, nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:
        stopped = True
    finally:
        pieces.close()  # type: ignore[attr-defined]
    turn = conversation.last
    if turn is None:
        return
    if turn.dropped:
        click.echo(f"\n[{turn.dropped} oldest turns were dropped: the window is full]", err=True)
    if not as_json:
        click.echo(" [stopped]" if stopped else "")
        return
    line = {
        "message": words, "answer": turn.words, "tokens": turn.tokens, "stopped": stopped,
        "dropped_turns": turn.dropped, "tokens_run": turn.run, "tokens_reused": turn.reused,
        "seconds": round(time.perf_counter() - started, 3),
    }  # fmt: skip
    click.echo(json.dumps(line, ensure_ascii=False))
