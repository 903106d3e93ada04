"""Reading the house: its files, its modules, and what their source says. Used by the laws here.

No test lives in this file. Functions take source text where they can, so that each law can be
shown to fail on a small bad example.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "ROOT",
    "bound_names",
    "declared_all",
    "is_package_init",
    "module_name",
    "public_definitions",
    "pyproject",
    "python_files",
    "run",
    "text_files",
]

ROOT = Path(__file__).resolve().parents[2]

#: Where our Python lies, and the folder from which its module names are counted.
_SOURCES = {
    "nnsight_lab": ROOT,
    "server/nnsight_lab_server": ROOT / "server",
    "tests": ROOT,
}
#: Folders of tools, in or out of git.
_NEVER_OURS = {"node_modules", "_build", "build", "dist", "__pycache__"}
#: Names that other software looks for in a module; they are not ours to list.
_PROTOCOL = {"load_ipython_extension", "unload_ipython_extension"}
_CONSTANT = re.compile(r"[A-Z][A-Z0-9_]*$")


def pyproject() -> dict[str, Any]:
    """The project's settings as plain data."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run one of our tools from the root with this interpreter's environment, and wait."""
    tool = Path(sys.executable).parent / command[0]
    first = str(tool) if tool.exists() else command[0]
    return subprocess.run(
        [first, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )


def python_files(*folders: str) -> list[Path]:
    """Every Python file of ours under these folders (all three when none is named)."""
    chosen = folders or tuple(_SOURCES)
    found = [path for folder in chosen for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if _is_ours(path))


def text_files() -> Iterator[tuple[Path, str]]:
    """Every text file that is, or would be, in a commit."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:  # an unpacked source archive has no git
        paths = [path for path in ROOT.rglob("*") if _is_ours(path)]
    for path in sorted(paths):
        if not path.is_file():
            continue
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture, or weights


def _is_ours(path: Path) -> bool:
    """Whether a path is neither in a tool's folder nor, but for `.ci`, hidden."""
    parts = path.relative_to(ROOT).parts
    hidden = any(part.startswith(".") and part != ".ci" for part in parts)
    return not hidden and not _NEVER_OURS & set(parts)


def module_name(path: Path) -> str:
    """The dotted name a file is imported by."""
    relative = path.relative_to(ROOT)
    base = next(base for folder, base in _SOURCES.items() if relative.is_relative_to(folder))
    parts = list(path.relative_to(base).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def is_package_init(path: Path) -> bool:
    """Whether a file is the front door of a package, which may re-export."""
    return path.name == "__init__.py"


def declared_all(tree: ast.Module) -> list[str] | None:
    """The names in `__all__`, or None when the module declares none."""
    for statement in tree.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value)
            ):
                return list(ast.literal_eval(value))
    return None


def public_definitions(tree: ast.Module) -> set[str]:
    """Classes, functions and UPPER_CASE constants a module defines at its top, without `_`."""
    names = {
        statement.name
        for statement in tree.body
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    }
    names |= {name for name in _assigned(tree) if _CONSTANT.match(name)}
    # `__getattr__`, `__dir__` belong to the module itself.
    return {name for name in names if not name.startswith("_")} - _PROTOCOL


def bound_names(tree: ast.Module) -> set[str]:
    """Every name the module itself defines or assigns at its top; imports do not count."""
    return public_definitions(tree) | _assigned(tree)


def _assigned(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=targets):
                # `A, B = 1, 2` binds both.
                inner = [part for target in targets for part in ast.walk(target)]
                names |= {
                    part.id
                    for part in inner
                    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
                }
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names
