"""The shapes of branches and loops, and what their blocks take to compute.

A branch gives what both blocks give alike. What a loop carries may change its shape from turn to
turn; then the shape is unknown, and the body is looked at once more with that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from nnsight_lab.errors import LabError, LimitExceeded, ShapeMismatch
from nnsight_lab.ir import Cond, Foreach, Node, Param, While
from nnsight_lab.ir.nodes import blocks_of
from nnsight_lab.kernels import Unknown
from nnsight_lab.kernels.join import fresh, item_meta, join_metas, same_meta
from nnsight_lab.passes.shapes import bytes_of, describe

__all__ = ["MOST_ITEMS", "MOST_TURNS", "BlockShapes", "check_single", "items_of"]

MOST_ITEMS = 2**16
"""The longest known value that a loop may go over."""
MOST_TURNS = 100_000
"""The highest limit a loop may be given."""
_MOST_NODES = 500_000
"""How many nodes of blocks are looked at for one graph, again and again counted each time."""

Infer: TypeAlias = Callable[[Node, list[Any]], Any]


def check_single(meta: Any) -> None:
    """A test is one number.

    Raises:
        ShapeMismatch: it is several, or none.
    """
    numel = getattr(meta, "numel", None)
    if isinstance(meta, Unknown) or (numel is not None and numel() == 1):
        return
    raise ShapeMismatch(
        f"A test is a single value; this is {describe(meta)}.",
        hint="Reduce it first: (h > 0).any(), h.norm() > 5, or torch.where for each element.",
    )


def items_of(over: Any) -> tuple[int | None, Any]:
    """How many items a loop over this shape has, None when unknown, and the shape of each.

    Raises:
        ShapeMismatch: it has no items. LimitExceeded: it has too many.
    """
    try:
        length, item = item_meta(over)
    except TypeError as exc:
        raise ShapeMismatch(
            f"A loop cannot go over {describe(over)}: {exc}.",
            hint="Loop over a value with a first axis, or a tuple.",
        ) from exc
    if length is not None and length > MOST_ITEMS:
        raise LimitExceeded(
            f"A loop over {length} items; {MOST_ITEMS} may be.",
            hint="Use an operation on the whole value.",
        )
    return length, item


class BlockShapes:
    """Infers the regions of one graph. bytes: of all values within blocks, one turn of each loop."""

    def __init__(self, infer: Infer) -> None:
        self._infer = infer
        self._looked_at = 0
        self.bytes = 0

    def region(self, node: Cond | Foreach | While, metas: list[Any]) -> Any:
        """The shape of what a region gives."""
        given = [metas[id] for id in node.inputs]
        match node:
            case Cond(test=test):
                check_single(metas[test])
                pair = self._block(node, 0, given), self._block(node, 1, given)
                return tuple(map(join_metas, *pair))
            case Foreach(over=over, carry=carry):
                length, item = items_of(metas[over])
                ends, made = self._lasting(node, 0, [metas[id] for id in carry], given, [item])
                tuples = (Unknown() if length is None else (meta,) * length for meta in made)
                return (*ends, *tuples)
            case While(carry=carry, limit=limit):
                if limit > MOST_TURNS:
                    raise LimitExceeded(
                        f"A loop of up to {limit} turns; {MOST_TURNS} may be.",
                        hint="Give nl.while_ a lower limit.",
                    )
                ends, _ = self._lasting(node, 1, [metas[id] for id in carry], given, [])
                check_single(self._block(node, 0, [*ends, *given])[0])
                return tuple(ends)

    def _lasting(
        self, node: Node, body: int, carry: list[Any], given: list[Any], first: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """The shapes that hold in every turn, and those of what each turn makes."""
        while True:
            results = self._block(node, body, [*first, *carry, *given])
            ends = list(map(join_metas, carry, results))
            if all(map(same_meta, carry, ends)):
                return ends, results[len(carry) :]
            carry = ends

    def _block(self, region: Node, which: int, given: list[Any]) -> list[Any]:
        block = blocks_of(region)[which]
        self._looked_at += len(block.nodes)
        if self._looked_at > _MOST_NODES:
            raise LimitExceeded(
                "The loops of this graph are nested too deeply to check.",
                hint="Nest fewer loops, or carry values whose shape does not change.",
            )
        metas: list[Any] = []
        for node in block.nodes:
            try:
                metas.append(self._node(node, metas, given))
            except LabError as exc:
                exc.inside = (which, node.id, *exc.inside)
                raise exc.at(node.where)
        self.bytes += sum(map(bytes_of, metas))
        return [fresh(metas[id]) for id in block.results]

    def _node(self, node: Node, metas: list[Any], given: list[Any]) -> Any:
        match node:
            case Param(index=index):
                return given[index]
            case Cond() | Foreach() | While():
                return self.region(node, metas)
            case _:
                return self._infer(node, metas)
