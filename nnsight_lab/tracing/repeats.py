"""`module.calls`: a module once for each time it runs in one forward pass."""

from __future__ import annotations

from typing import Any

from nnsight_lab.errors import AddressNotFound
from nnsight_lab.tracing.source import for_the_user, user_line

__all__ = ["Calls"]


class Calls(list[Any]):
    """The runs of one module in order. A number that it does not reach is refused."""

    def __init__(self, path: str, runs: list[Any]) -> None:
        super().__init__(runs)
        self._path = path

    def __getitem__(self, index: Any) -> Any:
        try:
            return super().__getitem__(index)
        except IndexError:
            failure = AddressNotFound(
                f"No run {index} of {self._path or 'the model'}: it runs {len(self)} time(s).",
                hint=f"calls[0] to calls[{len(self) - 1}]",
            ).at(user_line())
        raise for_the_user(failure)
