"""Which hook serves which address, and how its value is taken out and put back.

A *hook point* is a place in the running model where we may stand: before or after one call of a
module, or inside the attention call. Several addresses can share one hook point (a block's tuple
and its residual stream); a `Binding` says how each is read from, and written into, what is there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from nnsight_lab.ir import Address

__all__ = [
    "Binding",
    "HookPoint",
    "OpCall",
    "Stage",
    "first_of",
    "heads_of_input",
    "input_of",
    "logits_of",
    "module_bindings",
    "whole",
]

Stage: TypeAlias = Literal[
    "before",
    "after",
    "attention",
    "pattern",
    "method",
    "torch",
    "torch-pattern",
    "rows-before",
    "rows-after",
    "op-before",
    "op-after",
]
"""Of a module's call; of the attention interface (`attention.py`); or inside a module's own code
(`inside.py`); or of a torch function that its forward calls (`source.py`)."""


@dataclass(frozen=True, slots=True)
class OpCall:
    """Which call of a torch function in a module's forward.

    at: the lines of code that made it, innermost first: file, function, line, instruction.
    turn: how many times those lines had called the function before, in the same forward.
    """

    function: str
    at: tuple[tuple[str, str, int, int], ...]
    turn: int


class HookPoint(NamedTuple):
    """Before or after the `call`-th call of a module, or inside its attention.

    op: which of the torch functions its forward calls, at the stages `op-before` and `op-after`.
    """

    stage: Stage
    path: str
    call: int = 0
    op: OpCall | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """An address and its hook point.

    take: what the address holds, from what is at the hook point.
    put: what is at the hook point, with the address's value replaced.
    plain: whether the address holds the module's own input or output tensor, unchanged.
    """

    address: Address
    point: HookPoint
    take: Callable[[Any], Any]
    put: Callable[[Any, Any], Any]
    plain: bool = False


def whole(address: Address, point: HookPoint) -> Binding:
    """The value at the hook point itself."""
    return Binding(address, point, lambda value: value, _of_its_kind, plain=True)


def _of_its_kind(old: Any, new: Any) -> Any:
    """A graph's dicts and tuples as what the model's code has: output objects, with attributes."""
    if isinstance(old, dict) and isinstance(new, dict):
        changed = copy.copy(old)
        for key in new:
            changed[key] = _of_its_kind(old.get(key), new[key])
        return changed
    if type(old) in (tuple, list) and isinstance(new, tuple | list) and len(old) == len(new):
        return type(old)(_of_its_kind(*pair) for pair in zip(old, new, strict=True))
    return new


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) else value


def _put_first(value: Any, new: Any) -> Any:
    return (new, *value[1:]) if isinstance(value, tuple | list) else new


def first_of(address: Address, point: HookPoint) -> Binding:
    """The tensor a block returns, alone or as the first of a tuple."""
    return Binding(address, point, _first, _put_first, plain=True)


def _input(value: Any) -> Any:
    args, kwargs = value
    if args:
        return args[0]
    return next((item for item in kwargs.values() if isinstance(item, torch.Tensor)), None)


def _put_input(value: Any, new: Any) -> Any:
    args, kwargs = value
    if args:
        return (new, *args[1:]), kwargs
    key = next((key for key, item in kwargs.items() if isinstance(item, torch.Tensor)), None)
    return args, {**kwargs, **({key: new} if key is not None else {})}


def input_of(address: Address, point: HookPoint) -> Binding:
    """The first positional argument, or the first tensor given by keyword."""
    return Binding(address, point, _input, _put_input, plain=True)


def heads_of_input(address: Address, point: HookPoint, heads: int) -> Binding:
    """A projection's input `[batch, pos, head * d_head]` as `[batch, pos, head, d_head]`."""
    return Binding(
        address,
        point,
        lambda value: _input(value).unflatten(-1, (heads, -1)),
        lambda value, new: _put_input(value, new.flatten(-2)),
    )


def _put_logits(output: Any, new: Any) -> Any:
    if isinstance(output, tuple):
        return (new, *output[1:])
    changed = output.copy()
    changed["logits"] = new
    return type(output)(**changed)


def logits_of(address: Address, point: HookPoint) -> Binding:
    """The logits of a language model's output object: `[batch, pos, vocab]`."""
    return Binding(
        address,
        point,
        lambda output: output[0] if isinstance(output, tuple) else getattr(output, "logits", None),
        _put_logits,
    )


def module_bindings(path: str, call: int = 0) -> tuple[Binding, Binding, Binding]:
    """`input`, `inputs` and `output` of one call of a module, under its own path."""
    before = HookPoint("before", path, call)
    into = input_of(Address(path, "input", call), before)
    given = whole(Address(path, "inputs", call), before)
    return into, given, whole(Address(path, "output", call), HookPoint("after", path, call))
