"""`tracer.cache(...)`: what many modules gave, at once, under their names.

    cache = tracer.cache(modules=[lm.layers[0].mlp, "layers.1"])
    cache["layers.0.mlp"].output            # after the block; cache.layers[0].mlp.output is the same

The values are those the modules gave in the end, edits included: they are read when the block ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch

from nnsight_lab.errors import AddressNotFound, BadInput, NotSaved
from nnsight_lab.ir import Address, ModuleTree, OpaqueSpec
from nnsight_lab.kernels.infer import map_tensors
from nnsight_lab.passes.refusals import check_served
from nnsight_lab.passes.shapes import describe, module_path
from nnsight_lab.tracing.envoy import Envoy, path_of
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.regions import refuse_inside
from nnsight_lab.tracing.source import at_line, for_the_user, standing_at, user_line

__all__ = ["Cache", "CachedModule", "Modules", "declare_cache"]

Modules: TypeAlias = "Envoy | str | Iterable[Envoy | str] | Callable[[str], bool] | None"
"""Which modules to cache: by envoy or by name, one or several; by a test of names; or the usual."""


class CachedModule:
    """One module of a cache: `.output`, `.input`, and the modules below it by name."""

    def __init__(self, cache: Cache, envoy: Envoy) -> None:
        self._cache = cache
        self._envoy = envoy

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        held = self._cache.ports(path_of(self._envoy))
        if name in held:
            return self._cache.value(held[name])
        if name in ("output", "input"):
            raise for_the_user(_not_cached(f"{path_of(self._envoy)}.{name}", self._cache))
        return CachedModule(self._cache, self._envoy.get(name))

    def __getitem__(self, index: int) -> CachedModule:
        return CachedModule(self._cache, self._envoy[index])

    def __len__(self) -> int:
        return len(self._envoy)

    def __iter__(self) -> Iterator[CachedModule]:
        return iter([self[index] for index in range(len(self))])

    def __bool__(self) -> bool:
        return True

    def __dir__(self) -> list[str]:
        return [*self._cache.ports(path_of(self._envoy)), *dir(self._envoy)]

    def __repr__(self) -> str:
        held = self._cache.ports(path_of(self._envoy))
        lines = [f"  .{port}: {self._cache.described(proxy)}" for port, proxy in held.items()]
        return "\n".join([f"<cached {path_of(self._envoy) or 'model'}>", *lines])


class Cache(Mapping[str, CachedModule]):
    """What the modules gave, by name; filled when the block ends.

    A key may be a standard name, a module path, or an alias: each finds what was cached.
    """

    def __init__(
        self,
        root: Envoy,
        tree: ModuleTree,
        paths: Mapping[str, tuple[str, ...]],
        *,
        asked: bool,
    ) -> None:
        self._root = root
        self._tree = tree
        self._paths = paths
        self._asked = asked
        self._held: dict[str, dict[str, Proxy]] = {}
        self._device: Any = None

    def ports(self, path: str) -> dict[str, Proxy]:
        """What is cached of a module: its ports, and what was saved of each."""
        return self._held.get(self._key(path), {})

    def _key(self, path: str) -> str:
        if path in self._paths:
            return path
        same = (one for one in self._paths if self._module(one) == self._module(path))
        return next(same, path)

    def _module(self, path: str) -> str:
        return module_path(self._tree, path)

    def value(self, proxy: Proxy) -> Any:
        """The tensor of a saved value, where the cache was asked to have it."""
        held = proxy.value
        if self._device is None:
            return held
        return map_tensors(held, self._moved)

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if tensor.is_meta else tensor.to(self._device)

    def described(self, proxy: Proxy) -> str:
        """The shape of what is cached."""
        return describe(proxy.value) if proxy.came_back else "not there yet"

    def __getitem__(self, name: str) -> CachedModule:
        if not isinstance(name, str):
            raise for_the_user(_not_cached(repr(name), self))
        try:
            envoy = self._root.get(name)
        except AddressNotFound:
            envoy = None
        if envoy is None or self._key(path_of(envoy)) not in self._paths:
            raise for_the_user(_not_cached(name, self))
        return CachedModule(self, envoy)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(CachedModule(self, self._root), name)

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self[name] is not None
        except NotSaved:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *dir(self._root)]

    def __repr__(self) -> str:
        lines = [f"<cache of {len(self)} modules>"]
        for path, ports in self._held.items():
            held = (f".{port}: {self.described(proxy)}" for port, proxy in ports.items())
            lines.append(f"  {path}  {', '.join(held)}")
        return "\n".join(lines if self._held else [lines[0], "  filled when the block ends"])

    def take(
        self, recorder: Recorder, head: str, dtype: torch.dtype | None, device: Any
    ) -> dict[str, Any]:
        """Read and save every module, as it is now; gives the names to save them under."""
        self._device = device
        names: dict[str, Any] = {}
        inside = recorder.skips.is_inside
        if not self._asked:  # nobody named these: those inside a skipped module do not run
            self._paths = {p: ports for p, ports in self._paths.items() if not inside(p)}
        for path, ports in self._paths.items():
            for port in ports:
                value = _cast(recorder.places.read(Address(path, port)), dtype)
                self._held.setdefault(path, {})[port] = value.save()
                names[f"{head}.{path}.{port}"] = self._held[path][port]
        return names


def _not_cached(name: str, cache: Cache) -> NotSaved:
    known = ", ".join(list(cache)[:6]) + (", …" if len(cache) > 6 else "")
    return NotSaved(
        f"{name} is not in this cache.",
        hint=f"It holds {known}; tracer.cache(modules=…) takes more.",
    )


def _cast(value: Any, dtype: torch.dtype | None) -> Any:
    """The value in another precision; whole numbers and flags stay as they are."""
    meta = value.now().meta
    numbers = isinstance(meta, torch.Tensor) and meta.is_floating_point()
    return value.to(dtype) if dtype is not None and numbers else value


def declare_cache(
    recorder: Recorder,
    modules: Modules,
    *,
    include_inputs: bool,
    include_output: bool,
    device: Any,
    dtype: torch.dtype | None,
) -> Cache:
    """A cache that fills when the block of `recorder` ends.

    Raises:
        AddressNotFound: the model has no such module, or does not come by it.
        BadInput: nothing is left to cache.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise BadInput(f"{dtype!r} is not a dtype.", hint="dtype=torch.float16")
    where, tree, places = user_line(), recorder.tree, recorder.places
    places.check_going("A cache")
    refuse_inside(recorder, "A cache cannot be asked for", "It is filled in any case; ask outside.")
    root = Envoy("", lambda: tree, lambda: recorder, recorder.aliases)
    ports = (*(("input",) if include_inputs else ()), *(("output",) if include_output else ()))
    asked = modules is not None and not (callable(modules) and not isinstance(modules, Envoy))
    found: dict[str, tuple[str, ...]] = {}
    for path in _paths(modules, root, tree):
        there = tuple(port for port in ports if _is_there(tree, Address(path, port)))
        if there:
            found[path] = there
        elif asked:
            for port in ports:
                at_line(where, check_served, tree, Address(path, port))
            raise _unreached(path, ports).at(where)
    if not found:
        raise BadInput("There is nothing to cache.", hint="Name modules that the model runs.").at(
            where
        )
    cache, invoke, step = Cache(root, tree, found, asked=asked), places.invoke, places.steps.now
    head = f"cache{recorder.caches}" if recorder.caches else "cache"
    recorder.caches += 1

    def fill() -> dict[str, Any]:
        with standing_at(where), places.as_in(invoke, step):
            return cache.take(recorder, head, dtype, device)

    recorder.at_end.append(fill)
    return cache


def _unreached(path: str, ports: tuple[str, ...]) -> AddressNotFound:
    what = " or ".join(ports) or "nothing"
    return AddressNotFound(
        f"{path or 'The model'} has no {what} to cache.",
        hint="Name a module that the model calls; a list of modules has no output of its own.",
    )


def _is_there(tree: ModuleTree, address: Address) -> bool:
    site = tree.by_address.get(tree.one_name.get(address, address))
    return site is not None and not isinstance(site.spec, OpaqueSpec)


def _paths(modules: Modules, root: Envoy, tree: ModuleTree) -> list[str]:
    """The paths to cache, each module once. Raises `AddressNotFound`, `BadInput`."""
    match modules:
        case None:
            usual = [name for name, _ in tree.standard if name.startswith("layers.")]
            every = [card.path for card in tree.modules if card.path]
            return usual or every
        case str():
            return [path_of(root.get(modules))]
        case Envoy() if len(modules):
            return [path_of(item) for item in modules]
        case Envoy():
            return [path_of(modules)]
        case Iterable():
            return [path for item in modules for path in _paths(_one(item), root, tree)]
        case _ if callable(modules):
            wanted = [path for path in tree.paths if path and modules(path)]
            twins = {module_path(tree, path): path for path in wanted}
            return list(twins.values())
    raise _no_modules(modules)


def _one(item: Any) -> Envoy | str:
    if not isinstance(item, Envoy | str):
        raise _no_modules(item)
    return item


def _no_modules(given: Any) -> BadInput:
    return BadInput(
        f"A {type(given).__name__} does not say which modules to cache.",
        hint='modules=[lm.layers[0].mlp, "layers.1"], or a test: modules=lambda name: "mlp" in name',
    )
