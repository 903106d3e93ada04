"""A module of a model by the model's own paths, with the verbs that nnsight puts on every module.

Values, calls and weights are those of the package's own envoys. Outside a block, what the torch
module has is reached through it: `model.config`, `model.lm_head.weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.compat.elsewhere import without
from nnsight_lab.compat.sources import Source
from nnsight_lab.errors import AddressNotFound, GraphError
from nnsight_lab.tracing import Envoy as LabEnvoy
from nnsight_lab.tracing.source import one_frame, user_line

if TYPE_CHECKING:
    from nnsight_lab.compat.models import NNsight

__all__ = ["Envoy"]

_PREFIX = "E_"
"""Before the name of a module that is called as a value of every module is: BERT's `output`."""


class Envoy:
    """One module: `model.transformer.h[0]`.

    root: the model. where: the module's path in it, without the `model.` that nnsight begins with.
    """

    def __init__(self, root: NNsight, where: str) -> None:
        self._of = root
        self._where = where

    @property
    def _root(self) -> NNsight:
        return self._of

    # Values

    @property
    @one_frame
    def output(self) -> Any:
        """What the module gives."""
        with self._at_its_step():
            return self._lab("output").output

    @output.setter
    @one_frame
    def output(self, value: Any) -> None:
        with self._at_its_step():
            self._lab("output").output = value

    @property
    @one_frame
    def input(self) -> Any:
        """The first of what the module is given."""
        with self._at_its_step():
            return self._lab("input").input

    @input.setter
    @one_frame
    def input(self, value: Any) -> None:
        with self._at_its_step():
            self._lab("input").input = value

    @property
    @one_frame
    def inputs(self) -> Any:
        """All that the module is given: `(args, kwargs)`."""
        with self._at_its_step():
            return self._lab("inputs").inputs

    @inputs.setter
    @one_frame
    def inputs(self, value: Any) -> None:
        with self._at_its_step():
            self._lab("inputs").inputs = value

    @one_frame
    def skip(self, replacement: Any) -> None:
        """Do not run this module; its output is `replacement`."""
        with self._at_its_step():
            self._lab("skip").skip(replacement)

    @property
    def source(self) -> Source:
        """The operations inside the module's forward."""
        return Source(self)

    def lab_source(self) -> Any:
        """The same as the package's own envoy has it."""
        return self._lab_envoy().source

    def has_module(self, name: str) -> bool:
        """Whether there is a module of that name right below this one."""
        return f"{self._where}.{name}".strip(".") in self._root.module_paths()

    # Steps

    def next(self, increment: int = 1) -> Envoy:
        """Go on to a further step of a generation, for this module."""
        opened = self.opened_for("next")
        opened.ahead[self._where] = opened.ahead.get(self._where, 0) + increment
        return self

    @property
    def iter(self) -> Any:
        """The steps of a generation; `tracer.iter` is the same."""
        return self.opened_for("iter").tracer.iter

    def all(self) -> Any:
        """Every step of a generation; `tracer.all()` is the same."""
        return self.opened_for("all").tracer.all()

    # The tree

    @property
    def path(self) -> str:
        """The path, beginning with the model's own `model`."""
        return f"model.{self._where}".rstrip(".")

    @property
    def _module(self) -> torch.nn.Module:
        module: torch.nn.Module = self._root.torch_module()
        return module.get_submodule(self._where)

    @property
    def parent(self) -> Envoy | None:
        """The module this one is in, or None."""
        if not self._where:
            return None
        above = self._where.rpartition(".")[0]
        return Envoy(self._root, above) if above else self._root

    @property
    def device(self) -> torch.device | None:
        """Where the module's first parameter is."""
        first = next(self._module.parameters(), None)
        return None if first is None else first.device

    def get(self, path: str) -> Any:
        """What a dotted path names: a module, or in a block its value."""
        found: Any = self
        for part in path.split("."):
            found = getattr(found, part) if part else found
        return found

    def modules(
        self, include_fn: Callable[[Envoy], bool] | None = None, names: bool = False
    ) -> list[Any]:
        """This module and all below it, the lowest first."""
        found = [each for child in self._children() for each in child.modules()]
        kept = [envoy for envoy in (*found, self) if include_fn is None or include_fn(envoy)]
        return [(envoy.path, envoy) for envoy in kept] if names else kept

    def named_modules(
        self, include_fn: Callable[[Envoy], bool] | None = None
    ) -> list[tuple[str, Envoy]]:
        """As `modules`, each with its path."""
        return self.modules(include_fn, names=True)

    def _children(self) -> list[Envoy]:
        start = f"{self._where}." if self._where else ""
        below = (path for path in self._root.module_paths() if path.startswith(start) and path)
        names = dict.fromkeys(path[len(start) :].split(".")[0] for path in below)
        return [Envoy(self._root, start + name) for name in names if name]

    @one_frame
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        child = name.removeprefix(_PREFIX)
        below = f"{self._where}.{child}" if self._where else child
        if below in self._root.module_paths():
            return Envoy(self._root, below)
        inside = self._root.shared.opened() is not None
        try:
            return self._named(name) if inside else getattr(self._module, name)
        except AddressNotFound:
            if not self._root.is_here() or not hasattr(self._module, name):
                raise
            return getattr(self._module, name)
        except AttributeError:
            return self._named(name)

    def _named(self, name: str) -> Any:
        """What the package's own envoy has by that name: a weight, an alias, a standard name."""
        with self._at_its_step():
            found = getattr(self._lab_envoy(), name)
        return self._root.as_envoy(found) if isinstance(found, LabEnvoy) else found

    @one_frame
    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            with self._at_its_step():
                setattr(self._lab_envoy(), name, value)

    @one_frame
    def __getitem__(self, key: int | str | slice) -> Any:
        if isinstance(key, slice):
            return self._children()[key]
        place = key + len(self) if isinstance(key, int) and key < 0 else key
        return getattr(self, str(place))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._children())

    def __len__(self) -> int:
        return len(self._children())

    def __bool__(self) -> bool:
        return True

    def __dir__(self) -> list[str]:
        names = (child.path.rpartition(".")[2] for child in self._children())
        return [*object.__dir__(self), *(name for name in names if name.isidentifier())]

    @one_frame
    def __call__(self, *args: Any, hook: bool = False, **kwargs: Any) -> Any:
        """Call the module: on recorded values in a block, else as torch does."""
        if self._root.shared.opened() is None:
            return self._module(*args, **kwargs)
        return self._lab_envoy()(*args, **kwargs)

    def to(self, device: Any) -> Envoy:
        """Move the module."""
        self._module.to(device)
        return self

    def __repr__(self) -> str:
        return repr(self._module)

    # Their own

    def opened_for(self, verb: str) -> Any:
        """The block that is open on the model. Raises `GraphError` when there is none."""
        opened = self._root.shared.opened()
        if opened is None:
            raise GraphError(
                f"{self.path}.{verb} has a meaning only inside a block.",
                hint="with model.trace(prompt): … or with model.generate(prompt, …): …",
            ).at(user_line())
        return opened

    def _lab(self, verb: str) -> Any:
        self.opened_for(verb)
        return self._lab_envoy()

    def _lab_envoy(self) -> Any:
        """This module as the package's own envoy, on the model whose block is open."""
        opened = self._root.shared.opened()
        model = self._root.lab_model() if opened is None else opened.model
        return model.get(self._where) if self._where else model

    def _at_its_step(self) -> AbstractContextManager[Any]:
        opened = self._root.shared.opened()
        step = opened.step(self._where) if opened is not None else 0
        if opened is None or not step:
            return nullcontext()
        if not hasattr(opened.tracer, "iter"):
            raise without(".next() here", "for step in tracer.iter[:]: in a generation.")
        return opened.tracer.iter[step]  # type: ignore[no-any-return]
