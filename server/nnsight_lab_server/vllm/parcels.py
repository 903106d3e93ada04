"""Messages of a worker as parts that cross a socket, and back.

A line of JSON, then the bytes of its tensors. A large tensor is a file in shared memory, and only its
name crosses. Nothing here knows a socket, and nothing that arrives is turned into code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import torch

from nnsight_lab.errors import LabError, NotSupported
from nnsight_lab.ir import TensorData
from nnsight_lab.ir.literals import DTYPE_SIZES, Arg
from nnsight_lab.ir.plain_args import from_plain_arg, to_plain_arg
from nnsight_lab.kernels.tensors import dtype_name
from nnsight_lab.wire import Value
from nnsight_lab.wire.plain import parse, write
from nnsight_lab_server.values import taken_apart
from nnsight_lab_server.vllm.messages import Done, Failed, Message, Saved, Submit, Token

__all__ = ["INLINE_BYTES", "decode", "encode"]

INLINE_BYTES = 256 * 1024
"""Tensors of more bytes are files."""
_DEPTH = 64

Parts: TypeAlias = list[Any]
"""Bytes, or whatever can be read as bytes."""
_Tensor: TypeAlias = tuple[str, tuple[int, ...], bytes | memoryview]


def encode(message: Message, folder: Path | None) -> Parts:
    """The parts of a message; large tensors go to files of `folder`, if there is one.

    Raises:
        NotSupported: a value holds something that does not travel.
    """
    match message:
        case Saved(run, name, value):
            return _encode_saved(run, name, value, folder)
        case Token(run, step, ids):
            plain: dict[str, Any] = {"step": step, "ids": list(ids)}
        case Submit(run, part, rows):
            plain = {"part": part, "rows": [[row, again, list(ids)] for row, again, ids in rows]}
        case Failed(run, error):
            plain = {"error": error.to_plain()}
        case Done(run, steps, ended):
            plain = {"steps": steps, "ended": ended}
    return [write({"kind": type(message).__name__, "run": run, **plain}).encode()]


def decode(parts: Sequence[Any]) -> Message:
    """The message that parts hold. Files it names are read, and are gone afterwards."""
    plain = parse(bytes(parts[0]))
    run: str = plain["run"]
    match plain["kind"]:
        case "Saved":
            structure = from_plain_arg(plain["structure"], _DEPTH)
            tensors = tuple(_tensor(head, parts) for head in plain["tensors"])
            return Saved(run, plain["name"], Value(structure, tensors))
        case "Token":
            return Token(run, plain["step"], tuple(plain["ids"]))
        case "Submit":
            rows = tuple((row, again, tuple(ids)) for row, again, ids in plain["rows"])
            return Submit(run, plain["part"], rows)
        case "Failed":
            return Failed(run, LabError.from_plain(plain["error"]))
        case _:
            return Done(run, plain["steps"], plain["ended"])


def _encode_saved(run: str, name: str, value: Any, folder: Path | None) -> Parts:
    structure, tensors = _taken_apart(name, value)
    heads: list[dict[str, Any]] = []
    parts: Parts = [b""]
    for dtype, shape, held in tensors:
        head: dict[str, Any] = {"dtype": dtype, "shape": list(shape)}
        if folder is not None and len(held) > INLINE_BYTES:
            head["file"] = str(_file(folder, held))
        else:
            head["part"] = len(parts)
            parts.append(held)
        heads.append(head)
    plain = {"kind": "Saved", "run": run, "name": name}
    parts[0] = write({**plain, "structure": to_plain_arg(structure), "tensors": heads}).encode()
    return parts


def _taken_apart(name: str, value: Any) -> tuple[Arg, list[_Tensor]]:
    if isinstance(value, Value):
        return value.structure, [(data.dtype, data.shape, data.data) for data in value.tensors]
    structure, tensors = taken_apart(name, value)
    return structure, [_as_bytes(name, tensor) for tensor in tensors]


def _as_bytes(name: str, tensor: torch.Tensor) -> _Tensor:
    dtype = dtype_name(tensor.dtype)
    if dtype not in DTYPE_SIZES or tensor.layout is not torch.strided:
        raise NotSupported(
            f"{name!r} cannot be sent: a {tensor.layout} tensor of dtype {dtype}.",
            hint="Save it as a dense tensor of a common dtype: .to_dense(), .float().",
        )
    return dtype, tuple(tensor.shape), _memory(tensor)


def _memory(tensor: torch.Tensor) -> memoryview:
    """The elements of a tensor row by row, copied only where they do not lie so already."""
    plain = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
    if plain.numel() == 0:
        return memoryview(b"")
    held: Any = plain.reshape(-1).view(torch.uint8).numpy()
    return memoryview(held)


def _file(folder: Path, held: bytes | memoryview) -> Path:
    path = folder / uuid4().hex
    try:
        path.write_bytes(held)  # in a folder that nobody else may enter
    except OSError:
        path.unlink(missing_ok=True)  # half a file would keep the memory that was short
        raise
    return path


def _tensor(head: dict[str, Any], parts: Sequence[Any]) -> TensorData:
    if "file" in head:
        path = Path(head["file"])
        data = path.read_bytes()
        path.unlink()
    else:
        data = bytes(parts[head["part"]])
    return TensorData(head["dtype"], tuple(head["shape"]), data)
