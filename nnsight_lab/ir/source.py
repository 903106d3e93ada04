"""The source of a module as data: what its own forward calls, line by line, and the sites of it.

    Address("model.layers.0.mlp", "source.mul_0.output")     # the first `mul` of that forward

A `ModuleSource` is measured where the weights are, when somebody asks for it
(`executors/source_measure.py`), and travels like a module tree. `with_source` puts its sites into
the tree, between the places they are reached between. A call of a submodule is listed, and is no
operation: what it gives is its own `.output`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nnsight_lab.ir.address import Address
from nnsight_lab.ir.tree import ModuleTree, Site

__all__ = ["ModuleSource", "SourceCall", "is_source_port", "source_address", "with_sources"]

_PREFIX = "source."


@dataclass(frozen=True, slots=True)
class SourceCall:
    """One call, in the order they are made.

    name: of an operation, such as `mul_0`; or the submodule's name within the module.
    submodule: whether a submodule is called, and not a torch function.
    file, function, line, text: where the call stands, and that line of source.
    called_at: the line of the forward that led there, when `function` is not the forward.
    """

    name: str
    submodule: bool
    file: str
    function: str
    line: int
    text: str
    called_at: int = 0


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """What one module's own forward calls. sites: `input`, `inputs`, `output` of each operation."""

    path: str
    kind: str
    file: str
    calls: tuple[SourceCall, ...]
    sites: tuple[Site, ...]

    @property
    def operations(self) -> tuple[str, ...]:
        """The names of the operations, in order."""
        return tuple(call.name for call in self.calls if not call.submodule)


def source_address(path: str, operation: str, port: str, call: int = 0) -> Address:
    """The address of one operation's `input`, `inputs` or `output`."""
    return Address(path, f"{_PREFIX}{operation}.{port}", call)


def is_source_port(port: str) -> bool:
    """Whether a port is of an operation inside a module's forward."""
    return port.startswith(_PREFIX)


def with_sources(tree: ModuleTree, sources: Iterable[ModuleSource]) -> ModuleTree:
    """The same tree, knowing the operations inside these modules as well."""
    more = tuple(
        site for source in sources for site in source.sites if site.address not in tree.by_address
    )
    return replace(tree, sites=(*tree.sites, *more)) if more else tree
