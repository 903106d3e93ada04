"""Two recorded branches become a choice: `Cond` nodes, and the edits of either of them.

Results that are there at the same moment are chosen by one node, so that an edit of an early layer
does not wait for what the same branch makes of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnsight_lab.errors import SourceLine
from nnsight_lab.ir import Cond, NodeId
from nnsight_lab.kernels.join import join_metas
from nnsight_lab.tracing.cells import Cell, Value
from nnsight_lab.tracing.nests import Leaf, Number, Pairing, is_number, rebuilt
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.regions import (
    Change,
    Tape,
    block_of,
    captures_of,
    check_called,
    latest,
    part_of,
)

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["choice", "result_of"]

_Sides = tuple[Tape, Tape]


def choice(
    recorder: Recorder,
    test: Value,
    sides: _Sides,
    results: tuple[Any, Any],
    where: SourceLine | None,
) -> Any:
    """Both branches' settled results as one, and their edits as edits of the whole.

    Raises:
        Differ: the results are not alike.
        GraphError: a branch calls a local function for what it does only.
    """
    pairing = Pairing(recorder)
    nest = pairing.put(*results)
    changes = _changes(sides)
    pairs = [(one.value, other.value) for one, other in pairing.pairs]
    ends = [*pairs, *(pair for _, pair in changes)]
    for place, side in enumerate(sides):
        check_called(side.moved, [pair[place].node for pair in ends])
    values = _chosen(recorder, test, sides, ends, where)
    for (change, _), value in zip(changes, values[len(pairs) :], strict=True):
        recorder.places.edit(change.cell, value, change.edited)
    found = zip(pairing.pairs, values, strict=False)
    return rebuilt(nest, [result_of(recorder, value, sides, pair) for pair, value in found])


def result_of(
    recorder: Recorder, value: Value, tapes: Sequence[Tape], leaves: Sequence[Leaf]
) -> Proxy:
    """A value of a region. Where it may be another value itself, it cannot be edited in place."""
    outer = any(
        isinstance(leaf.source, Proxy) and all(leaf.source.is_from_before(t.moved) for t in tapes)
        for leaf in leaves
    )
    number = any(is_number(leaf.source) for leaf in leaves) and not outer
    kind = Number if number else Proxy
    return kind(recorder, Cell(value, fixed=_SHARED if outer else ""))


_SHARED = (
    "This value may be one that other names hold too, so an edit in place would have to reach "
    "those as well: write x = x + 1 for x += 1, or edit inside the branch."
)


def _changes(sides: _Sides) -> list[tuple[Change, tuple[Value, Value]]]:
    """The cells that either branch edited, with their values after the one and the other."""
    one, other = (side.changed for side in sides)
    found = []
    for key, change in {**one, **other}.items():
        ends = [side[key].after if key in side else change.before for side in (one, other)]
        found.append((change, (ends[0], ends[1])))
    return found


def _chosen(
    recorder: Recorder,
    test: Value,
    sides: _Sides,
    pairs: list[tuple[Value, Value]],
    where: SourceLine | None,
) -> list[Value]:
    values = [one for one, _ in pairs]
    groups: dict[int, list[int]] = {}
    for place, (one, other) in enumerate(pairs):
        if one.node != other.node:
            groups.setdefault(latest((test, one, other))[0], []).append(place)
    for places in groups.values():
        whole = _cond(recorder, test, sides, [pairs[place] for place in places], where)
        for index, place in enumerate(places):
            values[place] = part_of(recorder, whole, index, whole.meta[index], where)
    return values


def _cond(
    recorder: Recorder,
    test: Value,
    sides: _Sides,
    pairs: list[tuple[Value, Value]],
    where: SourceLine | None,
) -> Value:
    results = [[value.node for value in column] for column in zip(*pairs, strict=True)]
    captures: dict[NodeId, None] = {}
    for side, ids in zip(sides, results, strict=True):
        captures.update(dict.fromkeys(captures_of(side.moved, ids)))
    given = tuple(captures)
    then, otherwise = (
        block_of(side.moved, given, ids) for side, ids in zip(sides, results, strict=True)
    )
    node = Cond(
        id=recorder.next_id,
        test=test.node,
        inputs=given,
        then=then,
        otherwise=otherwise,
        where=where,
    )
    meta = tuple(join_metas(one.meta, other.meta) for one, other in pairs)
    return recorder.add(node, meta, *latest((test, *map(recorder.value_at, given))))
