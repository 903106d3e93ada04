"""A graph: a tuple of nodes, named outputs, a schema version. A value, like a number.

Two graphs are equal when they say the same, wherever they were written: source lines are not
compared. Making a graph never runs a model, and running one never changes it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nnsight_lab.errors import LabError, SourceLine
from nnsight_lab.ir import codec
from nnsight_lab.ir.constants import LARGE, constants_of
from nnsight_lab.ir.files import GRAPH, write_file
from nnsight_lab.ir.limits import Limits
from nnsight_lab.ir.literals import TensorData
from nnsight_lab.ir.nodes import Node, NodeId, Read, Write, blocks_of, with_new_ids
from nnsight_lab.ir.said import said_by
from nnsight_lab.ir.sliders import Slider, moved, sliders_of
from nnsight_lab.ir.text import graph_to_text

__all__ = ["SCHEMA", "Graph", "Output"]

SCHEMA = codec.SCHEMA
"""The version of the graph schema this package writes."""


@dataclass(frozen=True, slots=True)
class Output:
    """A saved value: the name it comes back under, and the node that makes it."""

    name: str
    node: NodeId


@dataclass(frozen=True, eq=False)
class Graph:
    """An experiment as data.

    nodes: in program order; node `i` has id `i` and refers only to earlier ids.
    outputs: what comes back, by name.
    invokes: how many rows of the batch each invoke has, in order; empty when there are none.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...] = ()
    invokes: tuple[int, ...] = ()

    def __getitem__(self, id: NodeId) -> Node:
        return self.nodes[id]

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __str__(self) -> str:
        return graph_to_text(self)

    def __repr__(self) -> str:
        names = [output.name for output in self.outputs]
        few = ", ".join(names[:6]) + (f", … {len(names)} in all" if len(names) > 6 else "")
        return f"<Graph of {len(self.nodes)} nodes, saves {few or 'nothing'}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def key(self) -> str:
        """SHA-256 of what the graph says, without source lines. Schedules are cached by it."""
        large = self.large_constants
        return hashlib.sha256(codec.encode(self, sources=False, without=large)).hexdigest()

    @cached_property
    def quick_key(self) -> Hashable:
        """What the graph says, to look things up by in this process: equal where `key` is.

        And where only sliders stand elsewhere, which no plan depends on. A run needs it before it can begin, and `key` takes several times as long.
        """
        outputs = tuple([(output.name, output.node) for output in self.outputs])
        return tuple(map(said_by, self.nodes)), outputs, self.invokes

    @cached_property
    def large_constants(self) -> Mapping[str, TensorData]:
        """The constants that are better sent once than with every graph, by digest."""
        large = (value for value in constants_of(self.nodes) if len(value.data) >= LARGE)
        return {value.digest: value for value in large}

    @property
    def sliders(self) -> dict[str, Slider]:
        """Its free numbers (`nl.slider`) by name, and where each stands."""
        return sliders_of(self.nodes)

    def at(self, **values: float) -> Graph:
        """The same graph with sliders at other values: `graph.at(strength=3.5)`.

        Raises:
            BadSlider: there is no such slider, or it does not go there.
        """
        found = replace(self, nodes=moved(self.nodes, values))
        found.__dict__["quick_key"] = self.quick_key  # which does not depend on them
        return found

    def reads(self) -> tuple[Read, ...]:
        """The nodes that read the model."""
        return tuple(node for node in self.nodes if isinstance(node, Read))

    def writes(self) -> tuple[Write, ...]:
        """The nodes that change the model's own activations."""
        return tuple(node for node in self.nodes if isinstance(node, Write))

    def line_of(self, node: NodeId, inside: Sequence[int] = ()) -> SourceLine | None:
        """The line that made a node, or one inside it: which block, which node there, and so on."""
        if not 0 <= node < len(self.nodes):
            return None
        found = self.nodes[node]
        for block, id in zip(inside[::2], inside[1::2], strict=False):
            blocks = blocks_of(found)
            if not 0 <= block < len(blocks) or not 0 <= id < len(blocks[block].nodes):
                break
            found = blocks[block].nodes[id]
        return found.where

    def to_bytes(self, *, sources: bool = True, without: Collection[str] = ()) -> bytes:
        """The graph as bytes. `sources=False` leaves out file names and line numbers.

        without: digests of constants that are named only; `from_bytes` then needs them as `blobs`.
        """
        return codec.encode(self, sources=sources, without=without)

    def save(self, path: str | Path) -> Path:
        """Write the graph to a file, without inputs; `nl.load` reads it. `run.save` keeps those."""
        return write_file(path, {}, {GRAPH: self.to_bytes()})

    def to_python(self, model: Any, prompt: Any) -> str:
        """The experiment as plain PyTorch with hooks, on this model and prompt.

        The model knows where its places are, so it is the one that prints. After a run,
        `run.to_python()` says the same for its own model and prompt.
        """
        text: str = model.experiment(self, prompt).to_python(model)
        return text

    @staticmethod
    def from_bytes(
        data: bytes,
        *,
        limits: Limits | None = None,
        blobs: Mapping[str, TensorData] | None = None,
    ) -> Graph:
        """The graph in `data`, which may come from anybody. blobs: constants it only names.

        Raises:
            BadBytes: these bytes are not a graph, or not of a schema this version reads.
            OpNotAllowed: an operation is not in the op table.
            LimitExceeded: the graph is larger than `limits` allow.
        """
        try:
            nodes, outputs, invokes = codec.decode(data, limits or Limits(), blobs)
        except LabError as exc:
            caller = sys._getframe(1)
            where = SourceLine(caller.f_code.co_filename, caller.f_lineno)
            raise exc.at(where).with_traceback(None) from exc.__cause__
        return Graph(nodes, tuple(Output(name, node) for name, node in outputs), invokes)

    def renumbered(self, keep: Iterable[NodeId]) -> Graph:
        """Only the nodes of `keep`, with ids closed up. Their dependencies must be kept too."""
        kept = sorted(set(keep))
        new_ids: Mapping[NodeId, NodeId] = {old: new for new, old in enumerate(kept)}
        nodes = tuple(with_new_ids(self.nodes[old], new_ids) for old in kept)
        outputs = tuple(replace(out, node=new_ids[out.node]) for out in self.outputs)
        return Graph(nodes, outputs, self.invokes)
