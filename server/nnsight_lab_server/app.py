"""The ASGI application: four routes, each small. Everything it needs is passed in.

GET /livez     the process answers                     open
GET /readyz    every model can take jobs (or 503)      open
GET /models    what is served                          token
WS  /ws        everything else, by the wire protocol   token
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from nnsight_lab.errors import AuthFailed
from nnsight_lab.wire import BlobStore
from nnsight_lab_server.catalogue import Catalogue
from nnsight_lab_server.config import ServerConfig
from nnsight_lab_server.session import Session

__all__ = ["create_app"]

_TRY_AGAIN_LATER = 1013


def create_app(config: ServerConfig) -> Starlette:
    """The application. Its models load when it starts and are let go when it stops."""
    catalogue = Catalogue(config.models, queued=config.limits.queued)
    routes = _Routes(config, catalogue)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        catalogue.start()
        yield
        await asyncio.to_thread(catalogue.stop)

    app = Starlette(
        routes=[
            Route("/livez", routes.livez),
            Route("/readyz", routes.readyz),
            Route("/models", routes.models),
            WebSocketRoute("/ws", routes.socket),
        ],
        lifespan=lifespan,
    )
    app.state.catalogue = catalogue
    return app


def _stranger() -> JSONResponse:
    error = AuthFailed(
        "The token is missing or wrong.",
        hint="Send the one the server printed: Authorization: Bearer TOKEN.",
    )
    return JSONResponse({"error": error.to_plain()}, 401, {"WWW-Authenticate": "Bearer"})


class _Routes:
    """The endpoints, and the count of open sockets."""

    def __init__(self, config: ServerConfig, catalogue: Catalogue) -> None:
        self._config = config
        self._catalogue = catalogue
        self._sessions = 0
        self._blobs = BlobStore(config.limits.blob_bytes)

    async def livez(self, _: Request) -> JSONResponse:
        return JSONResponse({"alive": True})

    async def readyz(self, _: Request) -> JSONResponse:
        ready = self._catalogue.ready
        body = {"ready": ready, "models": self._catalogue.states()}
        return JSONResponse(body, 200 if ready else 503)

    async def models(self, request: Request) -> JSONResponse:
        if not self._config.auth.allows(request.headers):
            return _stranger()
        return JSONResponse({"models": [asdict(model) for model in self._catalogue.summaries()]})

    async def socket(self, socket: WebSocket) -> None:
        if not self._config.auth.allows(socket.headers):
            await socket.close()  # before `accept`: the handshake is answered with 403
            return
        if self._sessions >= self._config.limits.connections:
            await socket.accept()
            await socket.close(_TRY_AGAIN_LATER)
            return
        self._sessions += 1
        try:
            await Session(socket, self._catalogue, self._config.limits, self._blobs).run()
        finally:
            self._sessions -= 1
