"""Nodes as plain JSON data and back. What is read may come from anybody, and is checked.

Ids are checked before use, names against the op table, sizes before allocation; a block may hold
pure nodes only. How the plain data becomes bytes is in `codec.py`; arguments are in
`plain_args.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from nnsight_lab.errors import BadBytes, BadSlider, LimitExceeded, OpNotAllowed, SourceLine
from nnsight_lab.ir.address import Address
from nnsight_lab.ir.constants import ConstantWriter
from nnsight_lab.ir.limits import Limits
from nnsight_lab.ir.literals import DTYPE_SIZES, TensorData
from nnsight_lab.ir.nodes import (
    Apply,
    Block,
    Call,
    Cond,
    Constant,
    Foreach,
    Gradient,
    GradientWrite,
    LocalCall,
    Node,
    Param,
    Read,
    Skip,
    SliderRange,
    Weight,
    While,
    Write,
    dependencies,
    has_value,
)
from nnsight_lab.ir.ops import is_op, nearest_ops
from nnsight_lab.ir.plain_args import bad_bytes, from_plain_arg, to_plain_arg
from nnsight_lab.ir.sliders import checked

__all__ = ["NodeReader", "node_to_plain", "whole_number"]


def node_to_plain(node: Node, constants: ConstantWriter, sources: bool) -> dict[str, Any]:
    """A node as JSON-ready data; the elements of its constants go to `constants`."""
    plain = _kind_to_plain(node, constants, sources)
    if sources and node.where is not None:
        plain["where"] = [node.where.file, node.where.line, node.where.cell]
    return plain


def _kind_to_plain(node: Node, constants: ConstantWriter, sources: bool) -> dict[str, Any]:
    match node:
        case Constant(value=value, slider=SliderRange() as may_be):
            limits = [may_be.name, may_be.low, may_be.high, may_be.step]
            return {**constants.plain(value), "slider": limits}
        case Constant(value=value):
            return constants.plain(value)
        case Read(address=address, invoke=invoke, step=step):
            return {"kind": "read", "at": _plain_address(address), "invoke": invoke, "step": step}
        case Write(address=address, value=source, invoke=invoke, step=step):
            at = _plain_address(address)
            return {"kind": "write", "at": at, "value": source, "invoke": invoke, "step": step}
        case Skip(address=address, value=source, step=step):
            return {"kind": "skip", "at": _plain_address(address), "value": source, "step": step}
        case Call(op=op):
            return {"kind": "call", "op": op, **_plain_args(node)}
        case Apply(path=path):
            return {"kind": "apply", "path": path, **_plain_args(node)}
        case LocalCall(function=function):
            return {"kind": "local", "function": function, **_plain_args(node)}
        case Gradient(of=of, at=at, sweep=sweep):
            return {"kind": "gradient", "of": of, "value": at, "sweep": sweep}
        case GradientWrite(of=of, at=at, value=new, sweep=sweep):
            return {"kind": "gradient-write", "of": of, "value": at, "new": new, "sweep": sweep}
        case Weight(path=path, name=name):
            return {"kind": "weight", "path": path, "name": name}
        case Param(index=index):
            return {"kind": "param", "index": index}
        case _:
            return _region_to_plain(node, constants, sources)


def _region_to_plain(
    node: Cond | Foreach | While, constants: ConstantWriter, sources: bool
) -> dict[str, Any]:
    def block(of: Block) -> dict[str, Any]:
        nodes = [node_to_plain(part, constants, sources) for part in of.nodes]
        return {"params": of.params, "nodes": nodes, "results": list(of.results)}

    inputs = list(node.inputs)
    match node:
        case Cond(test=test, then=then, otherwise=otherwise):
            blocks = {"then": block(then), "otherwise": block(otherwise)}
            return {"kind": "cond", "test": test, "inputs": inputs, **blocks}
        case Foreach(over=over, carry=carry, body=body):
            plain = {"kind": "foreach", "over": over, "carry": list(carry), "inputs": inputs}
            return {**plain, "body": block(body)}
        case While(carry=carry, test=check, body=body, limit=limit):
            plain = {"kind": "while", "carry": list(carry), "inputs": inputs, "limit": limit}
            return {**plain, "test": block(check), "body": block(body)}


def _plain_address(address: Address) -> list[Any]:
    return [address.path, address.port, address.call]


def _plain_args(node: Call | Apply | LocalCall) -> dict[str, Any]:
    return {
        "args": [to_plain_arg(arg) for arg in node.args],
        "kwargs": [[key, to_plain_arg(value)] for key, value in node.kwargs],
    }


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("expected a list")
    return value


def whole_number(value: Any, low: int = 0) -> int:
    """A number from untrusted data. Raises `TypeError` unless it is whole and at least `low`."""
    if type(value) is not int or value < low:
        raise TypeError("expected a whole number")
    return value


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(map(whole_number, _list(value)))


_PURE = frozenset("constant call apply local weight param cond foreach while".split())
"""What a block may hold."""


class NodeReader:
    """Plain data to nodes; keeps the place in the tensor bytes that follow the header.

    invokes: how many the graph has. blobs: tensors the graph only names, by digest.
    """

    def __init__(
        self,
        data: bytes,
        offset: int,
        limits: Limits,
        invokes: int = 0,
        blobs: Mapping[str, TensorData] | None = None,
    ) -> None:
        self.data = data
        self.offset = offset
        self.limits = limits
        self.invokes = invokes
        self._blobs = blobs or {}
        self._count = 0

    def nodes(self, plain_nodes: Any, depth: int = 0) -> tuple[Node, ...]:
        """The nodes of a graph, or of a block `depth` deep."""
        self._count += len(_list(plain_nodes))
        if self._count > self.limits.nodes:
            raise LimitExceeded(f"A graph of {self._count} nodes; {self.limits.nodes} may be sent.")
        found: list[Node] = []
        for id, plain in enumerate(plain_nodes):
            if (plain["kind"] not in _PURE) if depth else (plain["kind"] == "param"):
                raise bad_bytes(f"A node of kind {str(plain['kind'])[:40]!r} out of place.")
            node = self._node(id, plain, depth)
            for other in dependencies(node):
                if not 0 <= other < id or not has_value(found[other]):
                    raise bad_bytes(
                        f"Node %{id} refers to %{other}, which has no value yet.", node=id
                    )
            found.append(node)
        return tuple(found)

    def text(self, value: Any) -> str:
        """A name of bounded length."""
        if not isinstance(value, str):
            raise TypeError("expected text")
        if len(value) > self.limits.text:
            raise LimitExceeded(f"A name of {len(value)} characters in a graph.")
        return value

    def _address(self, plain: Any) -> Address:
        path, port, call = _list(plain)
        return Address(self.text(path), self.text(port), whole_number(call))

    def _args(self, plain: dict[str, Any]) -> dict[str, Any]:
        depth = self.limits.argument_depth
        args = tuple(from_plain_arg(arg, depth) for arg in _list(plain["args"]))
        pairs = [(self.text(key), value) for key, value in map(_list, _list(plain["kwargs"]))]
        kwargs = tuple((key, from_plain_arg(value, depth)) for key, value in pairs)
        return {"args": args, "kwargs": kwargs}

    def _tensor(self, plain: dict[str, Any]) -> TensorData:
        dtype = self.text(plain["dtype"])
        shape = _numbers(plain["shape"])
        if dtype not in DTYPE_SIZES or len(shape) > 64:
            raise bad_bytes(f"A constant of dtype {dtype!r} with {len(shape)} axes in a graph.")
        if prod(max(size, 1) for size in shape) > 2**62:
            raise bad_bytes("A constant has more elements than memory has addresses.")
        if "digest" in plain:
            return self._named(self.text(plain["digest"]), dtype, shape)
        end = self.offset + prod(shape) * DTYPE_SIZES[dtype]
        if end > len(self.data):
            raise bad_bytes("A constant claims more bytes than the graph has.")
        data, self.offset = self.data[self.offset : end], end
        return TensorData(dtype, shape, data)

    def _named(self, digest: str, dtype: str, shape: tuple[int, ...]) -> TensorData:
        found = self._blobs.get(digest)
        if found is None:
            raise BadBytes(
                f"The graph names a constant {digest[:8]!r} that did not come with it.",
                hint="Save a graph to a file with graph.to_bytes(), which holds all of it.",
            )
        if (found.dtype, found.shape) != (dtype, shape):
            raise bad_bytes("A constant of the graph is not the tensor its digest names.")
        return found

    def _where(self, plain: dict[str, Any]) -> SourceLine | None:
        if "where" not in plain:
            return None
        file, line, cell = _list(plain["where"])
        number = None if cell is None else whole_number(cell)
        return SourceLine(self.text(file), whole_number(line), number)

    def _node(self, id: int, plain: dict[str, Any], depth: int) -> Node:
        where = self._where(plain)
        match plain["kind"]:
            case "constant" if "slider" in plain:
                return self._slider(id, plain, where)
            case "constant":
                return Constant(id=id, value=self._tensor(plain), where=where)
            case "read" | "write" | "skip":
                return self._place(id, plain, where)
            case "call":
                op = self.text(plain["op"])
                if not is_op(op):
                    near = ", ".join(nearest_ops(op))
                    hint = f"Nearest allowed: {near}." if near else ""
                    raise OpNotAllowed(f"{op} is not in the op table.", hint=hint, node=id)
                return Call(id=id, op=op, where=where, **self._args(plain))
            case "apply":
                return Apply(id=id, path=self.text(plain["path"]), where=where, **self._args(plain))
            case "local":
                name = self.text(plain["function"])
                return LocalCall(id=id, function=name, where=where, **self._args(plain))
            case "gradient" | "gradient-write":
                return self._gradient(id, plain, where)
            case "weight":
                path, name = self.text(plain["path"]), self.text(plain["name"])
                return Weight(id=id, path=path, name=name, where=where)
            case "param":
                return Param(id=id, index=whole_number(plain["index"]), where=where)
            case "cond" | "foreach" | "while":
                return self._region(id, plain, where, depth + 1)
            case other:
                raise bad_bytes(f"A node of unknown kind {str(other)[:40]!r}.", node=id)

    def _slider(self, id: int, plain: dict[str, Any], where: SourceLine | None) -> Constant:
        name, *numbers = _list(plain["slider"])
        low, high, step = numbers
        if any(type(number) not in (int, float) for number in (low, high)) or (
            type(step) not in (int, float, type(None))
        ):
            raise TypeError("expected numbers")
        may_be = SliderRange(self.text(name), low, high, step)
        try:
            return replace(checked(may_be, self._tensor(plain)), id=id, where=where)
        except BadSlider as exc:
            exc.node = id
            raise exc.at(where)

    def _place(
        self, id: int, plain: dict[str, Any], where: SourceLine | None
    ) -> Read | Write | Skip:
        at, step = self._address(plain["at"]), whole_number(plain.get("step", 0))
        if plain["kind"] == "read":
            return Read(id=id, address=at, invoke=self._invoke(plain), step=step, where=where)
        new = whole_number(plain["value"])
        if plain["kind"] == "skip":
            return Skip(id=id, address=at, value=new, step=step, where=where)
        invoke = self._invoke(plain)
        return Write(id=id, address=at, value=new, invoke=invoke, step=step, where=where)

    def _invoke(self, plain: dict[str, Any]) -> int | None:
        invoke = None if plain["invoke"] is None else whole_number(plain["invoke"])
        if invoke is not None and invoke >= self.invokes:
            raise bad_bytes(f"A node of invoke {invoke} in a graph of {self.invokes} invokes.")
        return invoke

    def _gradient(
        self, id: int, plain: dict[str, Any], where: SourceLine | None
    ) -> Gradient | GradientWrite:
        of, at = whole_number(plain["of"]), whole_number(plain["value"])
        sweep = whole_number(plain.get("sweep", 0))
        if plain["kind"] == "gradient":
            return Gradient(id=id, of=of, at=at, sweep=sweep, where=where)
        new = whole_number(plain["new"])
        return GradientWrite(id=id, of=of, at=at, value=new, sweep=sweep, where=where)

    def _region(
        self, id: int, plain: dict[str, Any], where: SourceLine | None, depth: int
    ) -> Cond | Foreach | While:
        if depth > self.limits.block_depth:
            raise LimitExceeded(f"Blocks in a graph nested {depth} deep.")
        inputs = _numbers(plain["inputs"])
        if plain["kind"] == "cond":
            given = len(inputs)
            then = self._block(plain["then"], given, depth)
            otherwise = self._block(plain["otherwise"], given, depth)
            if len(then.results) != len(otherwise.results):
                raise bad_bytes(f"The two blocks of %{id} give different numbers of values.")
            test = whole_number(plain["test"])
            return Cond(
                id=id, test=test, inputs=inputs, then=then, otherwise=otherwise, where=where
            )
        carry = _numbers(plain["carry"])
        given = len(carry) + len(inputs)
        if plain["kind"] == "foreach":
            body = self._block(plain["body"], given + 1, depth)
            over = whole_number(plain["over"])
            kept = len(body.results) >= len(carry)
            node: Foreach | While = Foreach(
                id=id, over=over, carry=carry, inputs=inputs, body=body, where=where
            )
        else:
            # In the order they are written: their constants lie behind the header one by one.
            test_of, body = (self._block(plain[part], given, depth) for part in ("test", "body"))
            limit = whole_number(plain["limit"], 1)
            kept = len(body.results) == len(carry) and len(test_of.results) == 1
            node = While(
                id=id, carry=carry, inputs=inputs, test=test_of, body=body, limit=limit, where=where
            )
        if not kept:
            raise bad_bytes(f"The block of %{id} does not give back what it carries.")
        return node

    def _block(self, plain: Any, given: int, depth: int) -> Block:
        params = whole_number(plain["params"])
        nodes = self.nodes(plain["nodes"], depth)
        results = _numbers(plain["results"])
        indices = [node.index for node in nodes if isinstance(node, Param)]
        if params != given or any(index >= params for index in indices):
            raise bad_bytes("A block in the graph is not given what it takes.")
        if any(result >= len(nodes) for result in results):
            raise bad_bytes("A block in the graph gives back what it does not make.")
        return Block(params, nodes, results)
