"""Names of the user's own for modules: `rename={"model.layers": "blocks", "mlp": ["ff", "feed"]}`.

An alias is a short way to write a path, and nothing more: the graph holds the true address, so
files and servers never see one. What it stands for is looked up below the module it is used on, so
that `mlp` is renamed in every layer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from nnsight_lab.errors import BadInput
from nnsight_lab.ir import ModuleTree
from nnsight_lab.passes.shapes import module_path

__all__ = ["Aliases", "aliases_of"]

_RESERVED = frozenset(
    "input inputs output grad source skip save get trace generate run edit edits clear_edits scan "
    "session tokens result".split()
)
"""What means something on a module or a model of any kind."""


class Aliases:
    """The aliases of one model. Empty for most."""

    def __init__(self, targets: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self._targets = dict(targets or {})

    def __bool__(self) -> bool:
        return bool(self._targets)

    def target(self, tree: ModuleTree, path: str, name: str) -> str | None:
        """The path that `name` stands for below `path`, or None."""
        for suffix in self._targets.get(name, ()):
            found = _below(tree, path, suffix)
            if found is not None:
                return found
        return None

    def names_below(self, tree: ModuleTree, path: str) -> dict[str, str]:
        """The aliases that can be used on the module at `path`, and what each stands for."""
        found = {name: self.target(tree, path, name) for name in self._targets}
        return {name: target for name, target in found.items() if target is not None}


def _below(tree: ModuleTree, path: str, suffix: str) -> str | None:
    if suffix.startswith("."):
        if path:
            return None
        suffix = suffix[1:]
    for base in dict.fromkeys((path, module_path(tree, path))):
        found = f"{base}.{suffix}" if base else suffix
        if found in tree.known_paths:
            return found
    return None


def aliases_of(rename: Any, tree: ModuleTree, verbs: Iterable[str] = ()) -> Aliases:
    """The aliases a user asked for, checked against the model.

    rename: paths, or ends of paths, to one name or several. A path that begins with a dot is
        meant at the top of the model only.
    verbs: names that mean something on the model itself.

    Raises:
        BadInput: a path is not there, or a name is taken.
    """
    if not isinstance(rename, Mapping):
        raise BadInput(
            f"rename is a mapping of module paths to names, not a {type(rename).__name__}.",
            hint='rename={"model.layers": "blocks", "mlp": ["ff", "feed"]}',
        )
    targets: dict[str, tuple[str, ...]] = {}
    for path, names in rename.items():
        _check_path(path, tree)
        for name in (names,) if isinstance(names, str) else tuple(names):
            _check_name(name, path, tree, verbs)
            targets[name] = (*targets.get(name, ()), path)
    return Aliases(targets)


def _check_path(path: Any, tree: ModuleTree) -> None:
    known = tree.known_paths
    ends = {end for one in known for end in _ends_of(one)}
    wanted = path.removeprefix(".") if isinstance(path, str) else path
    if wanted and wanted in (known if str(path).startswith(".") else ends):
        return
    near = difflib.get_close_matches(str(path), sorted(ends), 1, 0.5)
    raise BadInput(
        f"rename: the model has no module {path!r}.",
        hint=f"Nearest: {near[0]!r}." if near else "print(model) shows the module tree.",
    )


def _ends_of(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _check_name(name: Any, path: str, tree: ModuleTree, verbs: Iterable[str]) -> None:
    """A name may stand for a module where nothing else is called so."""
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        raise BadInput(
            f"rename: {name!r} cannot be used as an attribute.",
            hint="Choose a Python name without an underscore in front.",
        )
    ports = {port for ports in tree.ports.values() for port in ports}
    weights = {weight for card in tree.modules for weight, _ in card.weights}
    for taken, what in (
        (ports | _RESERVED | set(verbs), "a value or a verb"),
        (weights, "a parameter"),
    ):
        if name in taken:
            raise BadInput(f"rename: {name!r} is {what} already.", hint="Choose another name.")
    for parent in tree.known_paths:
        target, own = _below(tree, parent, path), _below(tree, parent, name)
        if target is None or own is None:
            continue
        if module_path(tree, own) != module_path(tree, target):
            raise BadInput(
                f"rename: {name!r} cannot stand for {target}; {own} is called so already.",
                hint="Choose another name.",
            )
