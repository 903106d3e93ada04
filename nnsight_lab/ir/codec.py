"""Graphs to bytes and back: a JSON header and raw tensor bytes. Bounded, versioned, no pickle.

    offset 0   b"NNLG"            magic
           4   u16                schema version
           6   u16                zero
           8   u32                length of the header
          12   header             UTF-8 JSON: {"nodes": [...], "outputs": [...], "invokes": [...]}
           …   tensor bytes       one run after another, in the order of the header

Everything is checked before it is believed: sizes before allocation, ids before use, names
against the op table. A reader needs nothing but this file to write its own decoder.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from typing import Any

from nnsight_lab.errors import BadBytes, LimitExceeded, OpNotAllowed, SourceLine
from nnsight_lab.ir.address import Address
from nnsight_lab.ir.literals import DTYPE_SIZES, TensorData
from nnsight_lab.ir.nodes import (
    Apply,
    Call,
    Constant,
    Gradient,
    Node,
    Read,
    Weight,
    Write,
    dependencies,
)
from nnsight_lab.ir.ops import is_op, nearest_ops
from nnsight_lab.ir.plain_args import bad_bytes, from_plain_arg, to_plain_arg

__all__ = ["SCHEMA", "Limits", "decode", "encode"]

SCHEMA = 1
_MAGIC = b"NNLG"
_FIELDS = {"nodes", "outputs", "invokes"}
_HEAD = struct.Struct("<4sHHI")


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a graph may be; checked before anything is allocated."""

    bytes: int = 256 * 2**20
    header_bytes: int = 32 * 2**20
    nodes: int = 200_000
    outputs: int = 20_000
    argument_depth: int = 16
    text: int = 4_096
    items: int = 8_000_000


def encode(graph: Any, *, sources: bool = True) -> bytes:
    """The bytes of a graph. The same graph always gives the same bytes."""
    blobs: list[bytes] = []
    header: dict[str, Any] = {
        "nodes": [_node_to_plain(node, blobs, sources) for node in graph.nodes],
        "outputs": [[output.name, output.node] for output in graph.outputs],
    }
    if graph.invokes:
        header["invokes"] = list(graph.invokes)
    body = json.dumps(header, separators=(",", ":"), allow_nan=False).encode("ascii")
    return b"".join([_HEAD.pack(_MAGIC, SCHEMA, 0, len(body)), body, *blobs])


def _node_to_plain(node: Node, blobs: list[bytes], sources: bool) -> dict[str, Any]:
    plain: dict[str, Any]
    match node:
        case Constant(value=value):
            plain = {"kind": "constant", "dtype": value.dtype, "shape": list(value.shape)}
            blobs.append(value.data)
        case Read(address=address, invoke=invoke):
            plain = {"kind": "read", "at": _address_to_plain(address), "invoke": invoke}
        case Write(address=address, value=source, invoke=invoke):
            at = _address_to_plain(address)
            plain = {"kind": "write", "at": at, "value": source, "invoke": invoke}
        case Call(op=op, args=args, kwargs=kwargs):
            plain = {"kind": "call", "op": op, **_args_to_plain(args, kwargs)}
        case Apply(path=path, args=args, kwargs=kwargs):
            plain = {"kind": "apply", "path": path, **_args_to_plain(args, kwargs)}
        case Gradient(of=of, at=at):
            plain = {"kind": "gradient", "of": of, "value": at}
        case Weight(path=path, name=name):
            plain = {"kind": "weight", "path": path, "name": name}
    if sources and node.where is not None:
        plain["where"] = [node.where.file, node.where.line, node.where.cell]
    return plain


def _address_to_plain(address: Address) -> list[Any]:
    return [address.path, address.port, address.call]


def _args_to_plain(args: Any, kwargs: Any) -> dict[str, Any]:
    return {
        "args": [to_plain_arg(arg) for arg in args],
        "kwargs": [[key, to_plain_arg(value)] for key, value in kwargs],
    }


def decode(
    data: bytes, limits: Limits
) -> tuple[tuple[Node, ...], tuple[tuple[str, int], ...], tuple[int, ...]]:
    """Nodes, outputs and invokes of the graph in `data`. Raises as `Graph.from_bytes` says."""
    header, start = _read_header(data, limits)
    try:
        reader = _Reader(data, start, limits)
        plain_nodes = _list(header["nodes"])
        if len(plain_nodes) > limits.nodes:
            raise LimitExceeded(f"A graph of {len(plain_nodes)} nodes; {limits.nodes} may be sent.")
        invokes = tuple(_int(rows, 1) for rows in _list(header.get("invokes", [])))
        reader.invokes = len(invokes)
        nodes = tuple(reader.node(index, plain) for index, plain in enumerate(plain_nodes))
        outputs = reader.outputs(_list(header["outputs"]), nodes)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as exc:
        raise bad_bytes(f"The graph's header is malformed ({type(exc).__name__}).") from exc
    if reader.offset != len(data):
        raise bad_bytes(f"{len(data) - reader.offset} bytes follow the end of the graph.")
    return nodes, outputs, invokes


def _read_header(data: bytes, limits: Limits) -> tuple[dict[str, Any], int]:
    if len(data) > limits.bytes:
        raise LimitExceeded(
            f"A graph of {len(data)} bytes; {limits.bytes} may be sent.",
            hint="Send large constants once, or compute them inside the trace.",
        )
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        raise bad_bytes("These bytes are not a graph.")
    _, version, zero, length = _HEAD.unpack_from(data)
    if version != SCHEMA or zero:
        raise BadBytes(
            f"The graph has schema {version}; this version reads schema {SCHEMA}.",
            hint="Install the same nnsight-lab version on both sides.",
        )
    end = _HEAD.size + length
    if length > limits.header_bytes or end > len(data):
        raise bad_bytes(f"The graph's header claims {length} bytes, which are not there.")
    body = bytes(data[_HEAD.size : end])
    if sum(map(body.count, (b",", b"[", b"{"))) > limits.items:
        raise LimitExceeded("The graph's header holds more items than a graph may have.")
    try:
        header = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise bad_bytes("The graph's header is not JSON.") from exc
    if not isinstance(header, dict) or set(header) | _FIELDS != _FIELDS:
        raise bad_bytes("The graph's header has not the fields of a graph.")
    return header, end


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("expected a list")
    return value


def _int(value: Any, low: int = 0) -> int:
    if type(value) is not int or value < low:
        raise TypeError("expected a whole number")
    return value


class _Reader:
    """Plain header entries to nodes; keeps the place in the tensor bytes."""

    def __init__(self, data: bytes, offset: int, limits: Limits) -> None:
        self.data = data
        self.offset = offset
        self.limits = limits
        self.valueless: set[int] = set()
        self.invokes = 0

    def text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError("expected text")
        if len(value) > self.limits.text:
            raise LimitExceeded(f"A name of {len(value)} characters in a graph.")
        return value

    def address(self, plain: Any) -> Address:
        path, port, call = _list(plain)
        return Address(self.text(path), self.text(port), _int(call))

    def args(self, plain: dict[str, Any]) -> dict[str, Any]:
        depth = self.limits.argument_depth
        args = tuple(from_plain_arg(arg, depth) for arg in _list(plain["args"]))
        pairs = [(self.text(key), value) for key, value in map(_list, _list(plain["kwargs"]))]
        return {
            "args": args,
            "kwargs": tuple((key, from_plain_arg(value, depth)) for key, value in pairs),
        }

    def tensor(self, plain: dict[str, Any]) -> TensorData:
        dtype = self.text(plain["dtype"])
        shape = tuple(_int(size) for size in _list(plain["shape"]))
        if dtype not in DTYPE_SIZES or len(shape) > 64:
            raise bad_bytes(f"A constant of dtype {dtype!r} with {len(shape)} axes in a graph.")
        if prod(max(size, 1) for size in shape) > 2**62:
            raise bad_bytes("A constant has more elements than memory has addresses.")
        end = self.offset + prod(shape) * DTYPE_SIZES[dtype]
        if end > len(self.data):
            raise bad_bytes("A constant claims more bytes than the graph has.")
        data, self.offset = self.data[self.offset : end], end
        return TensorData(dtype, shape, data)

    def where(self, plain: dict[str, Any]) -> SourceLine | None:
        if "where" not in plain:
            return None
        file, line, cell = _list(plain["where"])
        return SourceLine(self.text(file), _int(line), None if cell is None else _int(cell))

    def node(self, id: int, plain: dict[str, Any]) -> Node:
        node = self._node(id, plain)
        for other in dependencies(node):
            if not 0 <= other < id or other in self.valueless:
                raise bad_bytes(f"Node %{id} refers to %{other}, which has no value yet.", node=id)
        if isinstance(node, Write):
            self.valueless.add(id)
        return node

    def _node(self, id: int, plain: dict[str, Any]) -> Node:
        where = self.where(plain)
        match plain["kind"]:
            case "constant":
                return Constant(id=id, value=self.tensor(plain), where=where)
            case "read":
                at = self.address(plain["at"])
                return Read(id=id, address=at, invoke=self.invoke(plain), where=where)
            case "write":
                at, value = self.address(plain["at"]), _int(plain["value"])
                return Write(id=id, address=at, value=value, invoke=self.invoke(plain), where=where)
            case "call":
                op = self.text(plain["op"])
                if not is_op(op):
                    near = ", ".join(nearest_ops(op))
                    hint = f"Nearest allowed: {near}." if near else ""
                    raise OpNotAllowed(f"{op} is not in the op table.", hint=hint, node=id)
                return Call(id=id, op=op, where=where, **self.args(plain))
            case "apply":
                return Apply(id=id, path=self.text(plain["path"]), where=where, **self.args(plain))
            case "gradient":
                of, place = _int(plain["of"]), _int(plain["value"])
                return Gradient(id=id, of=of, at=place, where=where)
            case "weight":
                path, name = self.text(plain["path"]), self.text(plain["name"])
                return Weight(id=id, path=path, name=name, where=where)
            case other:
                raise bad_bytes(f"A node of unknown kind {str(other)[:40]!r}.", node=id)

    def invoke(self, plain: dict[str, Any]) -> int | None:
        invoke = None if plain["invoke"] is None else _int(plain["invoke"])
        if invoke is not None and invoke >= self.invokes:
            raise bad_bytes(f"A node of invoke {invoke} in a graph of {self.invokes} invokes.")
        return invoke

    def outputs(self, plain: list[Any], nodes: tuple[Node, ...]) -> tuple[tuple[str, int], ...]:
        if len(plain) > self.limits.outputs:
            raise LimitExceeded(f"A graph that saves {len(plain)} values.")
        pairs = tuple((self.text(name), _int(node)) for name, node in map(_list, plain))
        for name, node in pairs:
            if node >= len(nodes) or node in self.valueless:
                raise bad_bytes(f"The graph saves {name!r} from %{node}, which has no value.")
        if len({name for name, _ in pairs}) != len(pairs):
            raise bad_bytes("The graph saves two values under one name.")
        return pairs
