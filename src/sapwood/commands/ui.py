"""`sapwood ui`: the job from a file to an adaptation on a page in the browser."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.commands.wording import locale_language
from sapwood.errors import ResourceError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Scope

KEY = "SAPWOOD_KEY"


@click.command(name="ui")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("sapwood-studio"),
    show_default=True,
    help="Folder of the projects.  [made if it is not there]",
)
@click.option("--host", default="127.0.0.1", show_default=True,
              help=f"Address to listen on; another one needs a key in {KEY}.")  # fmt: skip
@click.option("--port", type=click.IntRange(min=0, max=65_535), default=8321, show_default=True,
              help="0 for any that is free.")  # fmt: skip
@click.option(
    "--lang",
    type=click.Choice(["en", "zh"]),
    help="Language where a browser names none.  [default: the locale's]",
)
@click.option("--open", "opened", is_flag=True, help="Open the page in the browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the address as a JSON object.")
def command(
    folder: Path, *, host: str, port: int, lang: str | None, opened: bool, as_json: bool
) -> None:
    """Serve the studio: bring a file, measure, adapt, see, try and ship on one page.

    Everything is kept in --folder, so the page and this command may be closed and opened again.
    With a key in SAPWOOD_KEY the page asks for it. Adaptations that are opened under Ship answer
    at /v1 of the same address.
    """
    try:
        import uvicorn

        import sapwood.studio.app as studio
        from sapwood.studio.guarding import Door
    except ImportError as error:
        raise ResourceError(
            "E-RESOURCE-025", f"The page needs a package that is not here: {error.name}.",
            fix="pip install 'sapwood[serve]'",
        ) from None  # fmt: skip
    from sapwood.serving.running import address_of, listen
    from sapwood.serving.settings import Settings

    settings = Settings(host=host, port=port, key=os.environ.get(KEY, ""))
    usual = lang or locale_language() or "en"
    try:
        app = studio.studio_app(folder, door=Door(key=settings.key), lang=usual)
    except ResourceError as error:
        fix = "free some space, or choose another --folder"
        raise ResourceError(error.code, error.what, fix=fix) from None
    both = studio.Beside(app, _Api(app.state.studio.room, settings))
    listening = listen(settings)
    address = address_of(listening) + "/"
    click.echo(json.dumps({"url": address, "folder": str(folder)}) if as_json else address)
    click.echo(f"Projects are in {folder}. Ctrl-C ends the page; runs go on.", err=True)
    if opened:
        import webbrowser

        webbrowser.open(address)
    config = uvicorn.Config(both, log_level="warning", access_log=False, server_header=False,
                            timeout_graceful_shutdown=2)  # fmt: skip
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


class _Api:
    """The API over whichever engine is open; made anew where another one is."""

    def __init__(self, room: Any, settings: Any) -> None:
        self._room, self._settings = room, settings
        self._made: dict[int, tuple[Any, ASGIApp]] = {}

    def __call__(self, scope: Scope) -> ASGIApp | None:
        """Return the application that answers a request, None where nothing is open."""
        from sapwood.serving.app import make_app
        from sapwood.serving.desk import Desk

        engines = self._room.engines()
        if not engines:
            return None
        engine = engines[-1]
        if self._made.get(id(engine), (None, None))[0] is not engine:
            self._made = {id(engine): (engine, make_app(Desk(engine, self._settings)))}
        return self._made[id(engine)][1]
