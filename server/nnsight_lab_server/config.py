"""What a server is started with: its models, its token, its limits. Frozen, passed in, no globals.

Tests make a `ServerConfig` with small limits and engines of their own; `serve.py` makes the one
of the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from nnsight_lab import ir
from nnsight_lab.wire import WireLimits
from nnsight_lab_server.auth import TokenAuth
from nnsight_lab_server.engines.base import Engine

__all__ = ["ServedModel", "ServerConfig", "ServerLimits"]

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much one server will do for its clients.

    graph: how large a graph may be; checked while it is read.
    prompt_tokens, prompts, batch_tokens: of one job, all traces of a session together; the last
        counts padding and new tokens.
    new_tokens: how far one job may go on from its prompts.
    saved_bytes: what one job may send back. working_bytes: all its values together.
    queued: jobs that may wait for one model.
    backlog_bytes: unsent results of one client after which its next job waits.
    stall_s: how long a client may read nothing before its connection ends, or send nothing of
        what it announced before those jobs end.
    connections: clients at once.
    blob_bytes: large constants of all clients together; those used longest ago go first.
    run_s: how long one job may run, once it has started.
    """

    wire: WireLimits = field(default_factory=WireLimits)
    graph: ir.Limits = field(default_factory=lambda: ir.Limits(nodes=50_000))
    prompt_tokens: int = 32_768
    prompts: int = 1_024
    batch_tokens: int = 262_144
    new_tokens: int = 4_096
    saved_bytes: int = 512 * _MIB
    working_bytes: int = 16_384 * _MIB
    queued: int = 256
    backlog_bytes: int = 64 * _MIB
    stall_s: float = 60.0
    connections: int = 256
    blob_bytes: int = 8_192 * _MIB
    run_s: float = 3_600.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model to serve: the name clients know it by, and how to load its engine.

    load: called once, on the thread that will run the model. others: engines for what the first
        cannot run, in the order they are asked; the last can do most, and describes the model.
    give_up: called from another thread when the server stops, so that a load ends early.
    """

    name: str
    load: Callable[[], Engine]
    others: tuple[Callable[[], Engine], ...] = ()
    give_up: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything `create_app` needs."""

    models: tuple[ServedModel, ...]
    auth: TokenAuth
    limits: ServerLimits = field(default_factory=ServerLimits)
