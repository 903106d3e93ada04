"""The shape of a value that is one of two: what is the same in both, `Unknown` where they differ."""

from __future__ import annotations

from typing import Any

import torch

from nnsight_lab.kernels.infer import Unknown, map_tensors

__all__ = ["fresh", "item_meta", "join_metas", "same_meta"]


def same_meta(one: Any, other: Any) -> bool:
    """Whether two shapes, or nests of them, are the same."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same_meta, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same_meta(one[key], other[key]) for key in one)
    return isinstance(one, Unknown)


def join_metas(one: Any, other: Any) -> Any:
    """The shape of a value that has either shape."""
    if same_meta(one, other):
        return fresh(one)
    if type(one) is type(other) and isinstance(one, tuple | list) and len(one) == len(other):
        items = list(map(join_metas, one, other))
        return type(one)(*items) if hasattr(one, "_fields") else type(one)(items)
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        return {key: join_metas(one[key], other[key]) for key in one}
    return Unknown()


def fresh(meta: Any) -> Any:
    """The same shape, as a tensor that is a view of nothing."""
    return map_tensors(
        meta, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    )


def item_meta(over: Any) -> tuple[int | None, Any]:
    """How many items a loop over this shape has, None when unknown, and the shape of each.

    Raises:
        TypeError: it has no items.
    """
    if isinstance(over, torch.Tensor):
        if over.dim() == 0:
            raise TypeError("a single number has no items")
        shape = over.shape[1:]
        return len(over), torch.empty(shape, dtype=over.dtype, device="meta")
    if isinstance(over, tuple | list):
        joined = fresh(over[0]) if over else Unknown()
        for item in over[1:]:
            joined = join_metas(joined, item)
        return len(over), joined
    if isinstance(over, Unknown):
        return None, Unknown()
    raise TypeError("a dict has no items in a graph")
