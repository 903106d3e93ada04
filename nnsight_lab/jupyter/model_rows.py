"""The models of a notebook and their modules as plain data: the sidebar's tree.

    model_rows(space)            the models that variables hold
    module_rows(tree, "lm")      the modules of one, each with the code that names it

Nothing here runs or loads a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnsight_lab.ir import ModuleTree
from nnsight_lab.models.lab import Lab
from nnsight_lab.models.traced import TracedModel

__all__ = ["code_for", "labs_in", "model_rows", "models_in", "module_rows"]


def models_in(space: Mapping[str, Any]) -> dict[str, TracedModel]:
    """The models that variables hold, each under the first of its names."""
    found: dict[int, tuple[str, TracedModel]] = {}
    for name, value in list(space.items()):
        if isinstance(value, TracedModel) and not name.startswith("_"):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def labs_in(space: Mapping[str, Any]) -> dict[str, Lab]:
    """The connected labs that variables hold."""
    found = list(space.items())
    return {
        name: value for name, value in found if isinstance(value, Lab) and not name.startswith("_")
    }


def model_rows(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a model: its variable, its name, where it is, its size."""
    rows = []
    for variable, model in models_in(space).items():
        card = model.card
        where = card.capabilities
        rows.append(
            {
                "variable": variable,
                "name": card.name,
                "where": f"{where.engine} ({where.device})",
                "about": _about(card.architecture, card.layers, card.parameters),
            }
        )
    return rows


def _about(architecture: str, layers: int, parameters: int) -> str:
    size = f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"
    depth = f"{layers} layers" if layers else ""
    return ", ".join(filter(None, [architecture, depth, size if parameters else ""]))


def module_rows(tree: ModuleTree, variable: str) -> list[dict[str, Any]]:
    """One row a path, parents first: standard names, then the model's own modules.

    code: what names it in a cell. ports: what can be read there, `output` and the like.
    """
    own = tree.by_path
    standard = [path for path in tree.paths if path and path not in own]
    parents = dict.fromkeys(_above(path) for path in standard)
    names = dict.fromkeys([*filter(None, parents), *standard])
    ordered = [*sorted((path for path in names if path not in own), key=_order), *filter(None, own)]
    rows = [
        {
            "path": path,
            "kind": own[path].kind if path in own else "",
            "standard": path not in own,
            "code": code_for(variable, path),
            "ports": sorted(tree.ports_of.get(path, ()), key=_port_order),
        }
        for path in ordered
    ]
    values = [port for port in tree.ports_of.get("", ()) if port not in _OF_A_CALL]
    return [*rows, *(_value_row(port, variable) for port in values)]


_OF_A_CALL = ("output", "input", "inputs")


def _port_order(port: str) -> int:
    return ("output", "input", port, "inputs").index(port)


def _value_row(port: str, variable: str) -> dict[str, Any]:
    """A value of the whole model, such as `lm.logits`."""
    code = f"{variable}.{port}"
    return {"path": port, "kind": "value", "standard": True, "code": code, "ports": []}


def _above(path: str) -> str:
    return path.rpartition(".")[0]


_FIRST = ("embed", "layers", "norm", "logits")


def _order(path: str) -> tuple[tuple[int, int, str], ...]:
    """Standard names in the order of a forward pass, and layers by number."""
    return tuple(
        (
            _FIRST.index(part) if part in _FIRST else len(_FIRST),
            int(part) if part.isdigit() else -1,
            part,
        )
        for part in path.split(".")
    )


def code_for(variable: str, path: str) -> str:
    """`lm.layers[2].mlp` for `layers.2.mlp`; `lm.get("…")` where a part is no Python name."""
    parts = path.split(".")
    if not all(part.isdigit() or part.isidentifier() for part in parts) or parts[0].isdigit():
        return f'{variable}.get("{path}")'
    return variable + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts)
