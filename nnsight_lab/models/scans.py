"""`model.scan(prompt)`: a block that is recorded and not run. What it saves comes back as shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nnsight_lab.ir import Graph, Node, Read, Write
from nnsight_lab.passes.check import Surroundings, shapes_of
from nnsight_lab.passes.shapes import describe
from nnsight_lab.tracing import Recorder, Tracer
from nnsight_lab.tracing.show import is_shown, print_shown

__all__ = ["Shapes", "scanned"]


class Shapes(Mapping[str, Any]):
    """A mapping of saved names to tensors without data.

    A shape that only a run can tell is `unknown shape`.
    """

    def __init__(self, metas: Mapping[str, Any]) -> None:
        self._metas = dict(metas)

    def __getitem__(self, name: str) -> Any:
        return self._metas[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metas)

    def __len__(self) -> int:
        return len(self._metas)

    def __repr__(self) -> str:
        lines = (f"  {name}: {describe(meta)}" for name, meta in self._metas.items())
        return "\n".join(["<shapes; nothing ran>", *lines])


class _Described:
    """Printed for a shown value: its shape is all there is."""

    def __init__(self, meta: Any) -> None:
        self._meta = meta

    def __repr__(self) -> str:
        return describe(self._meta)


def scanned(tracer: Tracer[Any]) -> Tracer[Shapes]:
    """The block of a tracer that has not begun, to be scanned and not run."""
    return tracer.ended_by(_shapes_of)


def _shapes_of(graph: Graph, recorder: Recorder) -> Shapes:
    def surroundings(node: Node) -> Surroundings:
        invoke, step = (node.invoke, node.step) if isinstance(node, Read | Write) else (None, 0)
        with recorder.places.as_in(invoke, step):
            return recorder.tree, recorder.places.batch, recorder.places.pos

    metas, _ = shapes_of(graph, surroundings)
    found = {output.name: metas[output.node] for output in graph.outputs}
    for name, meta in found.items():
        if is_shown(name):
            print_shown(name, _Described(meta))
    return Shapes({name: meta for name, meta in found.items() if not is_shown(name)})
