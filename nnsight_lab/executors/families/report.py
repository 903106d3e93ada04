"""`NameReport`: the standard names of a loaded model, those it lacks and why. Plain data.

Printed as a small table, layers folded: `layers[i].attn  .q .k .v .z .pattern`. A model on a
server has one as well, read off its module tree (`names_in_tree`); the reasons stay there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nnsight_lab.executors.families.table import FAMILIES
from nnsight_lab.ir import Address, ModuleTree

__all__ = ["NameReport", "names_in_tree"]

_ORDER = ("input", "q", "k", "v", "pattern", "z", "neurons", "output", "logits")
_PORTS = {
    "": ("input", "output"),
    "attn": ("input", "output", "q", "k", "v", "z", "pattern"),
    "mlp": ("input", "output", "neurons"),
}


@dataclass(frozen=True, slots=True)
class NameReport:
    """Which standard names a model has.

    model: its class. model_type: what `transformers` calls its architecture; empty on a server.
    family: the row it was named by, or None when no row knows it.
    verified: names that were checked on the model itself. missing: names it lacks, with reasons.
    problems: what a reader should know besides, e.g. that a check found something odd.
    """

    model: str
    model_type: str
    family: str | None
    verified: tuple[Address, ...] = ()
    missing: tuple[tuple[Address, str], ...] = ()
    problems: tuple[str, ...] = ()
    example: str = ""

    def __repr__(self) -> str:
        layers = {_layer(address)[0] for address in (*self.verified, *dict(self.missing))} - {None}
        lines = [self._head()]
        for path, ports in _folded(self.verified, len(layers)):
            lines.append(f"  {path:<16}{' '.join(ports)}".rstrip())
        by_reason: dict[str, list[Address]] = {}
        for address, reason in self.missing:
            by_reason.setdefault(reason, []).append(address)
        for reason, addresses in by_reason.items():
            folded = _folded(addresses, len(layers))
            names = ", ".join(f"{path}{port}" for path, ports in folded for port in ports)
            lines.append(f"  not here: {names}: {reason}")
        lines += [f"  note: {problem}" for problem in self.problems]
        return "\n".join(lines)

    def _head(self) -> str:
        if self.family is not None:
            return f"<standard names of {self.model}, family {self.family}>"
        if any(address.path for address in self.verified):
            return f"<standard names of {self.model}>"
        known = ", ".join(kind for family in FAMILIES for kind in family.model_types)
        paths = f", e.g. {self.example}" if self.example else ""
        return (
            f"<no standard names for model_type {self.model_type!r} ({self.model}); "
            f"use module paths{paths}; known families: {known}>"
        )


def _layer(address: Address) -> tuple[int | None, str]:
    """The layer a name is in, and its path with `i` for that layer."""
    head, _, rest = address.path.partition(".")
    number, _, part = rest.partition(".")
    if head != "layers" or not number.isdigit():
        return None, address.path
    return int(number), f"layers[i].{part}" if part else "layers[i]"


def _folded(addresses: Iterable[Address], layers: int) -> list[tuple[str, list[str]]]:
    """`(path, ports)` with all layers in one; a port that only some of them have says which."""
    found: dict[str, dict[str, set[int]]] = {}
    for address in addresses:
        layer, path = _layer(address)
        of_layers = found.setdefault(path, {}).setdefault(address.port, set())
        of_layers |= set() if layer is None else {layer}
    return [
        (path, [_port(port, ports[port], layers) for port in sorted(ports, key=_place)])
        for path, ports in found.items()
    ]


def _place(port: str) -> int:
    return _ORDER.index(port) if port in _ORDER else len(_ORDER)


def _port(port: str, found: set[int], layers: int) -> str:
    if not found or len(found) == layers:
        return f".{port}"
    return f".{port} (layers {', '.join(map(str, sorted(found)))})"


def names_in_tree(tree: ModuleTree, model: str) -> NameReport:
    """The standard names a module tree offers, for a model whose weights are elsewhere."""
    verified = tuple(
        site.address
        for site in sorted(tree.sites, key=lambda site: site.moment)
        if _is_standard(tree, site.address)
    )
    here = set(verified)
    parts = {address.path for address in verified if address.path.startswith("layers.")}
    missing = tuple(
        (Address(path, port), "its server does not offer it")
        for path in sorted(parts)
        for port in _PORTS.get(path.split(".")[-1] if path.count(".") > 1 else "", ())
        if Address(path, port) not in here
    )
    return NameReport(model, "", None, verified, missing, example=_an_example(tree))


def _is_standard(tree: ModuleTree, address: Address) -> bool:
    path = address.path
    if not path:
        return address.port == "logits"
    return path in tree.module_of or path not in tree.by_path


def _an_example(tree: ModuleTree) -> str:
    """A module path of this model, as one would write it."""
    paths = [card.path for card in tree.modules if any(p.isdigit() for p in card.path.split("."))]
    parts = paths[0].split(".") if paths else []
    return "lm" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts)
