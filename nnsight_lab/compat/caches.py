"""`tracer.cache()` with nnsight's keys: paths that begin with `model.`, for every module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nnsight_lab.compat.envoy import Envoy
from nnsight_lab.errors import NotSaved
from nnsight_lab.tracing.source import one_frame, user_line

__all__ = ["CacheView"]


class CacheView:
    """What modules gave, by path or by attribute: `cache.model.transformer.h[0].output`.

    cache: the package's own cache, filled when the block ends. where: the module looked at; None
    stands above the model.
    """

    def __init__(self, cache: Any, where: str | None = None) -> None:
        self._cache = cache
        self._where = where

    @classmethod
    def declared(cls, tracer: Any, model: Any, modules: Any, **options: Any) -> CacheView:
        """A cache on the package's own tracer."""
        if modules is None:
            real = {card.path for card in model.tree.modules if card.path}
            modules = real.__contains__
        else:
            modules = [_path(item) for item in modules]
        return cls(tracer.cache(modules, **options))

    def keys(self) -> list[str]:
        """The paths that are cached, at or below this one."""
        every = [f"model.{path}" for path in self._cache]
        return [key for key in every if self._where is None or _below(key, f"model.{self._where}")]

    @property
    def output(self) -> Any:
        """What the module gave."""
        return self._one().output

    @property
    def input(self) -> Any:
        """The first of what it was given."""
        return self._one().input

    @property
    def inputs(self) -> Any:
        """All that it was given: `(args, kwargs)`."""
        return self._one().inputs

    @one_frame
    def _one(self) -> Any:
        if not self._where:
            raise NotSaved("The root of a cache is no module.", hint="cache[path].output").at(
                user_line()
            )
        return self._cache[self._where]

    def __getattr__(self, name: str) -> CacheView:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: str | int) -> CacheView:
        key = str(key)
        if self._where is None:
            top = key.partition(".")[0]
            direct = top != "model" or f"model.{key}" in self.keys()
            return CacheView(self._cache, key if direct else key.partition(".")[2])
        below = f"{self._where}.{key}" if self._where else key
        return CacheView(self._cache, below)

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def items(self) -> list[tuple[str, CacheView]]:
        """Each path with what is cached of it."""
        return [(key, CacheView(self._cache, _path(key))) for key in self.keys()]

    def __len__(self) -> int:
        return len(self.keys())

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"CacheView({'root' if self._where is None else self._where!r}, {self._cache!r})"


def _path(item: Any) -> str:
    """A module's path, without the `model.` that nnsight begins with."""
    path = item.path if isinstance(item, Envoy) else str(item)
    return path.removeprefix("model.") if path.startswith("model.") else path


def _below(key: str, start: str) -> bool:
    return key == start or key.startswith(f"{start}.") or start == "model."
