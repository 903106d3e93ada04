"""Numpy's functions of numbers on recorded values: `np.tanh(h)` is recorded as `torch.tanh(h)`.

What numpy has no such function for (`np.linalg.norm`, `np.concatenate`) asks for the array itself,
which is a peek.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nnsight_lab.errors import OpNotAllowed
from nnsight_lab.ir.ops import is_op
from nnsight_lab.kernels.arguments import without_numpy
from nnsight_lab.tracing.source import user_line

__all__ = ["numpy_function"]

_OPERATORS: dict[Any, Callable[..., Any]] = {
    np.add: operator.add, np.subtract: operator.sub, np.multiply: operator.mul,
    np.true_divide: operator.truediv, np.floor_divide: operator.floordiv,
    np.remainder: operator.mod, np.power: operator.pow, np.matmul: operator.matmul,
    np.bitwise_and: operator.and_, np.bitwise_or: operator.or_, np.bitwise_xor: operator.xor,
    np.less: operator.lt, np.less_equal: operator.le, np.greater: operator.gt,
    np.greater_equal: operator.ge, np.equal: operator.eq, np.not_equal: operator.ne,
}  # fmt: skip


def numpy_function(function: np.ufunc, method: str, given: Any, options: dict[str, Any]) -> Any:
    """What a function of numpy's gives for recorded values, or for tensors that came back.

    Raises:
        OpNotAllowed: torch has no such function, or it writes into an array.
    """
    args = without_numpy(tuple(given))
    if method == "__call__" and not options:
        if function in _OPERATORS:
            return _OPERATORS[function](*args)
        if is_op(f"torch.{function.__name__}"):
            return getattr(torch, function.__name__)(*args)
    if all(isinstance(arg, torch.Tensor | int | float) for arg in args):
        return getattr(function, method)(*map(np.asarray, args), **options)
    what = function.__name__ if method == "__call__" else f"{function.__name__}.{method}"
    raise OpNotAllowed(
        f"numpy.{what} cannot be recorded{' with ' + ', '.join(options) if options else ''}.",
        hint="Use torch's function, or take the numbers first: numpy.asarray(value).",
    ).at(user_line())
