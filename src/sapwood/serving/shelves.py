"""`/v1/models`, and `/admin/...`, which changes what they are."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from sapwood.errors import ConfigError
from sapwood.pool.wish import About
from sapwood.registry import did_you_mean
from sapwood.serving.aliasing import point, roll_back
from sapwood.serving.asked import Alias, Load, RollBack, Unload
from sapwood.serving.desk import Desk
from sapwood.serving.refusals import documented
from sapwood.serving.visits import visit_of

_ERRORS = documented(400, 401, 403, 404, 500, 503)
_ADMIN_ERRORS = documented(400, 401, 403, 404, 408, 409, 413, 415, 500, 503, 507)


def routes(desk: Desk) -> APIRouter:
    """Return the routes over a desk."""
    router = APIRouter(tags=["models"], responses=dict(_ERRORS))

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List what is served: the base, its adaptations, then other names for them."""
        await desk.catch_up()
        return {"object": "list", "data": listed(desk)}

    @router.get("/v1/models/{model:path}")
    async def model(model: str, request: Request) -> dict[str, Any]:
        """Say what one model is."""
        visit_of(request.scope).model = model
        await desk.catch_up()
        found = {str(entry["id"]): entry for entry in listed(desk)}
        if model not in found:
            raise ConfigError(
                "E-CONFIG-280",
                f"No model '{model[:80]}' is served here.{did_you_mean(model[:80], found)}",
                fix="list them: GET /v1/models",
            )
        return found[model]

    return router


def admin_routes(desk: Desk) -> APIRouter:
    """Return the routes that need the admin key."""
    router = APIRouter(prefix="/admin", tags=["admin"], responses=dict(_ADMIN_ERRORS))

    @router.post("/load")
    async def load(body: Load) -> dict[str, Any]:
        """Serve an adaptation of the registry, or its content as it is now."""
        return entry(await desk.change(desk.load, body.name, body.folder or body.name))

    @router.post("/unload")
    async def unload(body: Unload) -> dict[str, Any]:
        """Serve an adaptation no longer; requests that run end as they are."""
        await desk.change(desk.unload, body.name)
        return {"name": body.name, "served": False}

    @router.post("/alias")
    async def alias(body: Alias) -> dict[str, Any]:
        """Let a name mean a served model from the next request on, or no longer anything."""
        await desk.change(point, desk, body.alias, body.target)
        return {"alias": body.alias, "target": body.target}

    @router.post("/rollback")
    async def rollback(body: RollBack) -> dict[str, Any]:
        """Let a name mean what it meant before."""
        return {"alias": body.alias, "target": await desk.change(roll_back, desk, body.alias)}

    return router


def listed(desk: Desk) -> list[dict[str, Any]]:
    """Return what is served, as the API lists models."""
    served = {about.name: entry(about) for about in desk.engine.models()}
    named = [
        {**served[target], "id": alias, "alias_of": target}
        for alias, target in sorted(desk.aliases().items())
        if target in served
    ]
    return [*served.values(), *named]


def entry(about: About) -> dict[str, Any]:
    """Return one model as the API shows it; what OpenAI's has not comes after what it has."""
    said = asdict(about)
    name, parent = said.pop("name"), said.pop("parent") or None
    created = said.pop("created")
    head = {"id": name, "object": "model", "created": created, "owned_by": "sapwood"}
    return {**head, "parent": parent, "root": parent or name, **said}
