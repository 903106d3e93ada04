"""Modules that do not run: when their value must be there, and that nothing inside is named."""

from __future__ import annotations

from collections.abc import Mapping

from nnsight_lab.errors import AddressNotFound, GraphError, SourceLine, WriteTooEarly
from nnsight_lab.ir import STEP, Address, Graph, ModuleTree, NodeId, Read, Skip, Write
from nnsight_lab.passes.refusals import check_editable, check_served
from nnsight_lab.passes.stages import Stages

__all__ = [
    "check_skippable",
    "check_skips",
    "inside_skipped",
    "skip_moments",
    "skipped_too_early",
    "skipped_twice",
]


def skip_moments(tree: ModuleTree, address: Address) -> tuple[int, int]:
    """When a module is about to run, and when it has: what lies between is inside it.

    address: of its output, which the model is known to reach.
    """
    into = Address(address.path, "input", address.call)
    return tree.by_address[into].moment, tree.by_address[address].moment


def check_skippable(tree: ModuleTree, address: Address) -> None:
    """Whether an address is what a module of the model gives.

    Raises:
        AddressNotFound: it is another place, or a standard name.
        NotSupported: this engine does not serve what goes into the module, or takes no edit of
            what comes out of it.
    """
    if address.port != "output" or address.path not in tree.by_path:
        raise AddressNotFound(
            f"{address} is not the output of a module, so it cannot be skipped.",
            hint="A graph names a skipped module by the model's own path.",
        )
    check_served(tree, Address(address.path, "input", address.call))
    check_served(tree, address)
    check_editable(tree, address)


def inside_skipped(
    used: Address, used_at: SourceLine | None, skipped: Address, skipped_at: SourceLine | None
) -> GraphError:
    """The error for a place that is never reached, because a module around it does not run."""

    def line(where: SourceLine | None) -> str:
        return f" ({where})" if where is not None else ""

    return GraphError(
        f"{skipped.path or 'The model'} is skipped{line(skipped_at)}, so the model never comes by"
        f" {used}{line(used_at)}.",
        hint="Read its output, which is the value it was skipped with, or do not skip it.",
    )


def skipped_twice(address: Address, first: SourceLine | None) -> GraphError:
    """The error for a module that is to be skipped with two values."""
    where = f" ({first})" if first is not None else ""
    return GraphError(
        f"{address.path or 'The model'} is skipped already{where}.",
        hint="Skip it once; edit its output afterwards.",
    )


def skipped_too_early(address: Address, read_at: str, read_line: str) -> WriteTooEarly:
    """The error for a module that would be skipped with a value of the future."""
    return WriteTooEarly(
        f"{address.path or 'The model'} is due before {read_at}, so it cannot be skipped with it"
        f" ({read_line}).",
        hint="Save the later value in one run and skip the module with it in a second run.",
    )


def check_skips(graph: Graph, stages: Stages, when: Mapping[NodeId, int]) -> None:
    """Whether nothing is read, written or skipped inside a skipped module.

    Raises:
        GraphError: something is, or a module is skipped twice.
    """
    skips = [node for node in graph.nodes if isinstance(node, Skip)]
    for skip in skips:
        before, after = skip_moments(stages.at(skip.step).tree, skip.address)
        before, after = skip.step * STEP + before, skip.step * STEP + after
        for node in graph.nodes:
            if not isinstance(node, Read | Write | Skip) or node.step != skip.step:
                continue
            if isinstance(node, Skip) and node.address == skip.address and node.id > skip.id:
                raise _at(node, skipped_twice(skip.address, skip.where))
            if before < when[node.id] < after:
                error = inside_skipped(node.address, node.where, skip.address, skip.where)
                raise _at(node if node.id > skip.id else skip, error)


def _at(node: Read | Write | Skip, error: GraphError) -> GraphError:
    error.node = node.id
    return error.at(node.where)
