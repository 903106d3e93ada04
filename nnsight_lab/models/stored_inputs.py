"""What a model was given, as plain data and bytes, and back: token ids, or a module's arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from nnsight_lab.contract import Inputs, ModuleInputs, Several, TokenRows
from nnsight_lab.errors import LabError, NotSupported
from nnsight_lab.ir import Ref
from nnsight_lab.ir.literals import DTYPE_SIZES
from nnsight_lab.ir.plain_args import bad_bytes, from_plain_arg, to_plain_arg
from nnsight_lab.kernels import from_python, to_python
from nnsight_lab.kernels.tensors import dtype_name, tensor_bytes, tensor_from_bytes
from nnsight_lab.wire.codec import decode_generation

__all__ = ["inputs_from_plain", "inputs_to_plain"]

_DEPTH = 16


def inputs_to_plain(inputs: Inputs) -> tuple[dict[str, Any], bytes]:
    """Inputs as JSON-ready data, and the bytes of the tensors among them.

    Raises:
        NotSupported: a module was given something that is neither a tensor nor plain data.
    """
    match inputs:
        case TokenRows(rows=rows, generation=None):
            return {"kind": "tokens", "rows": [list(row) for row in rows]}, b""
        case TokenRows(rows=rows, generation=generation):
            assert generation is not None, "the case before"
            options = asdict(generation)
            return {"kind": "text", "rows": [list(row) for row in rows], "options": options}, b""
        case ModuleInputs(args=args, kwargs=kwargs):
            return _module_to_plain(args, dict(kwargs))
        case Several(parts=parts):
            stored = [inputs_to_plain(part) for part in parts]
            listed = [[plain, len(data)] for plain, data in stored]
            return {"kind": "several", "parts": listed}, b"".join(data for _, data in stored)


def _module_to_plain(args: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    tensors: list[torch.Tensor] = []

    def ref(item: Any) -> Ref | None:
        if not isinstance(item, torch.Tensor):
            return None
        tensors.append(item)
        return Ref(len(tensors) - 1)

    try:
        plain = [to_plain_arg(from_python(given, ref)) for given in (tuple(args), kwargs)]
        data = [tensor_bytes(tensor) for tensor in tensors]
    except (LabError, ValueError) as exc:
        raise NotSupported(
            f"These inputs cannot be saved: {exc}",
            hint="Save the graph alone: run.graph.save(path).",
        ) from exc
    specs = [[dtype_name(tensor.dtype), list(tensor.shape)] for tensor in tensors]
    return {"kind": "module", "args": plain[0], "kwargs": plain[1], "tensors": specs}, b"".join(
        data
    )


def inputs_from_plain(plain: dict[str, Any], data: bytes) -> Inputs:
    """The inputs again. Raises `BadBytes`, or what malformed plain data makes Python raise."""
    match plain["kind"]:
        case "tokens":
            return TokenRows(_rows(plain["rows"]))
        case "text":
            return TokenRows(_rows(plain["rows"]), decode_generation(plain["options"]))
        case "module":
            return _module_from_plain(plain, data)
        case "several":
            return Several(tuple(_parts(plain["parts"], data)))
    raise bad_bytes(f"The file's inputs are of the kind {plain['kind']!r}, which is not known.")


def _rows(plain: list[list[Any]]) -> tuple[tuple[int, ...], ...]:
    rows = tuple(tuple(row) for row in plain)
    if not all(type(id) is int for row in rows for id in row):
        raise bad_bytes("The file's token ids are not whole numbers.")
    return rows


def _parts(plain: list[Any], data: bytes) -> Iterator[TokenRows | ModuleInputs]:
    start = 0
    for part, size in plain:
        if type(size) is not int or not 0 <= size <= len(data) - start:
            raise bad_bytes("The file's inputs are larger than its bytes.")
        found = inputs_from_plain(part, data[start : start + size])
        if isinstance(found, Several):
            raise bad_bytes("A session's trace is a session.")
        yield found
        start += size


def _module_from_plain(plain: dict[str, Any], data: bytes) -> ModuleInputs:
    tensors = _tensors(plain["tensors"], data)
    args, kwargs = (
        to_python(from_plain_arg(plain[part], _DEPTH), tensors.__getitem__)
        for part in ("args", "kwargs")
    )
    return ModuleInputs(args, kwargs)


def _tensors(specs: list[Any], data: bytes) -> list[torch.Tensor]:
    found, start = [], 0
    for dtype, shape in specs:
        size = DTYPE_SIZES[dtype]
        for length in shape:
            if type(length) is not int or length < 0:
                raise bad_bytes("The file's tensors have a size that is no whole number.")
            size *= length
        if start + size > len(data):
            raise bad_bytes("The file's tensors are larger than its bytes.")
        found.append(tensor_from_bytes(dtype, tuple(shape), data[start : start + size]))
        start += size
    return found
