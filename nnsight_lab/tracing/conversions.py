"""What Python's conversions make of a recorded value: numbers, text, arrays, lists, sizes.

Each asks for as little as it needs: `if h.norm() > 5` brings one flag back, `value in h` and
`torch.equal` one flag, a shape that depends on values only the shape. Where nothing may run, the
refusal is the one of `operators.needs_number`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nnsight_lab.errors import ShapeMismatch
from nnsight_lab.kernels import Unknown
from nnsight_lab.tracing.calls import not_an_op
from nnsight_lab.tracing.cells import Value
from nnsight_lab.tracing.operators import METHODS_OF_NUMBERS, needs_number
from nnsight_lab.tracing.source import user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.proxy import Proxy
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["contains", "converted", "number_of", "peeked_size", "shape_of", "text_of"]

_SIZES = frozenset("size dim ndimension numel nelement stride element_size".split())
"""Methods that give numbers of a shape; known while recording wherever the shape is."""


def converted(proxy: Proxy, method: str, what: str, *args: Any, **kwargs: Any) -> Any:
    """What a tensor's own method (`__bool__`, `item`) gives for a recorded value, by a peek.

    Raises:
        ValueNotKnown: nothing may run now.
        ShapeMismatch: torch refuses to convert a value of this shape or dtype.
    """
    peeks, value = proxy.recorder.peeks, proxy.now()
    if peeks is None or method == "__reduce_ex__":
        raise needs_number(what)
    if isinstance(value.meta, tuple | list | dict) and method == "__bool__":
        return bool(value.meta)
    if isinstance(value.meta, torch.Tensor):
        count = value.meta.numel()
        shape = value.meta.shape if count == 1 else (min(count, 2),)
        _given(method, torch.zeros(shape, dtype=value.meta.dtype), args, kwargs)
    return _given(method, peeks.look(value)[0], args, kwargs)


def _given(method: str, found: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        special = _SPECIAL.get(method)
        if special is not None:
            return special(found, *args, **kwargs)
        return getattr(found, method)(*args, **kwargs)
    except (RuntimeError, TypeError, AttributeError, ValueError) as exc:
        if isinstance(exc, ValueError) and isinstance(found, torch.Tensor) and found.numel() == 1:
            raise  # int() of a nan: Python's own answer to the value, not to its shape
        raise ShapeMismatch(
            f"{str(exc).splitlines()[0].rstrip('.')}.",
            hint="Index or reduce the value first: h[0, -1, 3], h.max(); print(h.shape) helps.",
        ).at(user_line()) from exc


def _rounded(found: Any, digits: int | None = None) -> Any:
    return round(found.item(), digits) if digits is not None else round(found.item())


def _array(found: Any, dtype: Any = None, copy: bool | None = None) -> Any:
    return np.array(found.numpy(), dtype=dtype)


_SPECIAL: dict[str, Callable[..., Any]] = {
    "__round__": _rounded,
    "__array__": _array,
    "numpy": lambda found, **options: found.numpy(**options).copy(),
}
"""Conversions a tensor has not, or that would hand out the memory of what was found."""


def text_of(proxy: Proxy) -> str:
    """`str(value)`: the tensor, where a peek may find it; else what is known of it."""
    peeks = proxy.recorder.peeks
    return repr(proxy) if peeks is None else str(peeks.look(proxy.now())[0])


def contains(proxy: Proxy, item: Any) -> bool:
    """`item in value`."""
    if proxy.recorder.peeks is None:
        raise needs_number("`in`")
    found = proxy.recorder.record("Tensor.eq", (proxy, item), {})
    return bool(converted(found.any(), "__bool__", "`in`"))


def number_of(recorder: Recorder, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a function outside the op table gives when it only asks for a number: `torch.equal`.

    Raises:
        OpNotAllowed: it does something else.
        ValueNotKnown: nothing may run now.
    """
    name = op.rsplit(".", 1)[-1]
    if name not in METHODS_OF_NUMBERS:
        raise not_an_op(op).at(user_line())
    what = f".{name}()" if op.startswith("Tensor.") else f"{op}()"
    if recorder.peeks is None:
        raise needs_number(what)
    if name == "equal":
        return _equal(recorder, *args, what=what)
    if name == "allclose":
        close = recorder.record("torch.isclose", args, kwargs)
        return converted(close.all(), "__bool__", what)
    return converted(args[0], name, what, *args[1:], **kwargs)


def _equal(recorder: Recorder, one: Any, other: Any, *, what: str) -> Any:
    shapes = [getattr(_shaped(value), "shape", None) for value in (one, other)]
    if shapes[0] != shapes[1]:
        return False
    same = recorder.record("torch.eq", (one, other), {})
    return converted(same.all(), "__bool__", what)


def _shaped(value: Any) -> Any:
    """A tensor, or something with the shape a recorded value has."""
    return value if isinstance(value, torch.Tensor) else shape_of(value)


def shape_of(proxy: Proxy) -> Any:
    """The shape and dtype of a value, as a tensor without data; peeked where values decide it."""
    recorder, meta = proxy.recorder, proxy.now().meta
    if not isinstance(meta, Unknown) or recorder.peeks is None:
        return meta
    shape = recorder.call("Tensor.shape", (proxy,), {})
    flat = recorder.call("Tensor.reshape", (proxy, -1), {})
    none_of_it = recorder.call("operator.getitem", (recorder.wrapped(flat), slice(0, 0)), {})
    size, kind = recorder.peeks.look(shape, none_of_it)
    return torch.empty(tuple(size), dtype=kind.dtype, device="meta")


def peeked_size(recorder: Recorder, op: str, result: Value) -> Any:
    """What `h[mask].size(0)` gives, by a peek; None where it is no such call."""
    asked = isinstance(result.meta, Unknown) and op.rsplit(".", 1)[-1] in _SIZES
    return recorder.peeks.look(result)[0] if asked and recorder.peeks is not None else None
