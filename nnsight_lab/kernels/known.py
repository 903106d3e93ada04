"""What is known of results that tensors without data cannot give: parts, and some of their shapes.

`values, counts = h.unique(return_counts=True)` must unpack while recording, though how many values
there are is only known when the model runs. Each entry takes the arguments of a call and gives the
result with `Unknown` in the places that depend on values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["known_parts"]


def known_parts(op: str, args: Any, kwargs: Any, unknown: Any) -> Any:
    """The result of a call as far as it is known; `unknown` stands for what is not."""
    find = _KNOWN.get(op.rsplit(".", 1)[-1])
    if find is None or not args or not isinstance(args[0], torch.Tensor):
        return unknown
    try:
        return find(unknown, *args, **kwargs)
    except (TypeError, ValueError, IndexError, RuntimeError):
        return unknown  # arguments only the run can judge


def _covariance(unknown: Any, x: Any, **_: Any) -> Any:
    size = (x.shape[0], x.shape[0]) if x.dim() == 2 and x.shape[0] > 1 else ()
    dtype = x.dtype if x.is_floating_point() or x.is_complex() else torch.get_default_dtype()
    return x.new_empty(size, dtype=dtype)


def _geqrf(unknown: Any, x: Any) -> Any:
    tau = x.new_empty((*x.shape[:-2], min(x.shape[-2:])))
    return torch.return_types.geqrf((torch.empty_like(x), tau))


def _histogram(unknown: Any, x: Any, bins: Any = 100, **_: Any) -> Any:
    count = bins if isinstance(bins, int) else len(bins) - 1
    parts = (x.new_empty(count), x.new_empty(count + 1))
    return torch.return_types.histogram(parts)


def _histogramdd(unknown: Any, x: Any, bins: Any, **_: Any) -> Any:
    each = [bins] * x.shape[-1] if isinstance(bins, int) else list(bins)
    counts = [one if isinstance(one, int) else len(one) - 1 for one in each]
    edges = tuple(x.new_empty(count + 1) for count in counts)
    return torch.return_types.histogramdd((x.new_empty(counts), edges))


def _unique(
    unknown: Any,
    x: Any,
    sorted: Any = True,  # noqa: A002  # torch's own name for it
    return_inverse: Any = False,
    return_counts: Any = False,
    dim: Any = None,
) -> Any:
    inverse = x.new_empty(x.shape if dim is None else (x.shape[dim],), dtype=torch.int64)
    parts = [unknown, *([inverse] if return_inverse else []), *([unknown] if return_counts else [])]
    return tuple(parts) if len(parts) > 1 else unknown


def _unique_consecutive(
    unknown: Any, x: Any, return_inverse: Any = False, return_counts: Any = False, dim: Any = None
) -> Any:
    return _unique(unknown, x, True, return_inverse, return_counts, dim)


def _lstsq(unknown: Any, a: Any, b: Any, **_: Any) -> Any:
    kind: Any = vars(torch.return_types)["linalg_lstsq"]  # not in torch's stubs
    return kind((unknown,) * 4)


def _narrow(unknown: Any, x: Any, dim: Any, start: Any, length: Any) -> Any:
    return x.narrow(dim, 0, length)  # a view, wherever it starts


def _nonzero(unknown: Any, x: Any, as_tuple: Any = False, **_: Any) -> Any:
    return (unknown,) * max(x.dim(), 1) if as_tuple else unknown


def _where(unknown: Any, condition: Any) -> Any:
    return _nonzero(unknown, condition, as_tuple=True)


def _tensor_split(unknown: Any, x: Any, places: Any, **_: Any) -> Any:
    return (unknown,) * (len(places) + 1) if places.dim() else unknown


def _gaussian_nll_loss(
    unknown: Any, x: Any, target: Any, *_: Any, reduction: Any = "mean", **__: Any
) -> Any:
    return torch.empty_like(x - target) if reduction == "none" else x.new_empty(())


_KNOWN: dict[str, Callable[..., Any]] = {
    "corrcoef": _covariance,
    "cov": _covariance,
    "gaussian_nll_loss": _gaussian_nll_loss,
    "geqrf": _geqrf,
    "histogram": _histogram,
    "histogramdd": _histogramdd,
    "lstsq": _lstsq,
    "narrow": _narrow,
    "nonzero": _nonzero,
    "tensor_split": _tensor_split,
    "unique": _unique,
    "unique_consecutive": _unique_consecutive,
    "where": _where,
}
