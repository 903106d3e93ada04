"""What a connection makes of received bytes: events, for whoever holds the socket to act on.

    a client gets    Welcomed  ModelsListed  CardArrived  SourceArrived  AskFailed  BlobsAsked
                     JobTold  Complaint
    a server gets    Greeted  ModelsAsked  CardAsked  SourceAsked  BlobsMissing  JobSubmitted
                     CancelAsked  Mistake

`JobTold` wraps the events of `contract.py`, with a saved value as `wire.values.Value`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from nnsight_lab.contract import ModelCard, RunEvent, TokenRows
from nnsight_lab.errors import LabError
from nnsight_lab.ir import ModuleSource, TensorData
from nnsight_lab.wire.messages import ModelSummary

__all__ = [
    "AskFailed",
    "BlobsAsked",
    "BlobsMissing",
    "CancelAsked",
    "CardArrived",
    "CardAsked",
    "ClientEvent",
    "Complaint",
    "Greeted",
    "JobSubmitted",
    "JobTold",
    "Mistake",
    "ModelsAsked",
    "ModelsListed",
    "ServerEvent",
    "SourceArrived",
    "SourceAsked",
    "Welcomed",
]


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The server speaks our protocol; jobs may be submitted now."""

    versions: Mapping[str, str]
    models: tuple[ModelSummary, ...]


@dataclass(frozen=True, slots=True)
class ModelsListed:
    """The answer to an ask for the models."""

    ask: int
    models: tuple[ModelSummary, ...]


@dataclass(frozen=True, slots=True)
class CardArrived:
    """The answer to an ask for a card."""

    ask: int
    card: ModelCard


@dataclass(frozen=True, slots=True)
class SourceArrived:
    """The answer to an ask for the source of a module."""

    ask: int
    source: ModuleSource


@dataclass(frozen=True, slots=True)
class AskFailed:
    """An ask was answered with an error."""

    ask: int
    error: LabError


@dataclass(frozen=True, slots=True)
class BlobsAsked:
    """The server lacks constants of a job; send what `ClientConnection.next_blob_frame` gives."""

    job: int


@dataclass(frozen=True, slots=True)
class JobTold:
    """Something happened to a job. seq: its place among the job's events."""

    job: int
    seq: int
    event: RunEvent


@dataclass(frozen=True, slots=True)
class Complaint:
    """The server could not read something of ours."""

    error: LabError


ClientEvent: TypeAlias = (
    Welcomed
    | ModelsListed
    | CardArrived
    | SourceArrived
    | AskFailed
    | BlobsAsked
    | JobTold
    | Complaint
)


@dataclass(frozen=True, slots=True)
class Greeted:
    """A client says hello; answer with `ServerConnection.welcome`."""

    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelsAsked:
    """Answer with `ServerConnection.models`."""

    ask: int


@dataclass(frozen=True, slots=True)
class CardAsked:
    """Answer with `ServerConnection.card`, or with `refuse`."""

    ask: int
    model: str


@dataclass(frozen=True, slots=True)
class BlobsMissing:
    """A job names constants that are not here; answer with `ServerConnection.ask_for`."""

    job: int
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceAsked:
    """Answer with `ServerConnection.source`, or with `refuse`."""

    ask: int
    model: str
    path: str


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """A job arrived whole. graph: bytes that nobody has looked at yet.

    blobs: the constants it said the graph names, by digest.
    """

    job: int
    model: str
    graph: bytes
    parts: tuple[TokenRows, ...]
    key: str
    blobs: Mapping[str, TensorData] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Stop a job that has not ended yet."""

    job: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """The client broke a rule; answer with `ServerConnection.answer`.

    job: the job it concerns, if it can be told. fatal: close the connection after answering.
    """

    error: LabError
    job: int | None = None
    fatal: bool = False


ServerEvent: TypeAlias = (
    Greeted
    | ModelsAsked
    | CardAsked
    | SourceAsked
    | BlobsMissing
    | JobSubmitted
    | CancelAsked
    | Mistake
)
