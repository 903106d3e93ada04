"""What a module gives under names, as Hugging Face's outputs do: by name, by attribute, by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Fields", "field_named"]


class Fields(dict[str, Any]):
    """A saved output with named parts: `out.logits`, `out["logits"]` and `out[0]` are the same."""

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(field_named(self, key))

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"This output has {', '.join(self)}; it has no {name!r}.")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    @classmethod
    def of(cls, value: Any) -> Any:
        """The value, with attributes where it has names."""
        named = type(value) is dict and value and all(isinstance(key, str) for key in value)
        return cls(value) if named else value


def field_named(fields: Any, key: Any) -> Any:
    """The name of the part that a number means; any other key is itself."""
    if not isinstance(fields, Mapping) or type(key) is not int or key in fields:
        return key
    names = list(fields)
    return names[key] if -len(names) <= key < len(names) else key
