"""A lab's server as seen from a notebook: one connection, opened when needed, shared by all models.

Opening, sharing and replacing the connection is all this does; what goes over it is the business
of `remote.py` (runs) and of `models/lab.py` (which models there are). It holds no weights.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from nnsight_lab.contract import ModelCard
from nnsight_lab.errors import AuthFailed, ProtocolError, ServerUnreachable
from nnsight_lab.executors.remote_link import Link
from nnsight_lab.ir import ModuleSource
from nnsight_lab.settings import Settings
from nnsight_lab.wire import ModelSummary
from nnsight_lab.wire.events import AskFailed, CardArrived, ModelsListed, SourceArrived

__all__ = ["LabClient"]

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_ANSWER_S = 120.0


class LabClient:
    """The connection to one server. May be used from several threads."""

    def __init__(self, url: str, token: str | None, settings: Settings | None = None) -> None:
        self.url = url
        self._socket_url = _socket_url(url)
        self._token = _checked(token)
        self._settings = settings or Settings()
        self._lock = threading.Lock()
        self._link: Link | None = None

    def __repr__(self) -> str:
        return f"LabClient({self.url!r})"

    def link(self) -> Link:
        """The open connection; opens one when there is none, or the last was lost."""
        with self._lock:
            link = self._link
            if link is None or link.lost is not None or link.pid != os.getpid():
                link = Link(self.url, self._socket_url, self._token, self._settings)
                # The receiving thread keeps the link alive; the client must be able to go.
                weakref.finalize(self, link.close).atexit = False
                self._link = link
            return link

    @property
    def state(self) -> Literal["open", "lost", "closed"]:
        """Whether there is a connection, without opening one; `closed` when nobody asked for it."""
        link = self._link
        if link is None:
            return "closed"
        return "open" if link.lost is None else "lost"

    def models(self) -> tuple[ModelSummary, ...]:
        """What is served now."""
        _, box = self.link().ask(lambda connection: connection.list_models())
        match box.take(_ANSWER_S):
            case ModelsListed(models=models):
                return models
            case AskFailed(error=error):
                raise error
        raise ProtocolError("The server answered an ask with something else.")

    def card(self, model: str) -> ModelCard:
        """The card of one model. Raises `ModelNotFound`."""
        _, box = self.link().ask(lambda connection: connection.get_card(model))
        match box.take(_ANSWER_S):
            case CardArrived(card=card):
                return card
            case AskFailed(error=error):
                raise error
        raise ProtocolError("The server answered an ask with something else.")

    def source(self, model: str, path: str) -> ModuleSource:
        """What the forward of one module of a model calls. Raises what the server refuses with."""
        _, box = self.link().ask(lambda connection: connection.get_source(model, path))
        match box.take(_ANSWER_S):
            case SourceArrived(source=source):
                return source
            case AskFailed(error=error):
                raise error
        raise ProtocolError("The server answered an ask with something else.")

    def close(self) -> None:
        """End the connection. A later call opens another."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()


def _socket_url(url: str) -> str:
    hint = 'Such as nl.connect("http://127.0.0.1:8765").'
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        scheme, host = _SCHEMES.get(parts.scheme), parts.hostname
        _ = parts.port
    except ValueError as exc:
        raise ServerUnreachable(f"{url!r} is not an address.", hint=hint) from exc
    if scheme is None or not host:
        raise ServerUnreachable(f"{url!r} is not an address of a server.", hint=hint)
    if parts.username or parts.password or parts.query:
        raise AuthFailed(
            "A token does not belong in the address, where it would be logged.",
            hint='Pass it apart: nl.connect(url, token="…").',
        )
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + "/ws", "", ""))


def _checked(token: str | None) -> str | None:
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise AuthFailed(
            "The token is empty, or holds characters that no token has.",
            hint="Copy it again from what the server printed.",
        )
    return token
