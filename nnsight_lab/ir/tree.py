"""A model as data: its modules, the places a graph may name, and the shape of each.

A `ModuleTree` is measured once where the weights are (`executors/measure.py`) and travels to
clients that have none: it is all the recorder needs to complete names, to infer shapes, and to
know which place the model reaches first. Sizes that follow the prompt are kept as forms of
`batch` and `pos`, so one tree serves prompts of every length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import TypeAlias

from nnsight_lab.ir.address import Address

__all__ = [
    "MOMENTS_APART",
    "RESULT",
    "RESULT_MOMENT",
    "STEP",
    "TOKENS",
    "TOKENS_MOMENT",
    "DictSpec",
    "Dim",
    "ModuleCard",
    "ModuleTree",
    "OpaqueSpec",
    "Site",
    "SizeForm",
    "Spec",
    "TensorSpec",
    "TupleSpec",
    "is_said_by_input",
]

MOMENTS_APART = 2**16
"""How far apart neighbouring places of a measured tree are; the operations inside a module's own
forward are put between them when somebody asks (`source.py`)."""


STEP = 2**40
"""Moments of one forward pass are below this; those of the next pass follow from here."""

TOKENS_MOMENT, RESULT_MOMENT = STEP - 3, STEP - 2
"""When tokens and result of a generation are there: the last of their forward pass, after all that
the model reaches. `STEP - 1` stays free for what comes when the pass is over."""

TOKENS = Address("", "tokens")
"""The ids that were sampled after a forward pass of a generation, `[batch]`."""

RESULT = Address("", "result")
"""What a generation gave, prompt included: `[batch, pos]`."""


class SizeForm(Enum):
    """How an axis follows the prompt: `factor` times one of these."""

    FIXED = "fixed"
    BATCH = "batch"
    POS = "pos"
    BATCH_POS = "batch*pos"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Dim:
    """The size of one axis as `factor * form`."""

    form: SizeForm
    factor: int = 1

    def size(self, batch: int, pos: int) -> int | None:
        """The size for a prompt of `batch` rows and `pos` positions; None when unknown."""
        match self.form:
            case SizeForm.FIXED:
                return self.factor
            case SizeForm.BATCH:
                return self.factor * batch
            case SizeForm.POS:
                return self.factor * pos
            case SizeForm.BATCH_POS:
                return self.factor * batch * pos
            case SizeForm.UNKNOWN:
                return None

    def __str__(self) -> str:
        if self.form is SizeForm.FIXED:
            return str(self.factor)
        return self.form.value if self.factor == 1 else f"{self.factor}*{self.form.value}"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor: dtype name and axes."""

    dtype: str
    dims: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.dims))}]"


@dataclass(frozen=True, slots=True)
class TupleSpec:
    """A tuple (or list) of values."""

    items: tuple[Spec, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.items))})"


@dataclass(frozen=True, slots=True)
class DictSpec:
    """A dict, or an output object with named fields."""

    items: tuple[tuple[str, Spec], ...]

    def __str__(self) -> str:
        return "{" + ", ".join(f"{key}: {value}" for key, value in self.items) + "}"


@dataclass(frozen=True, slots=True)
class OpaqueSpec:
    """Something a graph cannot compute with: None, a cache object, a flag."""

    kind: str

    def __str__(self) -> str:
        return self.kind


Spec: TypeAlias = TensorSpec | TupleSpec | DictSpec | OpaqueSpec


@dataclass(frozen=True, slots=True)
class Site:
    """An address the model reaches, when it does, and what it finds there.

    moment: sites with the same moment are reached together; smaller moments come first.
    """

    address: Address
    moment: int
    spec: Spec


def _alone(given: Spec) -> TupleSpec:
    """What a module is given that is called with one value: `((value,), {})`."""
    return TupleSpec((TupleSpec((given,)), DictSpec(())))


def is_said_by_input(site: Site, others: Mapping[Address, Site]) -> bool:
    """Whether a site of port `inputs` says no more than that of port `input`.

    So it is of most modules, which are called with one value; such a site is left out of a tree.
    """
    path, call = site.address.path, site.address.call
    into = others.get(Address(path, "input", call))
    return site.address.port == "inputs" and into is not None and site.spec == _alone(into.spec)


@dataclass(frozen=True, slots=True)
class ModuleCard:
    """One module: its path, its class, its parameters' names and specs."""

    path: str
    kind: str
    weights: tuple[tuple[str, TensorSpec], ...] = ()


@dataclass(frozen=True, eq=True)
class ModuleTree:
    """The modules of a model and the sites of one forward pass.

    modules: in the model's own order, parents first; the first is the model itself, path `""`.
    sites: every address of one forward pass, module paths and standard names alike, but for
        `inputs` that `input` already says.
    same_as: addresses that hold the very same value under another name, e.g. the module path
        `model.layers.0` for the standard name `layers.0`; the recorder keeps one cell for both.
    standard: standard names that are modules too, e.g. `norm` is `model.norm`.
    refused: addresses that the model has and this engine does not serve, and why.
    read_only: sites that this engine does not take an edit at, and why.
    """

    modules: tuple[ModuleCard, ...]
    sites: tuple[Site, ...] = ()
    same_as: tuple[tuple[Address, Address], ...] = ()
    standard: tuple[tuple[str, str], ...] = field(default=())
    refused: tuple[tuple[Address, str], ...] = ()
    read_only: tuple[tuple[Address, str], ...] = ()

    @cached_property
    def generating(self) -> ModuleTree:
        """The same forward pass as part of a generation: with `tokens`, and `result` at its end."""
        batch = Dim(SizeForm.BATCH)
        tokens = Site(TOKENS, TOKENS_MOMENT, TensorSpec("int64", (batch,)))
        result = Site(RESULT, RESULT_MOMENT, TensorSpec("int64", (batch, Dim(SizeForm.UNKNOWN))))
        return replace(self, sites=(*self.sites, tokens, result))

    @cached_property
    def by_path(self) -> dict[str, ModuleCard]:
        """Module cards by module path."""
        return {card.path: card for card in self.modules}

    @cached_property
    def by_address(self) -> dict[Address, Site]:
        """Sites by address; also the `inputs` of modules that are called with one value."""
        listed = {site.address: site for site in self.sites}
        given = dict(listed)
        # A module whose arguments this engine does not serve is not one that has a single one.
        known = listed.keys() | {address for address, _ in self.refused}
        for site in self.sites:
            path, call = site.address.path, site.address.call
            inputs = Address(path, "inputs", call)
            if site.address.port == "input" and path in self.by_path and inputs not in known:
                given[inputs] = Site(inputs, site.moment, _alone(site.spec))
        return given

    @cached_property
    def module_of(self) -> dict[str, str]:
        """The module path behind each standard name that is a module."""
        return dict(self.standard)

    @cached_property
    def one_name(self) -> dict[Address, Address]:
        """The address to use for each address that has a better-known twin."""
        names = dict(self.same_as)
        refused = {address for address, _ in self.refused}
        for name, path in self.standard:
            if Address(path, "inputs") in self.by_address.keys() | refused:
                names[Address(name, "inputs")] = Address(path, "inputs")
        return names

    @cached_property
    def calls(self) -> dict[str, int]:
        """How many times each module runs in one forward pass; those that do not are left out."""
        outputs = [at for at in self.by_address if at.port == "output" and at.path in self.by_path]
        return {at.path: at.call + 1 for at in sorted(outputs)}

    @cached_property
    def ports(self) -> dict[str, tuple[str, ...]]:
        """The ports of each path, in the order they are reached; operations are not ports."""
        found: dict[str, dict[str, None]] = {}
        for site in sorted(self.by_address.values(), key=lambda site: site.moment):
            if site.address.port.startswith("source."):
                continue
            found.setdefault(site.address.path, {})[site.address.port] = None
        return {path: tuple(ports) for path, ports in found.items()}

    @cached_property
    def ports_of(self) -> Mapping[str, tuple[str, ...]]:
        """The ports that can be asked for at each path; a standard name has its module's too."""
        found: dict[str, tuple[str, ...]] = {}
        for path in self.paths:
            below = self.module_of.get(path, path)
            own = {Address(path, port): port for port in self.ports.get(below, ())}
            there = (port for at, port in own.items() if self.reaches(at))
            ports = dict.fromkeys((*self.ports.get(path, ()), *there))
            if ports:
                found[path] = tuple(ports)
        return found

    def reaches(self, address: Address) -> bool:
        """Whether a graph may name an address, under whichever of its names."""
        return address in self.by_address or self.one_name.get(address) in self.by_address

    @cached_property
    def _refusals(self) -> tuple[dict[Address, str], dict[Address, str]]:
        return dict(self.refused), dict(self.read_only)

    def why_refused(self, address: Address) -> str | None:
        """Why this engine does not serve an address that the model has; None where it does."""
        refused, _ = self._refusals
        return refused.get(address, refused.get(self.one_name.get(address, address)))

    def why_read_only(self, address: Address) -> str | None:
        """Why an address takes no edit on this engine; None where it does."""
        _, read_only = self._refusals
        return read_only.get(address, read_only.get(self.one_name.get(address, address)))

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Every path a graph may name: modules, then standard names."""
        names = dict.fromkeys(card.path for card in self.modules)
        names.update(dict.fromkeys(site.address.path for site in self.sites))
        names.update(dict.fromkeys(name for name, _ in self.standard))
        return tuple(names)

    @cached_property
    def known_paths(self) -> frozenset[str]:
        """The same, to ask whether a path exists."""
        return frozenset(self.paths)

    @cached_property
    def _children(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, dict[str, None]] = {}
        for path in self.paths:
            parts = path.split(".") if path else []
            for depth, name in enumerate(parts):
                found.setdefault(".".join(parts[:depth]), {})[name] = None
        return {path: tuple(names) for path, names in found.items()}

    def children(self, path: str) -> tuple[str, ...]:
        """The names directly below `path`, in order."""
        return self._children.get(path, ())

    @cached_property
    def lengths(self) -> Mapping[str, int]:
        """How many modules the lists among the paths hold."""
        found = {path: sum(map(str.isdigit, names)) for path, names in self._children.items()}
        return {path: length for path, length in found.items() if length}
