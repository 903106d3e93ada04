"""Start a server: choose engines, bind the port, run uvicorn, say what to paste into a notebook.

Safe by default: loopback only, always a token. What it has to say goes to `announce`; printing is
the command line's business (`nnsight_lab.cli`).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from nnsight_lab.errors import LabError, NotSupported, ServerError
from nnsight_lab.settings import Settings
from nnsight_lab.wire import WireLimits
from nnsight_lab_server.app import create_app
from nnsight_lab_server.auth import TokenAuth, new_token
from nnsight_lab_server.catalogue import Catalogue
from nnsight_lab_server.config import ServedModel, ServerConfig, ServerLimits
from nnsight_lab_server.engines.offered import served_model

__all__ = ["ServeOptions", "bind", "make_server", "serve", "served_models", "server_config"]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line says. models: `SOURCE` or `NAME=SOURCE`. port 0: any free one.

    engine, engine_config: see `engines/offered.py` and `vllm/options.py`.
    """

    models: tuple[str, ...]
    engine: str = "transformers"
    engine_config: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    settings: Settings = field(default_factory=Settings)


def serve(options: ServeOptions, announce: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Raises:
        NotSupported: no such engine, or an open port without a token.
        ServerError: the port is taken.
        LabError: a model could not be loaded.
    """
    token = _token(options)
    config = server_config(options, token, announce)
    listener = bind(options.host, options.port)
    url = _url(options.host, listener)
    announce(f"Loading {', '.join(model.name for model in config.models)} at {url}")
    app = create_app(config)
    server = make_server(app, config.limits)
    catalogue: Catalogue = app.state.catalogue
    watch = _Watch(server, catalogue, lambda: announce(_paste(url, token)))
    threading.Thread(target=watch.run, daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
    if watch.error is not None:
        raise watch.error


class _Watch:
    """Waits until every model is loaded; then says so, or stops the server."""

    def __init__(
        self, server: uvicorn.Server, catalogue: Catalogue, ready: Callable[[], None]
    ) -> None:
        self.error: LabError | None = None
        self._server = server
        self._catalogue = catalogue
        self._ready = ready

    def run(self) -> None:
        for worker in self._catalogue:
            worker.settled.wait()
            if worker.error is not None:
                self.error = worker.error
                self._server.should_exit = True
                return
        self._ready()


def server_config(
    options: ServeOptions, token: str, say: Callable[[str], None] = lambda _: None
) -> ServerConfig:
    """The configuration that options mean. say: is told how far engines are that take long."""
    limits = ServerLimits(wire=WireLimits.from_settings(options.settings))
    return ServerConfig(served_models(options, say), TokenAuth(token), limits)


def served_models(
    options: ServeOptions, say: Callable[[str], None] = lambda _: None
) -> tuple[ServedModel, ...]:
    """The models to serve, each with the name clients will use.

    Raises:
        NotSupported: no such engine, or two models of one name.
    """
    found = dict(_named(model, options.settings) for model in options.models)
    if len(found) != len(options.models) or not found:
        hint = "Give each a name of its own: nnsight-lab serve NAME=MODEL …"
        raise NotSupported("The models to serve need one name each.", hint=hint)
    return tuple(
        served_model(
            name,
            source,
            options.settings,
            engine=options.engine,
            file=options.engine_config,
            say=say,
        )
        for name, source in found.items()
    )


def _named(model: str, settings: Settings) -> tuple[str, str]:
    name, given, source = model.partition("=")
    if given:
        return name, source
    if model in settings.bundled or not Path(model).expanduser().is_dir():
        return model, model
    return Path(model).expanduser().resolve().name, model


def _token(options: ServeOptions) -> str:
    if options.token is None and not _is_loopback(options.host):
        raise NotSupported(
            f"Other machines can reach {options.host}; that needs a token you have chosen.",
            hint="Set NNSIGHT_LAB_TOKEN, or pass --token.",
        )
    if options.token is not None and not options.token.strip():
        raise NotSupported("An empty token keeps nobody out.", hint="Leave --token away.")
    return options.token or new_token()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes any free one.

    Raises:
        ServerError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay (40 ms a message) off only for sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as exc:
        listener.close()
        raise ServerError(
            f"Cannot listen at {host}, port {port}: {exc}.",
            hint="Choose another port with --port, or --port 0 for any free one.",
        ) from exc
    return listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - an address to compare with, not to bind
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _paste(url: str, token: str) -> str:
    return f'lab = nl.connect("{url}", token="{token}")'


def make_server(app: Starlette, limits: ServerLimits) -> uvicorn.Server:
    """Uvicorn, set up for large binary messages and quiet logs."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            ws="websockets-sansio",
            ws_max_size=limits.wire.socket_bytes,
            # Deflate takes twenty times as long as sending activations as they are.
            ws_per_message_deflate=False,
            ws_ping_interval=20.0,
            ws_ping_timeout=60.0,
            # At `debug` the websocket library writes headers, and so the token, to the log.
            log_level="warning",
            access_log=False,
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )
