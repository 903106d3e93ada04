"""Operations inside modules, in a graph: whose sources it needs, and what it must not mix.

A module tree knows the operations of a module's forward only when somebody has asked for them, so
whoever checks or runs a graph first asks for those the graph names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nnsight_lab.errors import LabError, NotSupported, ShapeMismatch
from nnsight_lab.ir import (
    Graph,
    ModuleSource,
    ModuleTree,
    Read,
    Site,
    Write,
    is_source_port,
    with_sources,
)
from nnsight_lab.kernels import Unknown
from nnsight_lab.passes.shapes import describe, meta_of_spec

__all__ = ["check_as_measured", "check_sources", "paths_with_source", "tree_for_graph"]


def paths_with_source(graph: Graph) -> dict[str, Read | Write]:
    """The modules of which a graph names operations, each with the first node that does."""
    found: dict[str, Read | Write] = {}
    places: tuple[Read | Write, ...] = (*graph.reads(), *graph.writes())
    for node in places:
        if is_source_port(node.address.port):
            found.setdefault(node.address.path, node)
    return found


def tree_for_graph(
    graph: Graph, tree: ModuleTree, source_of: Callable[[str], ModuleSource]
) -> ModuleTree:
    """The tree with the operations a graph names. `source_of` gives those of one module.

    Raises:
        LabError: a module has none; as `source_of` says it, at the node's line.
    """
    sources = []
    for path, node in paths_with_source(graph).items():
        try:
            sources.append(source_of(path))
        except LabError as exc:
            exc.node = node.id
            raise exc.at(node.where)
    return with_sources(tree, sources)


def check_sources(graph: Graph, tree: ModuleTree) -> None:
    """A pattern and an operation of the same module are not used together.

    For the pattern a module computes its attention by other code, whose operations are others.

    Raises:
        NotSupported: a graph does both.
    """
    inside = paths_with_source(graph)
    places: tuple[Read | Write, ...] = (*graph.reads(), *graph.writes()) if inside else ()
    for node in places:
        path = tree.module_of.get(node.address.path, node.address.path)
        if node.address.port == "pattern" and path in inside:
            raise NotSupported(
                f"{node.address} and operations inside {path} cannot be used in one run:"
                " for its pattern, the module computes attention by other code.",
                hint="Read the pattern in a run of its own.",
                node=node.id,
            ).at(node.where)


def check_as_measured(site: Site, held: Any, batch: int, pos: int) -> None:
    """What an operation really takes or gives has the shape it was recorded with.

    Raises:
        ShapeMismatch: it has not: its shape follows from something other than the prompt's size.
    """
    if not _alike(meta_of_spec(site.spec, batch, pos), held):
        raise ShapeMismatch(
            f"{site.address} holds {describe(held)} on these inputs, not {site.spec}.",
            hint="The model's code goes another way here; run the prompts one by one.",
        )


def _alike(known: Any, held: Any) -> bool:
    if isinstance(known, torch.Tensor):
        return isinstance(held, torch.Tensor) and known.shape == held.shape
    if isinstance(known, Unknown) or not isinstance(known, tuple | dict):
        return True
    if isinstance(known, tuple):
        return (
            isinstance(held, tuple | list)
            and len(known) == len(held)
            and (all(map(_alike, known, held)))
        )
    return all(key in held and _alike(item, held[key]) for key, item in known.items())
