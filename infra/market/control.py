"""The tester's side door under ``/_market``: never logged, never counted, not part of the vendor's API."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.market.faults import Rule
from infra.market.scripts import Script

if TYPE_CHECKING:
    from infra.market.app import App


def control(app: App) -> Starlette:
    """The routes ``health``, ``calls``, ``faults``, ``script`` and ``clock``."""

    async def health(request: Request) -> Response:
        now = app.market.clock.now().isoformat()
        body = {"ready": True, "source": app.market.source.name, "now": now, "calls": len(app.log)}
        return _json(body | {"config": app.config.summary()})

    async def calls(request: Request) -> Response:
        if request.method == "DELETE":
            app.log.clear()
            return _json({"cleared": True})
        try:
            since = float(request.query_params.get("since", "0"))
        except ValueError:
            return _json({"error": "since must be epoch seconds, such as 1767225600.5"}, 400)
        return _json(app.log.since(since))

    async def faults(request: Request) -> Response:
        if request.method == "DELETE":
            app.faults.clear()
        elif request.method == "POST":
            try:
                given = msgspec.json.decode(await request.body(), type=Rule | list[Rule])
                for rule in given if isinstance(given, list) else [given]:
                    app.faults.add(rule)
            except (msgspec.DecodeError, ValueError) as error:
                return _json({"error": f"not a fault: {error}"}, 400)
        return _json(app.faults.listed())

    async def script(request: Request) -> Response:
        try:
            given = msgspec.json.decode(await request.body(), type=Script | list[Script])
            for one in (scripts := given if isinstance(given, list) else [given]):
                one.carry_out(app.market.source)
        except (msgspec.DecodeError, ValueError) as error:
            return _json({"error": f"not a script: {error}"}, 400)
        return _json(scripts)

    async def clock(request: Request) -> Response:
        try:
            given = msgspec.json.decode(await request.body(), type=dict[str, str | None])["now"]
            now = None if given is None else datetime.fromisoformat(given)
            if now is not None and now.tzinfo is None:
                raise ValueError("it has no offset from UTC")
        except (msgspec.DecodeError, KeyError, ValueError) as error:
            return _json({"error": f'give {{"now": an ISO 8601 instant with its offset, or null}}: {error}'}, 400)
        app.market.set_now(now)
        return _json({"now": app.market.clock.now().isoformat()})

    return Starlette(
        routes=[
            Route("/_market/health", health),
            Route("/_market/calls", calls, methods=["GET", "DELETE"]),
            Route("/_market/faults", faults, methods=["GET", "POST", "DELETE"]),
            Route("/_market/script", script, methods=["POST"]),
            Route("/_market/clock", clock, methods=["PUT"]),
        ]
    )


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
