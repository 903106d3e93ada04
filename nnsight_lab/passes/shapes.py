"""Specs of a module tree as tensors without data, and the shape of calling a module by itself."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from nnsight_lab.errors import ShapeMismatch
from nnsight_lab.ir import Address, DictSpec, ModuleTree, OpaqueSpec, Spec, TensorSpec, TupleSpec
from nnsight_lab.kernels import Unknown

__all__ = ["bytes_of", "describe", "infer_apply", "meta_of_spec", "module_path", "weight_meta"]


def meta_of_spec(spec: Spec, batch: int, pos: int) -> Any:
    """A value of this spec for a prompt of `batch` rows and `pos` positions, without data."""
    match spec:
        case TensorSpec(dtype=dtype, dims=dims):
            sizes = [dim.size(batch, pos) for dim in dims]
            if any(size is None for size in sizes):
                return Unknown()
            return torch.empty(
                [size for size in sizes if size is not None],
                dtype=getattr(torch, dtype),
                device="meta",
            )
        case TupleSpec(items=items):
            return tuple(meta_of_spec(item, batch, pos) for item in items)
        case DictSpec(items=pairs):
            return {key: meta_of_spec(item, batch, pos) for key, item in pairs}
        case OpaqueSpec():
            return Unknown()


def describe(meta: Any) -> str:
    """A shape as people write it: `float32[1, 6, 128]`."""
    if isinstance(meta, torch.Tensor):
        return f"{str(meta.dtype).removeprefix('torch.')}{list(meta.shape)}"
    if isinstance(meta, tuple | list):
        return f"({', '.join(map(describe, meta))})"
    if isinstance(meta, dict):
        return "{" + ", ".join(f"{key}: {describe(value)}" for key, value in meta.items()) + "}"
    return str(meta) if isinstance(meta, Unknown) else type(meta).__name__


def bytes_of(meta: Any) -> int:
    """How many bytes a value of this shape takes; what is unknown counts as nothing."""
    if isinstance(meta, torch.Tensor):
        return prod(meta.shape) * meta.element_size()
    if isinstance(meta, tuple | list):
        return sum(map(bytes_of, meta))
    if isinstance(meta, dict):
        return sum(map(bytes_of, meta.values()))
    return 0


def module_path(tree: ModuleTree, path: str) -> str:
    """The module behind a path or a standard name."""
    return tree.module_of.get(path, path)


def infer_apply(tree: ModuleTree, path: str, given: Any, batch: int, pos: int) -> Any:
    """The result of calling a module on `given`, from how the model itself calls it.

    A module that keeps all axes but the last (a norm, a projection, a head) may be called on any
    leading axes; of others only the shape the model uses is known.

    Raises:
        ShapeMismatch: the last axis is not what the module takes.
    """
    place = module_path(tree, path)
    found = [_site_meta(tree, place, port, batch, pos) for port in ("input", "output")]
    into, out = found
    known = all(isinstance(meta, torch.Tensor) for meta in (given, into, out))
    if not known or into.dim() == 0 or out.dim() == 0 or given.dim() == 0:
        return Unknown()
    if given.shape == into.shape and given.dtype == into.dtype:
        return out
    if not given.dtype.is_floating_point or into.shape[:-1] != out.shape[:-1]:
        return Unknown()
    if given.shape[-1] != into.shape[-1] and not _maps_last_axis(tree, place, into.shape[-1]):
        return Unknown()
    if given.shape[-1] != into.shape[-1]:
        raise ShapeMismatch(
            f"{path or 'The model'} takes [..., {into.shape[-1]}], not {describe(given)}.",
            hint="Reshape the value, or call the module that takes it.",
        )
    return given.new_empty((*given.shape[:-1], out.shape[-1]))


def _maps_last_axis(tree: ModuleTree, place: str, size: int) -> bool:
    """Whether a module's own weights are a vector or matrix over its input's last axis."""
    card = tree.by_path.get(place)
    dims = [spec.dims for _, spec in (card.weights if card else ())]
    sizes = (axis.size(1, 1) for axes in dims if len(axes) <= 2 for axis in axes)
    return all(len(axes) <= 2 for axes in dims) and size in sizes


def _site_meta(tree: ModuleTree, place: str, port: str, batch: int, pos: int) -> Any:
    address = Address(place, port)
    site = tree.by_address.get(address) or tree.by_address.get(tree.one_name.get(address, address))
    return Unknown() if site is None else meta_of_spec(site.spec, batch, pos)


def weight_meta(tree: ModuleTree, path: str, name: str) -> Any:
    """The shape of a module's parameter or buffer, or None when it has none of that name."""
    card = tree.by_path.get(module_path(tree, path))
    for weight, spec in card.weights if card else ():
        if weight == name:
            return meta_of_spec(spec, 1, 1)
    return None
