"""Past one machine: the same application in one process of a Ray cluster, over copies of the base.

Where RAY_ADDRESS names a cluster ("auto": the one of this machine), it is used; else one is started
here. Ray's own settings hold in both cases.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sapwood.errors import ConfigError, ResourceError, SapwoodError
from sapwood.serving.app import make_app
from sapwood.serving.cluster import ClusterEngine
from sapwood.serving.desk import Desk
from sapwood.serving.registry import Registry
from sapwood.serving.replicas import Refusal, Replica
from sapwood.serving.running import address_of, listen
from sapwood.serving.settings import Settings
from sapwood.serving.vetting import vet

APPLICATION, COPIES, FRONT = "sapwood", "Replica", "Front"
_FRONT_REQUESTS = 4096  # at once; the copies say that they are busy long before
_MARGIN = 16  # requests of a copy beyond those it lets wait, so that it is the copy that refuses
_ENDING = 15.0  # seconds beyond the drain in which the front has to answer
_START = 60.0  # seconds that copies may come after the first
_LOOK = 0.2  # seconds between looks at the signals
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


class Plan(Protocol):
    """What is served and how; folders lie where every machine of the cluster finds them."""

    @property
    def base(self) -> str:
        """Name or folder."""
        ...

    @property
    def folders(self) -> Mapping[str, Path]:
        """Adaptations by name."""
        ...

    @property
    def settings(self) -> Settings:
        """Address, keys and limits."""
        ...

    @property
    def registry(self) -> Path | None:
        """Folder of adaptations that may be loaded while it runs."""
        ...

    @property
    def device(self) -> str:
        """As `choose_runtime` takes it."""
        ...

    @property
    def dtype(self) -> str:
        """As `choose_runtime` takes it."""
        ...

    @property
    def room(self) -> Mapping[str, Any]:
        """Settings of `open_pool` for each copy: slots, resident, queue, tokens."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Shelf:
    """What the front serves, with absolute paths; it is sent to the cluster, its keys included."""

    folders: Mapping[str, Path]
    registry: Path | None
    settings: Settings
    copies: int


class Front:
    """The process that answers HTTP, as whoever started it talks to it; `app` is Ray's."""

    app: Any

    def __init__(self, copies: Any) -> None:
        del copies  # named so that Ray starts them, too; the application asks for them by name

    async def served(self) -> tuple[list[str], dict[str, Refusal]]:
        """Return the names of the models, and why others are not served: "" is the base."""
        desk, refused = self.app.state.desk, self.app.state.refused
        return [about.name for about in desk.engine.models()] if desk else [], refused

    async def drain(self, seconds: float) -> int:
        """Take no more requests and wait for those that run; return how many were cancelled."""
        desk = self.app.state.desk
        desk.draining.set()
        cancelled = int(await asyncio.to_thread(desk.engine.stop, seconds))
        desk.journal.write("end", cancelled=cancelled, died=False)
        return cancelled


def serve_on_ray(
    plan: Plan, *, replicas: int, ready: Callable[[str, list[str]], None] | None = None
) -> None:
    """Serve until a signal, with `replicas` copies of the base, then end what was started.

    `ready` is called with the address and the models' names once they answer; without one the
    address is printed. Raises ResourceError E-RESOURCE-025 without Ray, ConfigError E-CONFIG-308
    for an address that is taken, and what refuses a base or an adaptation.
    """
    ray, serve = _ray()
    with listen(plan.settings) as free:
        address, port = address_of(free), free.getsockname()[1]
    for folder in plan.folders.values():
        vet(folder)
    data = sys.stdout
    with redirect_stdout(sys.stderr), ExitStack() as begun:  # Ray's own messages are talk
        _join(ray)
        begun.callback(ray.shutdown)
        _check_unused(serve)
        begun.callback(serve.shutdown)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        http = {"host": plan.settings.host, "port": port}
        serve.start("HeadOnly", http_options=http, logging_config=_QUIET)
        front = serve.run(_application(ray, serve, plan, replicas), name=APPLICATION)
        models, refused = front.served.remote().result()
        _tell_refused(plan, refused)
        with _signals() as asked:
            with redirect_stdout(data):
                (ready or _say_ready)(address, models)
            while not asked:
                time.sleep(_LOOK)
            _drain(front, plan.settings.drain, asked)


def _ray() -> tuple[Any, Any]:
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise ResourceError(
            "E-RESOURCE-025",
            f"Serving on a cluster needs a package that is not here: {error.name}.",
            fix="pip install 'sapwood[ray]'",
        ) from None
    return ray, serve


def _join(ray: Any) -> None:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    given = os.environ.get("RAY_ADDRESS", "")
    try:
        ray.init(given or "local", include_dashboard=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            "E-RESOURCE-071",
            f"The Ray cluster '{given or 'of this machine'}' does not answer: {error}",
            fix="name one in RAY_ADDRESS, or unset it to start one here",
        ) from None


def _check_unused(serve: Any) -> None:
    """Raise ConfigError (E-CONFIG-308) where requests would come in at an address of others."""
    if serve.status().proxies:
        raise ConfigError(
            "E-CONFIG-308",
            "This cluster runs Ray Serve already, at an address that was given to it before.",
            fix="end it with `serve shutdown`, or use another cluster",
        )


def _application(ray: Any, serve: Any, plan: Plan, replicas: int) -> Any:
    """Return the application: the front over copies of the base, which get a CPU or GPU each."""
    room = plan.room
    wanted = plan.device.startswith("cuda") or (
        plan.device == "auto" and ray.cluster_resources().get("GPU", 0) >= replicas
    )
    device = "cuda" if plan.device.startswith("cuda") else plan.device  # each sees its own only
    copies = serve.deployment(Replica).options(
        name=COPIES,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": int(wanted)},
        max_ongoing_requests=room["slots"] + room["queue"] + _MARGIN,
        max_queued_requests=room["queue"],
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=_QUIET,
    )
    shelf = _Shelf(
        folders={name: folder.resolve() for name, folder in plan.folders.items()},
        registry=plan.registry.resolve() if plan.registry else None,
        settings=plan.settings,
        copies=replicas,
    )
    front = serve.deployment(serve.ingress(_opener(shelf))(Front)).options(
        name=FRONT,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_FRONT_REQUESTS,
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=_QUIET,
    )
    return front.bind(copies.bind(_absolute(plan.base), device, plan.dtype, dict(room)))


def _absolute(base: str) -> str:
    from sapwood.models.store import BASES

    path = Path(base).expanduser()
    return str(path.resolve()) if base not in BASES and path.exists() else base


def _opener(shelf: _Shelf) -> Callable[[], Any]:
    """Return what makes the application in the front's process."""

    def build() -> Any:
        return _opened(shelf)

    return build


def _opened(shelf: _Shelf) -> Any:
    """Return the application over the copies, each adaptation opened by one of them."""
    from fastapi import FastAPI
    from ray import serve

    def running() -> int:
        copies = serve.status().applications[APPLICATION].deployments[COPIES]
        return int(copies.replica_states.get("RUNNING", 0))

    registry = Registry(shelf.registry) if shelf.registry else None
    try:
        engine = ClusterEngine(serve.get_deployment_handle(COPIES, app_name=APPLICATION), running)
    except SapwoodError as error:
        shut = FastAPI(openapi_url=None)
        shut.state.desk, shut.state.refused = None, {"": Refusal.of(error)}
        return shut
    until = time.monotonic() + _START
    while running() < shelf.copies and time.monotonic() < until:
        time.sleep(_LOOK)  # or the first of them would get all the adaptations
    desk = Desk(engine, shelf.settings, registry)
    desk.meters.registry.register(engine.asked)
    app = make_app(desk)
    app.state.desk, app.state.refused = desk, dict(_open_all(desk, shelf.folders))
    return app


def _open_all(desk: Desk, folders: Mapping[str, Path]) -> Iterator[tuple[str, Refusal]]:
    """Open folders and what a registry holds; yield what is refused."""
    registry = desk.registry
    listed = [(name, partial(Path, folder)) for name, folder in folders.items()]
    if registry is not None:
        listed += [(name, partial(registry.folder, at)) for name, at in registry.to_serve().items()]
    for name, folder in listed:
        try:
            desk.open(name, folder())
        except SapwoodError as error:
            desk.journal.write("not_served", model=name, code=error.code)
            yield name, Refusal.of(error)


def _tell_refused(plan: Plan, refused: Mapping[str, Refusal]) -> None:
    """Raise what refuses the base or an adaptation that was named; tell the others'."""
    for name, refusal in refused.items():
        if not name or name in plan.folders:
            raise refusal.error()
        print(f"not served: {name}\n{refusal.error()}", file=sys.stderr)


def _say_ready(address: str, models: list[str]) -> None:
    print(f"{', '.join(models)}: on Ray. Ctrl-C ends it.", file=sys.stderr)
    print(address, flush=True)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yield the list of SIGTERMs and SIGINTs so far, instead of what they usually do."""
    asked: list[int] = []
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(kind, lambda number, _: asked.append(number)) for kind in kinds]
    try:
        yield asked
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _drain(front: Any, seconds: float, asked: Sequence[int]) -> None:
    """Let running requests end; a second signal waits no longer."""
    ending = front.drain.remote(seconds)
    until = time.monotonic() + seconds + _ENDING
    while len(asked) < 2 and time.monotonic() < until:
        try:
            ending.result(timeout_s=_LOOK)
        except TimeoutError:
            continue
        except Exception:  # it is ended from elsewhere, too
            return
        return
