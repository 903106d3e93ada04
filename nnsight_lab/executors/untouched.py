"""What a module keeps in its Python attributes, put back after it was only looked at.

Measuring runs the module once more than the user asked for. A mask it builds at its first call, a
counter, the last input it saw: all of that is as before when the `with` block ends. Weights and
buffers are the business of whoever runs the module (`local.py` gives it copies).
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

__all__ = ["untouched"]

_CONTAINERS = frozenset({dict, OrderedDict, defaultdict, Counter, list, set, deque})
"""Python's own; what another class does when it is emptied and filled is not known."""
_WEIGHTS = frozenset({"_parameters", "_buffers", "_modules"})


@contextmanager
def untouched(module: torch.nn.Module) -> Iterator[None]:
    """The attributes of every submodule, and the lists, dicts and tensors there, stay as they are."""
    kept = _Kept(module)
    try:
        yield
    finally:
        kept.restore()


class _Kept:
    """How to put everything back."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._seen = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self._steps: list[Callable[[], None]] = []
        for part in module.modules():
            self._attributes(part)

    def restore(self) -> None:
        for step in self._steps:
            step()

    def _attributes(self, part: torch.nn.Module) -> None:
        own, before = part.__dict__, dict(part.__dict__)

        def put_back() -> None:
            for name in own.keys() - before.keys():
                del own[name]
            own.update(before)

        self._steps.append(put_back)
        for name, value in before.items():
            self._value(value, within=name not in _WEIGHTS)

    def _value(self, value: Any, *, within: bool = True) -> None:
        """Note a container and what it holds, or a tensor that is neither weight nor buffer."""
        if id(value) in self._seen:
            return
        if isinstance(value, torch.Tensor):
            self._seen.add(id(value))
            self._tensor(value)
        elif type(value) in _CONTAINERS:
            self._seen.add(id(value))
            self._container(value)
            for item in tuple(value.values() if isinstance(value, dict) else value) * within:
                self._value(item)
        elif isinstance(value, tuple):
            for item in value:
                self._value(item)

    def _container(self, held: Any) -> None:
        before = held.copy()

        def put_back() -> None:
            held.clear()
            if isinstance(held, dict | set):
                held.update(before)
            else:
                held.extend(before)

        self._steps.append(put_back)

    def _tensor(self, tensor: torch.Tensor) -> None:
        if tensor.is_meta or tensor.is_inference():
            return
        version, before = tensor._version, tensor.detach().clone()

        def put_back() -> None:
            if tensor._version != version:
                with suppress(RuntimeError):  # its memory or shape is another now
                    tensor.data.copy_(before)

        self._steps.append(put_back)
