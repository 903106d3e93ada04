"""Graphs to bytes and back: a JSON header and raw tensor bytes. Bounded, versioned, no pickle.

    offset 0   b"NNLG"            magic
           4   u16                schema version
           6   u16                zero
           8   u32                length of the header
          12   header             UTF-8 JSON: {"nodes": [...], "outputs": [...], "invokes": [...]}
           …   tensor bytes       one run after another, in the order of the header; a constant
                                  with a `digest` has none here, its tensor comes by itself

Everything is checked before it is believed: sizes before allocation, ids before use, names
against the op table. A reader needs nothing but this file to write its own decoder.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Mapping
from typing import Any

from nnsight_lab.errors import BadBytes, LimitExceeded
from nnsight_lab.ir.constants import ConstantWriter
from nnsight_lab.ir.limits import Limits
from nnsight_lab.ir.literals import TensorData
from nnsight_lab.ir.nodes import Node, has_value
from nnsight_lab.ir.plain_args import bad_bytes
from nnsight_lab.ir.plain_nodes import NodeReader, node_to_plain, whole_number

__all__ = ["SCHEMA", "decode", "encode"]

SCHEMA = 2
_READS = (1, 2)
"""Schemas this version reads. 1 knew one forward pass, one backward pass, and no blocks."""
_MAGIC = b"NNLG"
_FIELDS = {"nodes", "outputs", "invokes"}
_HEAD = struct.Struct("<4sHHI")


def encode(graph: Any, *, sources: bool = True, without: Collection[str] = ()) -> bytes:
    """The bytes of a graph. The same graph always gives the same bytes.

    without: digests of constants that are only named.
    """
    constants = ConstantWriter(without)
    header: dict[str, Any] = {
        "nodes": [node_to_plain(node, constants, sources) for node in graph.nodes],
        "outputs": [[output.name, output.node] for output in graph.outputs],
    }
    if graph.invokes:
        header["invokes"] = list(graph.invokes)
    body = json.dumps(header, separators=(",", ":"), allow_nan=False).encode("ascii")
    return b"".join([_HEAD.pack(_MAGIC, SCHEMA, 0, len(body)), body, *constants.parts])


def decode(
    data: bytes, limits: Limits, blobs: Mapping[str, TensorData] | None = None
) -> tuple[tuple[Node, ...], tuple[tuple[str, int], ...], tuple[int, ...]]:
    """Nodes, outputs and invokes of the graph in `data`. Raises as `Graph.from_bytes` says."""
    header, start = _read_header(data, limits)
    try:
        invokes = tuple(whole_number(rows, 1) for rows in header.get("invokes", []))
        reader = NodeReader(data, start, limits, len(invokes), blobs)
        nodes = reader.nodes(header["nodes"])
        outputs = _outputs(header["outputs"], nodes, reader)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as exc:
        raise bad_bytes(f"The graph's header is malformed ({type(exc).__name__}).") from exc
    if reader.offset != len(data):
        raise bad_bytes(f"{len(data) - reader.offset} bytes follow the end of the graph.")
    return nodes, outputs, invokes


def _outputs(
    plain: list[Any], nodes: tuple[Node, ...], reader: NodeReader
) -> tuple[tuple[str, int], ...]:
    if len(plain) > reader.limits.outputs:
        raise LimitExceeded(f"A graph that saves {len(plain)} values.")
    pairs = tuple((reader.text(name), whole_number(node)) for name, node in plain)
    for name, node in pairs:
        if node >= len(nodes) or not has_value(nodes[node]):
            raise bad_bytes(f"The graph saves {name!r} from %{node}, which has no value.")
    if len({name for name, _ in pairs}) != len(pairs):
        raise bad_bytes("The graph saves two values under one name.")
    return pairs


def _read_header(data: bytes, limits: Limits) -> tuple[dict[str, Any], int]:
    if len(data) > limits.bytes:
        raise LimitExceeded(
            f"A graph of {len(data)} bytes; {limits.bytes} may be sent.",
            hint="Send large constants once, or compute them inside the trace.",
        )
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        raise bad_bytes("These bytes are not a graph.")
    _, version, zero, length = _HEAD.unpack_from(data)
    if version not in _READS or zero:
        raise BadBytes(
            f"The graph has schema {version}; this version reads up to schema {SCHEMA}.",
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
