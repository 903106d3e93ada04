"""`Plan`: what a run brings to the worker. It rides on the run's own request, as bytes.

Only data: the graph, the prompts and how long it may take. The module tree and the forms it is laid
along were given to the worker when the lab was installed there.
"""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from nnsight_lab.contract import Generation, TokenRows
from nnsight_lab.ir import Graph

__all__ = ["Errand", "Plan"]

_HEAD = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph, the prompts of its parts, and the seconds the worker may spend on it.

    entropy: what rows draw from that name no seed, the same in every worker.
    """

    graph: Graph
    parts: tuple[TokenRows, ...]
    seconds: float = 60.0
    entropy: int = field(default_factory=lambda: secrets.randbits(62))

    def to_bytes(self) -> bytes:
        """As bytes: a head in JSON, then the graph's own."""
        parts = [
            {"rows": part.rows, "generation": part.generation and asdict(part.generation)}
            for part in self.parts
        ]
        head = json.dumps(
            {"parts": parts, "seconds": self.seconds, "entropy": self.entropy}
        ).encode()
        return _HEAD.pack(len(head)) + head + self.graph.to_bytes()

    @staticmethod
    def from_bytes(data: bytes, graph_of: Callable[[bytes], Graph] = Graph.from_bytes) -> Plan:
        """The plan again. It was checked at admission, so nothing is checked here.

        graph_of: makes the graph of its bytes, or has it already.
        """
        (size,) = _HEAD.unpack_from(data)
        head = json.loads(data[_HEAD.size : _HEAD.size + size])
        graph = graph_of(data[_HEAD.size + size :])
        return Plan(graph, tuple(map(_part, head["parts"])), head["seconds"], head["entropy"])


def _part(plain: dict[str, Any]) -> TokenRows:
    rows = tuple(map(tuple, plain["rows"]))
    if plain["generation"] is None:
        return TokenRows(rows)
    given = dict(plain["generation"])
    if given["stop_ids"] is not None:
        given["stop_ids"] = tuple(given["stop_ids"])
    return TokenRows(rows, Generation(**given))


@dataclass(frozen=True, slots=True)
class Errand:
    """What one request of vLLM's does for a run: a row of one of its parts, the n-th time.

    plan: comes with the first request of a run; the path of a file that holds it, when it is large.
    """

    run: str
    part: int
    row: int
    attempt: int = 0
    plan: bytes | str | None = None

    def to_plain(self) -> dict[str, Any]:
        """As it stands among a request's extra arguments."""
        return asdict(self)

    @staticmethod
    def from_plain(plain: dict[str, Any]) -> Errand:
        """The same, read from a request's extra arguments."""
        return Errand(**plain)
