"""`sapwood serve`: one base and its adaptations, answered over HTTP."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.commands.naming import base_of, sort_out
from sapwood.commands.wording import locale_language
from sapwood.errors import ConfigError, ResourceError, SapwoodError

if TYPE_CHECKING:
    import socket

    from sapwood.serving.desk import Desk
    from sapwood.serving.registry import Registry
    from sapwood.serving.settings import Settings

KEY, ADMIN_KEY = "SAPWOOD_KEY", "SAPWOOD_ADMIN_KEY"
_USUAL = "smollm2-135m"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one process serves: the base, adaptations by name, and how. It is sent to workers."""

    base: str
    folders: Mapping[str, Path]
    settings: Settings
    registry: Path | None
    studio: Path | None
    device: str
    dtype: str
    room: Mapping[str, Any]


@click.command(name="serve")
@click.argument("what", nargs=-1, metavar="[RUN|ADAPTATION|BASE]...")
@click.option("--base", help="Base, where WHAT does not say it.")
@click.option(
    "--registry",
    type=click.Path(path_type=Path),
    help="Folder of adaptations that may be loaded while it runs.",
)
@click.option(
    "--studio",
    type=click.Path(path_type=Path),
    help="Folder of projects: shows the page of `sapwood ui` at the same address.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help=f"Address; any but this machine's own needs a key in {KEY}.",
)
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True)
@click.option("--key-file", type=click.Path(path_type=Path), help=f"File with the key.  [{KEY}]")
@click.option(
    "--admin-key-file",
    type=click.Path(path_type=Path),
    help=f"File with the admin key.  [{ADMIN_KEY}]",
)
@click.option(
    "--slots",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Most rows in the batch.",
)
@click.option(
    "--resident",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Most adaptations in memory.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Most requests that wait.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=16),
    help="Most tokens of a row, its context and answer included.  [default: what fits into memory]",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that running requests get at the end.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the address, each with a copy of the base.",
)
@click.option(
    "--on",
    "where",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="This machine, or a Ray cluster.",
)
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Tell the address as a JSON object.")
def command(what: tuple[str, ...], **given: Any) -> None:
    """Serve adaptations of one base over HTTP, many in one batch, as OpenAI's API.

    WHAT are folders of runs or adaptations (PEFT's too), or a base by its name. Without a key it
    answers this machine alone.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            "E-RESOURCE-025",
            f"Serving needs a package that is not here: {error.name}.",
            fix="pip install 'sapwood[serve]'",
        ) from None
    plan = _plan(what, given)
    if given["where"] == "ray":
        from sapwood.serving.ray import serve_on_ray

        serve_on_ray(plan, replicas=given["workers"])
        return
    from sapwood.serving.running import listen, serve_many

    with listen(plan.settings) as listening:
        if given["workers"] == 1:
            sys.exit(_serve(plan, listening, as_json=given["as_json"]))
        _say_begin(plan, listening, given["workers"])
        work = Worker(plan=plan, as_json=given["as_json"])
        sys.exit(serve_many(work, given["workers"], listening, plan.settings.drain))


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What one of several processes does."""

    plan: Plan
    as_json: bool

    def __call__(self, number: int, listening: socket.socket) -> int:
        """Serve; only the first says so on stdout."""
        return _serve(self.plan, listening, as_json=self.as_json, quiet=number > 0)


def _plan(what: tuple[str, ...], given: Mapping[str, Any]) -> Plan:
    from sapwood.serving.settings import Settings

    settings = Settings(
        host=given["host"],
        port=given["port"],
        key=_key(given["key_file"], KEY),
        admin_key=_key(given["admin_key_file"], ADMIN_KEY),
        drain=given["drain"],
    )
    bases, folders = sort_out(what)
    held = [*folders.values(), *_in_registry(given["registry"])]
    found = {base for folder in held if (base := base_of(folder))}
    named = {given["base"]} if given["base"] else {*bases, *found}
    if len(named) > 1:
        raise ConfigError(
            "E-CONFIG-309",
            f"One process serves one base; these are of {len(named)}: {', '.join(sorted(named))}.",
            fix="start one for each, at ports of their own",
        )
    room = {
        "slots": given["slots"], "resident": given["resident"], "queue": given["queue"],
        "tokens": given["max_tokens"],
    }  # fmt: skip
    return Plan(
        base=named.pop() if named else _USUAL, folders=folders, settings=settings,
        registry=given["registry"], studio=given["studio"], device=given["device"],
        dtype=given["dtype"], room=room,
    )  # fmt: skip


def _in_registry(root: Path | None) -> list[Path]:
    """Return the adaptations in a registry, whose base is served where none is named."""
    from sapwood.serving.registry import Registry

    if root is None:
        return []
    registry = Registry(root)
    return [registry.root / name for name in registry.names()]


def _key(path: Path | None, variable: str) -> str:
    from sapwood.serving.settings import read_key

    return os.environ.get(variable, "") if path is None else read_key(path)


def _serve(plan: Plan, listening: socket.socket, *, as_json: bool, quiet: bool = False) -> int:
    """Load and serve in this process; return the exit code."""
    from sapwood.launch import choose_runtime, raise_malloc_thresholds
    from sapwood.pool.pool import open_pool
    from sapwood.serving.app import make_app
    from sapwood.serving.desk import Desk
    from sapwood.serving.registry import Registry
    from sapwood.serving.running import serve

    raise_malloc_thresholds()
    registry = Registry(plan.registry) if plan.registry else None
    runtime = choose_runtime(plan.device, plan.dtype)
    if not (quiet or multiprocessing.parent_process()):  # else it was told for all of them
        _say_begin(plan, listening)
    engine = open_pool(plan.base, {}, runtime=runtime, **plan.room)
    try:
        desk = Desk(engine, plan.settings, registry)
        for name, folder in plan.folders.items():
            desk.open(name, folder)
        _open_registry(desk, registry)
        app = _with_page(make_app(desk), plan, engine)
    except BaseException:
        engine.stop(0)
        raise

    def ready() -> None:
        if not quiet:
            _say_ready(desk, listening, runtime.describe(), as_json)

    return serve(desk, app, listening, ready)


def _with_page(api: Any, plan: Plan, engine: Any) -> Any:
    """Return the API, with the page beside it where one is wanted."""
    if plan.studio is None:
        return api
    from sapwood.studio.app import Beside, studio_app
    from sapwood.studio.guarding import Door
    from sapwood.studio.room import lent

    door = Door(key=plan.settings.key)
    page = studio_app(plan.studio, door=door, opener=lent(engine), owns=False)
    return Beside(page, lambda scope: api)


def _open_registry(desk: Desk, registry: Registry | None) -> None:
    """Serve what a registry holds; what is refused is told, and the rest is served."""
    for name, inside in (registry.to_serve() if registry else {}).items():
        assert registry is not None
        try:
            desk.open(name, registry.folder(inside))
        except SapwoodError as error:
            _talk(f"not served: {name}\n{error}")


def _talk(line: str) -> None:
    """Tell something on stderr; where that has no room, it is lost rather than in the way."""
    with suppress(OSError):
        click.echo(line, err=True)


def _say_begin(plan: Plan, listening: socket.socket, workers: int = 1) -> None:
    """Tell what takes its time: those that write answer as they did when they were saved."""
    from sapwood.serving.running import address_of

    who = f"{workers} processes load" if workers > 1 else "Loading"
    tried = "; what was recorded of its adaptations is asked again" if plan.folders else ""
    _talk(f"{who} {plan.base} for {address_of(listening)}{tried} ...")


def _say_ready(desk: Any, listening: socket.socket, where: str, as_json: bool) -> None:
    """Tell the address, the models, and a line that asks one of them."""
    from sapwood.serving.running import address_of

    address, models = address_of(listening), desk.engine.models()
    asked = curl(address, models[-1], locked=bool(desk.settings.key))
    if as_json:
        click.echo(json.dumps({"url": address, "models": [m.name for m in models], "curl": asked}))
        return
    others = [f"{m.name} ({m.task or 'a method'})" for m in models[1:13]]
    more = len(models) - 13
    shown = ", ".join([*others, *([f"and {more} more"] if more > 0 else [])])
    _talk(f"{models[0].name} on {where}" + (f", with {shown}" if shown else ""))
    _talk(f"{address} answers. Ctrl-C ends it. Ask it:")
    click.echo(asked)


def curl(address: str, model: Any, *, locked: bool) -> str:
    """Return a command that asks a model what it is for."""
    route, body = _question(model, _example(model.task))
    key = f' -H "Authorization: Bearer ${KEY}"' if locked else ""
    said = json.dumps({"model": model.name, **body}, ensure_ascii=False)
    return f"curl {address}{route}{key} -H 'Content-Type: application/json' -d {shlex.quote(said)}"


def _example(task: str) -> str:
    """Return a text that a task says something about; of a pair, its parts have their marks."""
    from sapwood.tasks.bio import HEAD, TAIL

    chinese = locale_language() == "zh"
    if task == "pairs":
        person, place = ("李白", "长安") if chinese else ("Ada Lovelace", "London")
        between, end = ("住在", "。") if chinese else (" lived in ", ".")
        return f"{HEAD[0]}{person}{HEAD[1]}{between}{TAIL[0]}{place}{TAIL[1]}{end}"
    if task == "events":
        return (
            "公司周一宣布裁员500人。" if chinese else "Hackers stole the data of a bank on Monday."
        )
    if task in ("entities", "relations"):
        return (
            "李白在长安遇见了杜甫。" if chinese else "Ada Lovelace met Charles Dickens in London."
        )
    return "这部电影很好看。" if chinese else "a lovely film with a great cast"


def _question(model: Any, text: str) -> tuple[str, dict[str, Any]]:
    from sapwood.tasks.structured import task_named

    if model.labels:
        return "/v1/classify", {"input": text}
    if model.task and task_named(model.task).family != "generation":
        return "/v1/extract", {"input": text}
    if not model.writes:
        return "/v1/embeddings", {"input": text}
    if model.task in ("story", "poetry"):
        return "/v1/completions", {"prompt": text, "max_tokens": 64}
    turns = [{"role": "user", "content": text}]
    return "/v1/chat/completions", {"messages": turns, "max_tokens": 64}
