"""The control messages: one frozen dataclass each, and the union of what each side may say.

    client → server    Hello  ListModels  GetCard  GetSource  Submit  Cancel
    server → client    Welcome  Models  Card  Source  Error  Missing
                       Accepted  Queued  Started  Saved  Token  Failed  Done

Plain data only: how they are written is in `codec.py`, when they may be said in
`connection.py`, and the bytes that follow `Submit`, `Missing`, `Card` and `Saved` in `frames.py`.
`job` and `ask` are numbers the client chooses, rising from 1. `seq` counts a job's events from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, TypeAlias

from nnsight_lab.contract import TokenRows
from nnsight_lab.ir import ModuleSource
from nnsight_lab.ir.literals import DTYPE_SIZES, Arg

__all__ = [
    "PROTOCOL",
    "Accepted",
    "BlobHead",
    "Cancel",
    "Card",
    "ClientMessage",
    "Done",
    "Error",
    "Failed",
    "GetCard",
    "GetSource",
    "Hello",
    "ListModels",
    "Message",
    "Missing",
    "ModelSummary",
    "Models",
    "Queued",
    "Saved",
    "ServerMessage",
    "Source",
    "Started",
    "Submit",
    "TensorHead",
    "Token",
    "Welcome",
]

PROTOCOL = 3
"""The version of the protocol this package speaks. 1 sent every constant with every graph; 2 did
not say which engine runs a job."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A served model in one line: enough to choose by, without its tree.

    certificate: how far it was compared with Hugging Face, in words; empty where it is that itself.
    state: `ready`, `loading`, `restarting` or `failed`; a newer server may have others. Of one that
        still loads only the name is known. It is left out on the wire where a model is ready, as by
        servers that know no states.
    running, waiting: how many runs of it there are now, of all clients; None where the server does
        not say, and left out on the wire.

    On the wire there may be more than this: a reader leaves out what it does not know.
    """

    name: str
    architecture: str
    dtype: str
    engine: str
    device: str
    layers: int
    parameters: int
    certificate: str = ""
    state: str = "ready"
    running: int | None = None
    waiting: int | None = None


@dataclass(frozen=True, slots=True)
class TensorHead:
    """A tensor that follows in binary frames: its stream number, dtype name and shape."""

    stream: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BlobHead:
    """A constant that a graph only names: the digest, and the tensor it is the digest of."""

    digest: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of its elements."""
        return prod(self.shape) * DTYPE_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a client. versions: package versions by name, for the log."""

    kind: ClassVar[str] = "hello"
    protocol: int
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ListModels:
    """Which models are served now?"""

    kind: ClassVar[str] = "list_models"
    ask: int


@dataclass(frozen=True, slots=True)
class GetCard:
    """Send the card of one model."""

    kind: ClassVar[str] = "get_card"
    ask: int
    model: str


@dataclass(frozen=True, slots=True)
class GetSource:
    """Say what the forward of one module of a model calls."""

    kind: ClassVar[str] = "get_source"
    ask: int
    model: str
    path: str


@dataclass(frozen=True, slots=True)
class Submit:
    """Run a graph, whose `graph_bytes` bytes follow.

    parts: what its traces are given, one after another: token ids, and how to go on from them.
        There is one, unless it is a session.
    blobs: the constants the graph only names; the server asks for those it has not (`Missing`).
    key: chosen once by the client, the same when it submits again after a lost connection.
    """

    kind: ClassVar[str] = "submit"
    job: int
    model: str
    graph_bytes: int
    parts: tuple[TokenRows, ...]
    key: str
    blobs: tuple[BlobHead, ...] = ()


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a job, queued or running. Its last event tells how it ended."""

    kind: ClassVar[str] = "cancel"
    job: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to `Hello`. graph_bytes: the largest graph this server takes.

    blob_bytes: the most that the constants one graph only names may have together.
    """

    kind: ClassVar[str] = "welcome"
    protocol: int
    versions: Mapping[str, str]
    models: tuple[ModelSummary, ...]
    graph_bytes: int
    blob_bytes: int


@dataclass(frozen=True, slots=True)
class Models:
    """The answer to `ListModels`."""

    kind: ClassVar[str] = "models"
    ask: int
    models: tuple[ModelSummary, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """The answer to `GetCard`: a card of `size` bytes of JSON follows (`trees.py`)."""

    kind: ClassVar[str] = "card"
    ask: int
    size: int


@dataclass(frozen=True, slots=True)
class Missing:
    """Send these constants of a job; each follows under its place in the job's `blobs`."""

    kind: ClassVar[str] = "missing"
    job: int
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The answer to `GetSource`."""

    kind: ClassVar[str] = "source"
    ask: int
    source: ModuleSource


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job passed every check. engine, why: as in `contract.Accepted`."""

    kind: ClassVar[str] = "accepted"
    job: int
    seq: int
    engine: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits behind `place` others."""

    kind: ClassVar[str] = "queued"
    job: int
    seq: int
    place: int


@dataclass(frozen=True, slots=True)
class Started:
    """The job runs."""

    kind: ClassVar[str] = "started"
    job: int
    seq: int


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved value: its structure, in which `%i` stands for the i-th of `tensors`.

    The elements of each tensor follow in binary frames under its stream number.
    """

    kind: ClassVar[str] = "saved"
    job: int
    seq: int
    name: str
    structure: Arg
    tensors: tuple[TensorHead, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """The ids that were sampled after forward pass `step`, one a row."""

    kind: ClassVar[str] = "token"
    job: int
    seq: int
    step: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended with an error. error: as `LabError.to_plain` writes it."""

    kind: ClassVar[str] = "failed"
    job: int
    seq: int
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """The job ended well. seconds: time by stage. steps, ended: as in `contract.Done`."""

    kind: ClassVar[str] = "done"
    job: int
    seq: int
    seconds: Mapping[str, float]
    sent_bytes: int
    steps: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Error:
    """An ask that cannot be answered or, when `ask` is None, a message that cannot be read."""

    kind: ClassVar[str] = "error"
    ask: int | None
    error: Mapping[str, Any]


ClientMessage: TypeAlias = Hello | ListModels | GetCard | GetSource | Submit | Cancel
ServerMessage: TypeAlias = (
    Welcome
    | Models
    | Card
    | Source
    | Missing
    | Accepted
    | Queued
    | Started
    | Saved
    | Token
    | Failed
    | Done
    | Error
)
Message: TypeAlias = ClientMessage | ServerMessage
