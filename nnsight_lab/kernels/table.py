"""The function behind every op name, and the name of every function.

`kernel("Tensor.topk")` is what the interleaver calls; `op_name(torch.topk)` is what the recorder
writes down. In-place operations (`Tensor.add_`) are evaluated on a copy of their first argument:
a node never changes the value of another.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.overrides import get_overridable_functions, resolve_name

from nnsight_lab.errors import OpNotAllowed
from nnsight_lab.ir.ops import is_op, nearest_ops
from nnsight_lab.kernels.deny import instead_of
from nnsight_lab.kernels.guards import guarded

__all__ = [
    "is_inplace",
    "kernel",
    "not_in_place",
    "op_name",
    "refused",
    "torch_op_names",
    "written_arguments",
]

_PROPERTY = ".__get__"


def _short(full: str) -> str:
    """PyTorch's own name for an overridable function, as this project writes it."""
    full = full.removesuffix(_PROPERTY)
    full = full.replace("torch.Tensor.", "Tensor.", 1)
    return full.replace("torch.functional.", "torch.", 1)


@cache
def _listed() -> tuple[tuple[Any, str], ...]:
    """PyTorch's own list of functions that can be overridden, with our names."""
    functions = (one for group in get_overridable_functions().values() for one in group)
    named = ((function, resolve_name(function)) for function in functions)
    return tuple((one, _own_name(one, _short(full))) for one, full in named if full is not None)


@cache
def _names_by_function() -> dict[Any, str]:
    return dict(reversed(_listed()))


def _own_name(function: Any, name: str) -> str:
    """Of the names that one function has in `torch`, the one it calls itself: `mm`, not `spmm`."""
    own = getattr(function, "__name__", "")
    is_own = name.count(".") == 1 and getattr(torch, own, None) == function
    return f"torch.{own}" if is_own and name.startswith("torch.") else name


def torch_op_names() -> list[str]:
    """Every function PyTorch lets us override, by our name, allowed or not."""
    return sorted({name for _, name in _listed()})


def op_name(function: Any) -> str | None:
    """The name of a torch function, or None when it has none that is known."""
    name = _names_by_function().get(function)
    if name is None:
        full = resolve_name(function)
        own = f"torch.{getattr(function, '__name__', '')}"
        name = _short(full) if full else own if is_op(own) else None
    return _own_name(function, name) if name else None


def is_inplace(op: str) -> bool:
    """Whether the operation is PyTorch's in-place form of another: `Tensor.add_`."""
    tail = op.rsplit(".", 1)[-1]
    if tail.startswith("__") and tail.endswith("__"):
        return tail in _INPLACE_DUNDERS
    return tail.endswith("_") and not tail.endswith("__")


_INPLACE_DUNDERS = frozenset(
    f"__i{name}__"
    for name in (
        "add", "and", "floordiv", "lshift", "mod", "mul", "or", "pow", "rshift", "sub",
        "truediv", "xor",
    )
)  # fmt: skip


_UPDATE_THEIR_ARGUMENTS = frozenset(
    f"{home}.{name}" for home in ("torch", "torch.nn.functional")
    for name in ("batch_norm", "instance_norm")
)  # fmt: skip
"""Operations whose running statistics are arguments they write to; they get copies."""
_WRITING_PARAMETERS = ("out", "inplace", "max_norm")


@cache
def _places_of_writing(op: str) -> dict[str, int]:
    """Where a function written in Python takes the parameters that make it write."""
    try:
        names = list(inspect.signature(kernel(op)).parameters)
    except (TypeError, ValueError):
        return {}
    return {name: names.index(name) for name in _WRITING_PARAMETERS if name in names}


def written_arguments(op: str, args: Any, kwargs: Any) -> list[str]:
    """The arguments by which this call would write into a tensor it was given: `inplace`."""
    places = _places_of_writing(op)
    if not kwargs and not places:
        return []
    named = {name: kwargs.get(name) for name in _WRITING_PARAMETERS}
    placed = {name: args[at] for name, at in places.items() if at < len(args)}
    given = (named | placed).items()
    return [name for name, value in given if value is not None and value is not False]


def not_in_place(op: str, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the same call, giving a new value: `F.relu(h, True)` as `F.relu(h)`."""
    at = _places_of_writing(op).get("inplace", len(args))
    kept = {key: value for key, value in kwargs.items() if key != "inplace"}
    return tuple(False if place == at else arg for place, arg in enumerate(args)), kept


def refused(op: str) -> OpNotAllowed:
    """The error for a name that is not in the op table, with the nearest that are."""
    near = nearest_ops(op)
    hint = f"Nearest allowed: {', '.join(near)}." if near else "See docs/errors/op-not-allowed."
    hint = instead_of(op) or hint
    return OpNotAllowed(f"{op} is not an operation a graph may hold.", hint=hint)


def _walk(target: Any, steps: Any) -> Any:
    for op, args, kwargs in steps:
        target = kernel(op)(target, *args, **dict(kwargs))
    return target


def _copied(container: Any, key: Any, value: Any) -> Any:
    """A copy of a tuple, list or dict-like output with one item replaced."""
    if isinstance(container, list | tuple):
        items = list(container)
        items[key] = value
        return type(container)(*items) if hasattr(container, "_fields") else type(container)(items)
    copied = copy.copy(container)
    copied[key] = value
    return copied


def _fill(target: torch.Tensor, value: Any) -> None:
    target.copy_(value) if isinstance(value, torch.Tensor) else target.fill_(value)


def _assign(base: Any, steps: Any, value: Any) -> Any:
    """A copy of `base` in which the view reached by `steps` holds `value`."""
    if isinstance(base, torch.Tensor):
        result = base.clone()
        _fill(_view_of(result, steps), value)
        return result
    if not steps:
        return value
    (_, (key,), _), *rest = steps
    return _copied(base, key, _assign(base[key], rest, value) if rest else value)


def _set_item(base: Any, steps: Any, key: Any, value: Any) -> Any:
    """A copy of `base` in which `view[key] = value` was done, `view` reached by `steps`."""
    if isinstance(base, torch.Tensor):
        result = base.clone()
        _view_of(result, steps)[key] = value
        return result
    if not steps:
        return _copied(base, key, value)
    (_, (first,), _), *rest = steps
    return _copied(base, first, _set_item(base[first], rest, key, value))


def _view_of(whole: torch.Tensor, steps: Any) -> torch.Tensor:
    view: torch.Tensor = _walk(whole, steps)
    if steps and view.untyped_storage()._cdata != whole.untyped_storage()._cdata:
        names = " then ".join(op for op, _, _ in steps)
        raise RuntimeError(f"{names} copies here, so a write to it would be lost")
    return view


def _on_copy(method: Callable[..., Any]) -> Callable[..., Any]:
    def run(first: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return method(first.clone(), *args, **kwargs)

    return run


def _on_copies(function: Callable[..., Any]) -> Callable[..., Any]:
    def own(value: Any) -> Any:
        return value.clone() if isinstance(value, torch.Tensor) else value

    def run(*args: Any, **kwargs: Any) -> Any:
        return function(*map(own, args), **{key: own(value) for key, value in kwargs.items()})

    return run


def _like(value: Any, other: Any) -> Any:
    """The value itself, if it has the shape and dtype it was said to have."""
    if not isinstance(value, torch.Tensor) or not isinstance(other, torch.Tensor):
        same = type(value) is type(other)
    else:
        same = value.shape == other.shape and value.dtype == other.dtype
    if not same:
        raise TypeError(
            f"it was said to be like {_described(other)}, but it is {_described(value)}"
        )
    return value


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


_LAB: dict[str, Callable[..., Any]] = {
    "operator.getitem": lambda value, key: value[key],
    "lab.assign": _assign,
    "lab.set_item": _set_item,
    "lab.tuple": lambda *items: items,
    "lab.like": _like,
}


@cache
def kernel(op: str) -> Callable[..., Any]:
    """The function behind an op name.

    Raises:
        OpNotAllowed: `op` is not in the op table.
    """
    if op in _LAB:
        return _LAB[op]
    if not is_op(op):
        raise refused(op)
    path = op.split(".")
    target: Any = torch.Tensor if path[0] == "Tensor" else torch
    for part in path[1:]:
        target = getattr(target, part)
    if not callable(target):
        return lambda tensor: getattr(tensor, path[-1])
    if op in _UPDATE_THEIR_ARGUMENTS:
        return _on_copies(target)
    return _on_copy(target) if is_inplace(op) else guarded(op, target)
