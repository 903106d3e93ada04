"""What every executor promises: a request in, events out. The seam between languages and engines.

An executor may be this process, or a server at the end of a websocket; whoever records a graph
cannot tell. Events are handed to a callback while the model runs, because the forward pass owns
the thread that makes them (docs/adr/0006). Nothing here knows a concrete executor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from nnsight_lab.errors import LabError
from nnsight_lab.ir import Graph, ModuleSource, ModuleTree

__all__ = [
    "MOST_STOP_IDS",
    "Accepted",
    "Capabilities",
    "Done",
    "Emit",
    "Executor",
    "Failed",
    "Generation",
    "Inputs",
    "ModelCard",
    "ModuleInputs",
    "PeekCost",
    "Queued",
    "RunEvent",
    "RunRequest",
    "RunResult",
    "Saved",
    "Several",
    "Sending",
    "Started",
    "Token",
    "TokenRows",
]


MOST_STOP_IDS = 4096
"""So many ids may end a row of a generation."""


@dataclass(frozen=True, slots=True)
class Generation:
    """How prompts are gone on with, one token after another.

    temperature: 0 takes the likeliest token. top_k, top_p: sample among the likeliest only.
    seed: of every row's own random numbers; None draws new ones for each row and run.
    stop_ids: ids that end a row, `MOST_STOP_IDS` at most; None for the model's own, empty for none.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Prompts as token ids, one tuple a prompt; lengths may differ. Padded on the left to run.

    generation: how to go on from them; None for one forward pass.
    """

    rows: tuple[tuple[int, ...], ...]
    generation: Generation | None = None

    @property
    def passes(self) -> int:
        """How many forward passes the run may take: the prompt's, and one for each further token."""
        return self.generation.max_new_tokens if self.generation is not None else 1

    @property
    def batch(self) -> int:
        """How many prompts."""
        return len(self.rows)

    @property
    def pos(self) -> int:
        """The length of the longest prompt."""
        return max(map(len, self.rows), default=0)


@dataclass(frozen=True, slots=True)
class ModuleInputs:
    """The arguments of a wrapped module's forward: tensors and plain values. Local only."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Several:
    """What the traces of a session are given, one after another, in one run."""

    parts: tuple[TokenRows | ModuleInputs, ...]


Inputs: TypeAlias = TokenRows | ModuleInputs | Several


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run: a graph, what the model is given, and an id chosen by the client.

    functions: what the local calls of the graph mean. Never leaves this process.
    """

    id: str
    graph: Graph
    inputs: Inputs
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sending:
    """Large constants of the request travel to the server: so many bytes of so many are sent."""

    sent_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request passed every check.

    engine: what will run it, where a model is served by several. why: why not by the first of them.
    """

    engine: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits; `place` requests are before it."""

    place: int


@dataclass(frozen=True, slots=True)
class Started:
    """The forward pass begins."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved value, as soon as it exists: a tensor, or tuples and dicts of tensors."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Token:
    """A token of each row was sampled after forward pass `step`; ended rows are padded."""

    step: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended with an error. Always the last event."""

    error: LabError


@dataclass(frozen=True, slots=True)
class Done:
    """The run ended well. Always the last event.

    seconds: time by stage (`queued`, `run`, …). sent_bytes: bytes of saved values.
    steps: forward passes that were made. ended: whether every row of a generation ended by itself.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    sent_bytes: int = 0
    steps: int = 1
    ended: bool = False


RunEvent: TypeAlias = Sending | Accepted | Queued | Started | Saved | Token | Failed | Done
Emit: TypeAlias = Callable[[RunEvent], None]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a finished run gave: values by name, what it cost, and the tokens of each step.

    engine, why: as in `Accepted`.
    """

    values: Mapping[str, Any]
    seconds: Mapping[str, float]
    sent_bytes: int = 0
    steps: int = 1
    ended: bool = False
    tokens: tuple[tuple[int, ...], ...] = ()
    engine: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class PeekCost:
    """What Python's looks at values cost while a block was recorded: runs, their time, bytes."""

    count: int = 0
    seconds: float = 0.0
    sent_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.count} peek{'' if self.count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do. Features are words such as `trace`, `apply`, `module-inputs`."""

    engine: str
    device: str
    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A served or loaded model, described: enough to record against it without its weights.

    context: the most positions a prompt may have, 0 when there is no limit.
    vocab: how many token ids there are, 0 when the model takes no tokens.
    tokenizer: the files of a fast tokenizer by name, or empty.
    decode: the sites of a forward pass that adds one position to a cache, where `pos` is the
        length so far; None when the model cannot.
    """

    name: str
    architecture: str
    dtype: str
    tree: ModuleTree
    capabilities: Capabilities
    layers: int = 0
    parameters: int = 0
    context: int = 0
    vocab: int = 0
    tokenizer: Mapping[str, str] = field(default_factory=dict)
    decode: ModuleTree | None = None


@runtime_checkable
class Executor(Protocol):
    """Something that runs graphs on one model."""

    def card(self) -> ModelCard:
        """The model this executor runs."""
        ...

    def tree_for(self, inputs: Inputs) -> ModuleTree:
        """The sites of one forward pass on these inputs."""
        ...

    def source_of(self, path: str, inputs: Inputs) -> ModuleSource:
        """What the forward of one module calls on these inputs."""
        ...

    def run(self, request: RunRequest, emit: Emit) -> None:
        """Run to the end, handing events to `emit`. Ends with `Done` or `Failed`, never raises."""
        ...

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop; it then fails with `Cancelled`."""
        ...
