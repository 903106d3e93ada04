"""What a module keeps in its Python attributes, put back after it was only looked at.

Measuring runs the module once more than the user asked for. A mask it builds at its first call, a
counter, the last input it saw: all of that is as before when the `with` block ends. Weights,
buffers and inputs are not touched either: a module is run without data, or on copies of them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from nnsight_lab.contract import ModuleInputs
from nnsight_lab.kernels.infer import meta_like
from nnsight_lab.runtime.values import copied

__all__ = ["evaluating", "silent_run", "untouched", "without_data", "without_traces"]

_CONTAINERS = frozenset({dict, OrderedDict, defaultdict, Counter, list, set, deque})
"""Python's own; what another class does when it is emptied and filled is not known."""
_WEIGHTS = frozenset({"_parameters", "_buffers", "_modules"})


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """No part of the module is in training mode; those that were are again afterwards."""
    training, parts = [], [module]
    for part in parts:  # grows on the way; `.modules()` would take longer than a small run
        if part.training:
            training.append(part)
        if below := part._modules:  # noqa: SLF001 - as torch's own walks
            parts += [each for each in below.values() if each is not None]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


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


def without_data(module: torch.nn.Module, inputs: ModuleInputs) -> None:
    """Run on tensors that have shapes and no data; raises where a module's code needs data."""
    weights = {
        name: tensor.detach().to("meta")
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    args, kwargs = meta_like(inputs.args), meta_like(dict(inputs.kwargs))
    torch.func.functional_call(module, weights, args, kwargs)


def silent_run(module: torch.nn.Module, inputs: ModuleInputs) -> Callable[[], None]:
    """A forward pass without data where that works, with copies of the real inputs where not."""
    with suppress(Exception):  # a seam, as in `_measure_module`
        without_data(module, inputs)
        return lambda: without_data(module, inputs)
    return lambda: without_traces(module, inputs)


def without_traces(module: torch.nn.Module, inputs: ModuleInputs) -> None:
    """Run on the real inputs; buffers, inputs and random numbers are as before afterwards."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    args, kwargs = copied(inputs.args), copied(dict(inputs.kwargs))
    with torch.random.fork_rng(devices=[]):
        torch.func.functional_call(module, buffers, args, kwargs)
