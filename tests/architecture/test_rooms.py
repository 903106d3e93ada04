"""Laws of the rooms: who may import whom, and what never enters the rooms a graph passes through."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.house import ROOT, pyproject, python_files, run

#: A graph arrives over the wire and is evaluated in these rooms, so nothing here may turn bytes
#: into code: not a loader that executes what it reads, not an evaluator.
GUARDED = (
    "server/nnsight_lab_server",
    "nnsight_lab/ir",
    "nnsight_lab/wire",
    "nnsight_lab/passes",
    "nnsight_lab/runtime",
    "nnsight_lab/kernels",
)
LOADERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "marshal", "dill", "shelve", "joblib"}
#: These stand behind the front door, and must not go out and come in by it: the door imports
#: late and by name, so import-linter would not see the way round.
BEHIND_THE_DOOR = tuple(
    f"nnsight_lab/{room}"
    for room in ("ir", "kernels", "passes", "wire", "tracing", "runtime", "executors", "models")
)
EVALUATORS = {"eval", "exec", "compile", "__import__"}


def rooms() -> set[str]:
    """The names of the rooms there are."""
    package = ROOT / "nnsight_lab"
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    return packages | {p.stem for p in package.glob("*.py") if not p.stem.startswith("__")}


def code_carriers(source: str) -> list[str]:
    """What in this source could turn bytes into code, as `line: what`."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                bad = [alias.name for alias in names if alias.name.split(".")[0] in LOADERS]
            case ast.ImportFrom(module=str() as module, level=0):
                bad = [module] if module.split(".")[0] in LOADERS else []
            case ast.Call(func=ast.Name(id=name)):
                bad = [name] if name in EVALUATORS else []
            case ast.Attribute(value=ast.Name(id="torch"), attr="load" as attr):
                bad = [f"torch.{attr}"]
            case _:
                bad = []
        found += [f"{getattr(node, 'lineno', 0)}: {what}" for what in bad]
    return found


def test_a_room_imports_only_from_the_rooms_below_it() -> None:
    linted = run("lint-imports")

    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_every_room_has_its_place_in_the_contract() -> None:
    layers = next(
        contract["layers"]
        for contract in pyproject()["tool"]["importlinter"]["contracts"]
        if contract["id"] == "rooms"
    )
    placed = {name.strip(" ()") for layer in layers for name in layer.split("|")}

    assert {f"nnsight_lab.{room}" for room in rooms()} | {"nnsight_lab_server"} == placed


def uses_of_the_front_door(source: str, rooms: set[str]) -> list[int]:
    """Lines that import a public name from `nnsight_lab` itself rather than from its room."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) if any(alias.name == "nnsight_lab" for alias in names):
                lines.append(node.lineno)
            case ast.ImportFrom(module="nnsight_lab", level=0, names=names):
                if not {alias.name for alias in names} <= {*rooms, "__version__"}:
                    lines.append(node.lineno)
    return lines


def test_no_room_behind_the_front_door_imports_through_it() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in python_files(*BEHIND_THE_DOOR, "server/nnsight_lab_server")
        for line in uses_of_the_front_door(path.read_text(encoding="utf-8"), rooms())
    ]

    assert found == []


def test_a_way_round_by_the_front_door_is_seen() -> None:
    assert uses_of_the_front_door("import nnsight_lab as nl", {"ir"}) == [1]
    assert uses_of_the_front_door("\nfrom nnsight_lab import wrap", {"ir"}) == [2]
    assert uses_of_the_front_door("from nnsight_lab import __version__, ir", {"ir"}) == []
    assert uses_of_the_front_door("import nnsight_lab.ir", {"ir"}) == []


def test_no_room_a_graph_passes_through_can_turn_bytes_into_code() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{what}"
        for path in python_files(*GUARDED)
        for what in code_carriers(path.read_text(encoding="utf-8"))
    ]

    assert python_files(*GUARDED)
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import marshal as m",
        "def f():\n    import dill.source",
        "graph = torch.load(path)",
        "loader = torch.load",
        "eval('1')",
        "exec(text)",
    ],
)
def test_the_guard_sees_each_way_in(source: str) -> None:
    assert code_carriers(source)


def test_the_guard_lets_a_models_eval_mode_pass() -> None:
    assert code_carriers("import torch\nmodel.eval()\nre.compile('a')\n") == []


def test_no_init_file_makes_a_package_of_the_server_or_tests_folder() -> None:
    stray = [ROOT / "server" / "__init__.py", *Path(ROOT / "tests").rglob("__init__.py")]

    assert [path for path in stray if path.exists()] == []
