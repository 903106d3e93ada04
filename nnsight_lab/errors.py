"""The exception tree: what went wrong, where in the user's code, and what to do next.

    LabError
    ├── GraphError                the experiment itself is wrong (found before anything runs)
    │   ├── AddressNotFound       no such module, standard name, or port
    │   ├── ShapeMismatch         an operation cannot take these shapes
    │   ├── OpNotAllowed          the operation is not in the table
    │   ├── WriteTooEarly         a write depends on a value the model makes later
    │   ├── ValueNotKnown         Python needs a number that only the run can give
    │   ├── PeekContradicted      an edit would change a value Python has already seen
    │   ├── NotSaved              a value is used after its block, but was not saved
    │   ├── BadInput              an empty prompt, or inputs of the wrong kind
    │   ├── BadSlider             a slider that is not there, or does not go there
    │   └── BadBytes              bytes that are not a graph
    ├── RunError                  the experiment was sound but its run did not finish
    │   ├── OpFailed              an operation raised while the model ran
    │   ├── NeverReached          the model never got to an address the graph names
    │   ├── Cancelled             the run was cancelled
    │   ├── TimedOut              it took longer than it was given
    │   └── EngineFailed          the engine stopped while running
    ├── ModelNotFound             no model by that name
    ├── NotSupported              this executor or model cannot do that; another can
    ├── NotTrusted            a file holds code, and nobody said that it may run
    ├── LimitExceeded             a graph, message or result over the limit
    ├── MagicUsage                the `%%trace` or `%nnl` line cannot be read
    └── ServerError               between the notebook and the lab's server
        ├── ServerUnreachable     nothing answers at that address
        ├── AuthFailed            the token is missing or wrong
        ├── ConnectionLost        the connection ended while a run was under way
        └── ProtocolError         the other side broke the protocol

Every error has a stable `code` (its page is `docs/errors/<code>.md`), a message, the source
line it belongs to when there is one, and a `hint` that says the next step. Errors cross the
wire as plain data (`to_plain`, `from_plain`). This module imports nothing of ours.
"""

from __future__ import annotations

import linecache
from dataclasses import dataclass
from typing import Any, ClassVar, Self

__all__ = [
    "AddressNotFound",
    "AuthFailed",
    "BadBytes",
    "BadInput",
    "BadSlider",
    "Cancelled",
    "ConnectionLost",
    "EngineFailed",
    "GraphError",
    "LabError",
    "LimitExceeded",
    "MagicUsage",
    "ModelNotFound",
    "NeverReached",
    "NotSaved",
    "NotSupported",
    "NotTrusted",
    "OpFailed",
    "OpNotAllowed",
    "PeekContradicted",
    "ProtocolError",
    "RunError",
    "ServerError",
    "ServerUnreachable",
    "ShapeMismatch",
    "SourceLine",
    "TimedOut",
    "ValueNotKnown",
    "WriteTooEarly",
]


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One line of the user's code: a file (or a notebook cell), a line number, its text."""

    file: str
    line: int
    cell: int | None = None

    @property
    def text(self) -> str:
        """The line as written, or an empty string when the source is not at hand."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        place = f"cell {self.cell}" if self.cell is not None else self.file
        return f"{place}, line {self.line}"


class LabError(Exception):
    """The root of the tree. Subclasses fix `code`; nothing raises this class itself.

    node: the node of the graph it belongs to. inside: where that node is a branch or a loop, the
    way on: which of its blocks, which node there, and so on.
    """

    code: ClassVar[str] = "lab-error"

    def __init__(
        self,
        message: str,
        *,
        where: SourceLine | None = None,
        hint: str = "",
        node: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.node = node
        self.inside: tuple[int, ...] = ()

    def __str__(self) -> str:
        lines = [self.message]
        if self.where is not None:
            text = self.where.text
            lines.append(f"  at {self.where}" + (f":  {text}" if text else ""))
        if self.hint:
            lines.append(f"  → {self.hint}")
        lines.append(f"  [{self.code}]")
        return "\n".join(lines)

    def at(self, where: SourceLine | None) -> Self:
        """The same error, tied to a source line if it had none."""
        if self.where is None:
            self.where = where
        return self

    def to_plain(self) -> dict[str, Any]:
        """Plain data for the wire. Source lines stay on the client; the node id travels."""
        plain: dict[str, Any] = {"code": self.code, "message": self.message, "hint": self.hint}
        plain["node"] = self.node
        return {**plain, "inside": list(self.inside)} if self.inside else plain

    @staticmethod
    def from_plain(plain: dict[str, Any]) -> LabError:
        """The error that `to_plain` described; an unknown code becomes a `ServerError`."""
        kind = _by_code().get(str(plain.get("code")), ServerError)
        node, inside = plain.get("node"), plain.get("inside")
        error = kind(
            str(plain.get("message", "")),
            hint=str(plain.get("hint", "")),
            node=node if isinstance(node, int) else None,
        )
        if isinstance(inside, list | tuple) and all(isinstance(step, int) for step in inside):
            error.inside = tuple(inside)
        return error


def _by_code() -> dict[str, type[LabError]]:
    found: dict[str, type[LabError]] = {}
    queue: list[type[LabError]] = [LabError]
    while queue:
        kind = queue.pop()
        found.setdefault(kind.code, kind)
        queue.extend(kind.__subclasses__())
    return found


class GraphError(LabError):
    """The experiment is wrong in itself; found before anything runs or queues."""

    code = "graph-error"


class AddressNotFound(GraphError, AttributeError):
    """No module, standard name or port of that name; the nearest one is offered."""

    code = "address-not-found"


class ShapeMismatch(GraphError):
    """An operation cannot take values of these shapes or dtypes."""

    code = "shape-mismatch"


class OpNotAllowed(GraphError):
    """The operation is not in the op table, so no engine would run it."""

    code = "op-not-allowed"


class WriteTooEarly(GraphError):
    """A write depends on a value the model only computes after that place."""

    code = "write-too-early"


class ValueNotKnown(GraphError, TypeError):
    """Python asked for a number that only a run can give."""

    code = "value-not-known"


class PeekContradicted(GraphError):
    """An edit would change a value that Python was given while the block was recorded."""

    code = "peek-contradicted"


class NotSaved(GraphError, KeyError):
    """A recorded value was used after its block, or asked of a run, but never saved."""

    code = "not-saved"


class BadInput(GraphError):
    """The prompt or the inputs cannot be given to the model."""

    code = "bad-input"


class BadSlider(GraphError):
    """A slider is not there, does not go there, or is declared twice."""

    code = "bad-slider"


class BadBytes(GraphError):
    """Bytes that are not a graph, or not one this version can read."""

    code = "bad-bytes"


class RunError(LabError):
    """The experiment was sound, but its run did not finish."""

    code = "run-error"


class OpFailed(RunError):
    """An operation raised while the model ran."""

    code = "op-failed"


class NeverReached(RunError):
    """The forward pass ended without reaching an address the graph names."""

    code = "never-reached"


class Cancelled(RunError):
    """The run was cancelled."""

    code = "cancelled"


class TimedOut(RunError):
    """The run, or waiting for it, took longer than it was given."""

    code = "timed-out"


class EngineFailed(RunError):
    """The engine stopped while the run was under way."""

    code = "engine-failed"


class ModelNotFound(LabError):
    """No model by that name, here or on the server."""

    code = "model-not-found"


class NotSupported(LabError):
    """This executor or this model cannot do that; the hint names what can."""

    code = "not-supported"


class NotTrusted(LabError):
    """A file holds Python functions, and reading them would run code of whoever made it."""

    code = "not-trusted"


class LimitExceeded(LabError):
    """A graph, a message or a result is larger than the limit."""

    code = "limit-exceeded"


class MagicUsage(LabError):
    """The line of a `%%trace` or `%nnl` magic cannot be read."""

    code = "magic-usage"


class ServerError(LabError):
    """Something between the notebook and the lab's server."""

    code = "server-error"


class ServerUnreachable(ServerError):
    """Nothing answers at that address."""

    code = "server-unreachable"


class AuthFailed(ServerError):
    """The token is missing or wrong."""

    code = "auth-failed"


class ConnectionLost(ServerError):
    """The connection ended while a run was under way."""

    code = "connection-lost"


class ProtocolError(ServerError):
    """The other side sent something the protocol does not allow."""

    code = "protocol-error"
