"""Law of the surface: a name is public by being in `__all__`, and by nothing else."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.architecture.house import (
    ROOT,
    bound_names,
    declared_all,
    is_package_init,
    module_name,
    public_definitions,
    python_files,
)

MODULES = python_files("nnsight_lab", "server/nnsight_lab_server")


def surface_faults(source: str, *, front_door: bool) -> list[str]:
    """Where a module's `__all__` and its public definitions part.

    Classes, functions and UPPER_CASE constants must be listed. A plain alias may be. Only a
    package's front door may list what it imports from its own rooms.
    """
    tree = ast.parse(source)
    listed = declared_all(tree)
    if listed is None:
        return ["no __all__"]
    faults = [f"listed twice: {name}" for name in sorted(set(listed)) if listed.count(name) > 1]
    faults += [f"not listed: {name}" for name in sorted(public_definitions(tree) - set(listed))]
    if not front_door:
        faults += [f"not defined here: {name}" for name in sorted(set(listed) - bound_names(tree))]
    return faults


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_public_names_equal_all(path: Path) -> None:
    source = path.read_text(encoding="utf-8")

    assert surface_faults(source, front_door=is_package_init(path)) == []


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.stem != "__main__"], ids=module_name
)
def test_every_listed_name_exists(path: Path) -> None:
    module = importlib.import_module(module_name(path))
    missing = [name for name in getattr(module, "__all__", []) if not hasattr(module, name)]

    assert missing == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def f(): ...", "no __all__"),
        ("__all__ = []\ndef f(): ...", "not listed: f"),
        ("__all__ = []\nclass C: ...", "not listed: C"),
        ("__all__ = []\nLIMIT = 3", "not listed: LIMIT"),
        ("__all__ = ['LOW']\nLOW, HIGH = 1, 2", "not listed: HIGH"),
        ("__all__ = ['gone']", "not defined here: gone"),
        ("from os import path\n__all__ = ['path']", "not defined here: path"),
        ("__all__ = ['f', 'f']\ndef f(): ...", "listed twice: f"),
    ],
)
def test_a_faulty_surface_is_seen(source: str, fault: str) -> None:
    assert surface_faults(source, front_door=False) == [fault]


def test_private_names_and_aliases_are_left_alone() -> None:
    source = "__all__ = ['NodeId', 'f']\nNodeId = int\nOther = str\ndef f(): ...\ndef _g(): ..."

    assert surface_faults(source, front_door=False) == []


def test_the_front_door_offers_what_the_readme_uses() -> None:
    import nnsight_lab

    assert {"LanguageModel", "connect", "wrap", "Graph"} <= set(nnsight_lab.__all__)
    assert set(nnsight_lab.__all__) <= set(dir(nnsight_lab))
    assert (ROOT / "nnsight_lab" / "py.typed").exists()
