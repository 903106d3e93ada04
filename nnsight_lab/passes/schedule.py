"""`schedule`: which nodes run at which moment of a run, of one forward pass or of several.

A *moment* is a point at which the model hands over one or more values (a module is about to run,
or has run); the module tree numbers them in the order the model reaches them. A node runs at the
first moment at which all it needs is there, so values are ready, and can be sent, as early as
possible. A write whose value is made later than its own place is impossible and is refused here.
Moments of forward pass `i` lie from `i * STEP` on (`stages.py`).
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nnsight_lab.errors import AddressNotFound, BadInput, NotSupported, WriteTooEarly
from nnsight_lab.ir import (
    STEP,
    Address,
    Call,
    Gradient,
    GradientWrite,
    Graph,
    ModuleTree,
    NodeId,
    Read,
    Skip,
    Write,
)
from nnsight_lab.ir.nodes import dependencies, has_value
from nnsight_lab.passes.refusals import check_editable, check_served
from nnsight_lab.passes.skips import (
    check_skippable,
    check_skips,
    skip_moments,
    skipped_too_early,
)
from nnsight_lab.passes.stages import Stages, after
from nnsight_lab.passes.sweeps import check_rows_of_gradients, check_sweeps

__all__ = ["AFTER", "BEFORE", "Moment", "Schedule", "find_moment", "schedule", "too_early"]

BEFORE = -1
"""The moment of what needs nothing from the model."""

AFTER = after(0)
"""The moment of gradients and what needs them: the first forward pass is over."""


_COPIES = frozenset({"lab.assign", "lab.set_item"})
"""Operations that give a copy of a tensor, in which something is written."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What happens when the model reaches one point.

    reads: taken first. steps: computed then, in id order. writes: handed back to the model.
    outputs: names of saved values that are ready now. drops: values nobody needs afterwards.
    skips: modules that are due now and do not run; they are given their values first.
    kept: what is read now, and saved or needed later. lasting: the same of what is computed now.
    only_saves: whether all that happens is that values of all rows are read and saved.
    """

    reads: tuple[Read, ...] = ()
    steps: tuple[NodeId, ...] = ()
    writes: tuple[Write, ...] = ()
    outputs: tuple[tuple[str, NodeId], ...] = ()
    drops: tuple[NodeId, ...] = ()
    skips: tuple[Skip, ...] = ()
    kept: tuple[NodeId, ...] = ()
    lasting: tuple[NodeId, ...] = ()
    only_saves: bool = False


@dataclass(frozen=True)
class Schedule:
    """A graph laid along a run; `moments[BEFORE]` runs before it begins.

    ready: what whoever runs it has made of its nodes and may use again; no values of a run.
    """

    graph: Graph
    moments: dict[int, Moment]
    ready: dict[NodeId, Callable[..., Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def gradients(self) -> tuple[Gradient, ...]:
        """The gradients the graph takes; without any, nothing needs to be kept for them."""
        return tuple(node for node in self.graph.nodes if isinstance(node, Gradient))

    @cached_property
    def inside(self) -> frozenset[int]:
        """The moments that a host comes to: not the one before the run, nor ends of passes."""
        return frozenset(at for at in self.moments if at != BEFORE and at != after(at // STEP))

    @cached_property
    def given_away(self) -> frozenset[NodeId]:
        """The edited copies of whole values (`_COPIES`) that one write uses, and nothing else."""
        used = Counter(output.node for output in self.graph.outputs)
        for node in self.graph.nodes:
            used.update(dependencies(node))
        written = {node.value for node in self.graph.writes()}
        return frozenset(
            node.id
            for node in self.graph.nodes
            if isinstance(node, Call)
            and node.op in _COPIES
            and node.args[1:2] != ((),)  # of all of it: then it is the new value itself
            and node.id in written
            and used[node.id] == 1
        )

    @cached_property
    def of_step(self) -> dict[int, tuple[int, ...]]:
        """The moments of each forward pass."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for moment in self.moments:
            found[moment // STEP].append(moment)
        return {step: tuple(moments) for step, moments in found.items()}

    @property
    def last(self) -> int:
        """The last moment anything happens at; the model need not go further."""
        return max(self.moments, default=BEFORE)


def find_moment(tree: ModuleTree, address: Address) -> int:
    """When the model reaches an address.

    Raises:
        AddressNotFound: it never does; the nearest address is named.
        NotSupported: it does, but this engine does not serve it.
    """
    site = tree.by_address.get(address)
    if site is not None:
        return site.moment
    check_served(tree, address)
    known = {str(other): other for other in tree.by_address}
    near = difflib.get_close_matches(str(address), list(known), 1, 0.5)
    same_place = [other for other in tree.by_address if other.path == address.path]
    if same_place and address.call:
        hint = f"{address.path or 'The model'} runs {len({a.call for a in same_place})} time(s)."
    elif same_place:
        ports = ", ".join(dict.fromkeys(other.port for other in same_place))
        hint = f"{address.path or 'The model'} has: {ports}."
    else:
        hint = f"Nearest: {near[0]}." if near else "print(model) shows the module tree."
    raise AddressNotFound(f"The model has no {address}.", hint=hint)


def too_early(write_at: Address, read_at: str, read_line: str) -> WriteTooEarly:
    """The error for a write that would need a value of the future."""
    return WriteTooEarly(
        f"{write_at} is reached before {read_at}, so it cannot be written from it ({read_line}).",
        hint="Save the later value in one run and write it in a second run.",
    )


def schedule(graph: Graph, stages: ModuleTree | Stages) -> Schedule:
    """Lay a graph along the forward passes of a run; a module tree alone stands for one.

    Raises:
        AddressNotFound: a read or write names a place the model does not reach.
        WriteTooEarly: a write needs a value the model makes after that place.
        BadInput: a read or write is of a step that the run does not have.
        NotSupported: a place is edited under one name and used under another, or gradients are
            taken at it for all rows and for an invoke.
    """
    stages = Stages.of(stages)
    when = _moments_of_nodes(graph, stages)
    _check_one_name_a_place(graph, stages, when)
    check_skips(graph, stages, when)
    check_sweeps(graph.nodes, when)
    check_rows_of_gradients(graph.nodes)
    last_use = dict(when)
    for node in graph.nodes:
        for other in dependencies(node):
            last_use[other] = max(last_use[other], when[node.id])
    return Schedule(graph, _grouped(graph, when, last_use))


def _moment(stages: Stages, node: Read | Write) -> int:
    step = stages.step_of(node.address, node.step)
    tree = stages.at(step).tree
    moment = find_moment(tree, node.address)
    if isinstance(node, Write):
        check_editable(tree, node.address)
    return step * STEP + moment


def _moments_of_nodes(graph: Graph, stages: Stages) -> dict[NodeId, int]:
    when: dict[NodeId, int] = {}
    for node in graph.nodes:
        try:
            ready = max((when[other] for other in dependencies(node)), default=BEFORE)
            match node:
                case Read():
                    when[node.id] = _moment(stages, node)
                case Write(address=address, value=value):
                    when[node.id] = _moment(stages, node)
                    if ready > when[node.id]:
                        raise too_early(address, *_latest(graph, when, value))
                case Skip(address=address, value=value):
                    tree = stages.at(node.step).tree
                    check_skippable(tree, address)
                    find_moment(tree, address)
                    before, _ = skip_moments(tree, address)
                    when[node.id] = node.step * STEP + before
                    if ready > when[node.id]:
                        raise skipped_too_early(address, *_latest(graph, when, value))
                case Gradient() | GradientWrite():
                    when[node.id] = max(AFTER, after(ready // STEP))
                case _:
                    when[node.id] = ready
        except (AddressNotFound, BadInput, NotSupported, WriteTooEarly) as exc:
            exc.node = node.id
            raise exc.at(node.where)
    return when


def _latest(graph: Graph, when: dict[NodeId, int], value: NodeId) -> tuple[str, str]:
    """The latest place that a value depends on, and the line it is read at."""
    stack, latest = [value], None
    while stack:
        node = graph[stack.pop()]
        if isinstance(node, Gradient):
            return "a gradient", f"taken at {node.where or f'node %{node.id}'}"
        if isinstance(node, Read) and (latest is None or when[node.id] > when[latest.id]):
            latest = node
        stack.extend(dependencies(node))
    assert latest is not None, "a value with a moment depends on a read"
    line = f"read at {latest.where}" if latest.where else f"node %{latest.id}"
    return str(latest.address), line


def _check_one_name_a_place(graph: Graph, stages: Stages, when: dict[NodeId, int]) -> None:
    """A module's own input or output holds all there is at its moment, other names parts of it.

    An edit under one name is not seen under another, so a graph that mixes them is refused.
    """
    edited = {when[node.id]: node for node in graph.writes()}
    for node in graph.nodes:
        if not isinstance(node, Read | Write) or when[node.id] not in edited:
            continue
        write = edited[when[node.id]]
        paths = stages.at(node.step).tree.by_path
        own = (address.path in paths for address in (node.address, write.address))
        if node.address != write.address and any(own):
            raise NotSupported(
                f"{node.address} and {write.address} are two names of one place, which is edited.",
                hint="Use the same name to read it and to edit it.",
                node=write.id,
            ).at(write.where)


def _grouped(
    graph: Graph, when: dict[NodeId, int], last_use: dict[NodeId, int]
) -> dict[int, Moment]:
    reads: defaultdict[int, list[Read]] = defaultdict(list)
    steps: defaultdict[int, list[NodeId]] = defaultdict(list)
    writes: defaultdict[int, list[Write]] = defaultdict(list)
    outputs: defaultdict[int, list[tuple[str, NodeId]]] = defaultdict(list)
    drops: defaultdict[int, list[NodeId]] = defaultdict(list)
    skips: defaultdict[int, list[Skip]] = defaultdict(list)
    for node in graph.nodes:
        match node:
            case Read():
                reads[when[node.id]].append(node)
            case Write():
                writes[when[node.id]].append(node)
            case Skip():
                skips[when[node.id]].append(node)
            case GradientWrite():
                continue  # it is part of the gradients of its pass
            case _:
                steps[when[node.id]].append(node.id)
        if has_value(node):
            drops[last_use[node.id]].append(node.id)
    for output in graph.outputs:
        outputs[when[output.node]].append((output.name, output.node))
    used = sorted({*reads, *steps, *writes, *outputs, *skips})

    saved = {output.node for output in graph.outputs}

    def outliving(moment: int, made: Iterable[NodeId]) -> tuple[NodeId, ...]:
        return tuple(id for id in made if id in saved or last_use[id] != moment)

    def only_saves(moment: int) -> bool:
        if steps[moment] or writes[moment] or skips[moment]:
            return False
        return all(node.invoke is None and last_use[node.id] == moment for node in reads[moment])

    return {
        moment: Moment(
            tuple(reads[moment]),
            tuple(steps[moment]),
            tuple(writes[moment]),
            tuple(outputs[moment]),
            tuple(drops[moment]),
            tuple(skips[moment]),
            outliving(moment, (node.id for node in reads[moment])),
            outliving(moment, steps[moment]),
            only_saves(moment),
        )
        for moment in used
    }
