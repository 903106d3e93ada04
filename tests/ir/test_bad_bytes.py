"""Bytes from anybody: a graph or a typed error, quickly, without running out of anything."""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
from typing import Any

import pytest

from nnsight_lab import errors
from nnsight_lab.errors import LabError
from nnsight_lab.ir import Address, Call, Graph, Limits, Output, Read, Ref
from tests.support.graphs import many_kinds

GOOD = many_kinds().to_bytes()


def _with_header(header: Any, tail: bytes = b"", *, version: int = 1) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return b"NNLG" + struct.pack("<HHI", version, 0, len(text)) + text + tail


def _one(node: dict[str, Any], outputs: Any = ()) -> bytes:
    read = {"kind": "read", "at": ["a", "output", 0], "invoke": None}
    return _with_header({"nodes": [read, node], "outputs": list(outputs)})


def _call(*args: Any, op: Any = "torch.add", kwargs: Any = ()) -> bytes:
    return _one({"kind": "call", "op": op, "args": list(args), "kwargs": list(kwargs)})


def _constant(dtype: Any, shape: Any) -> bytes:
    return _one({"kind": "constant", "dtype": dtype, "shape": shape})


BAD: dict[str, bytes] = {
    "nothing": b"", "one byte": b"N", "another magic": b"PK\x03\x04" + GOOD[4:],
    "cut in the head": GOOD[:9], "cut in the header": GOOD[:40], "cut in a tensor": GOOD[:-1],
    "more than a graph": GOOD + b"\0", "another schema": GOOD[:4] + b"\x63\0" + GOOD[6:],
    "a pickle": b"\x80\x04\x95", "a long header that is not there": GOOD[:8] + b"\xff\xff\xff\x7f",
    "no JSON": _with_header(b"{nodes"), "no UTF-8": _with_header(b"\xff\xfe"),
    "a list": _with_header([]), "no outputs": _with_header({"nodes": []}),
    "more fields": _with_header({"nodes": [], "outputs": [], "code": "import os"}),
    "nodes as text": _with_header({"nodes": "abc", "outputs": []}),
    "a node as text": _with_header({"nodes": ["abc"], "outputs": []}),
    "a node as a number": _with_header({"nodes": [7], "outputs": []}),
    "no kind": _one({"op": "torch.add"}), "an unknown kind": _one({"kind": "exec"}),
    "a kind as a list": _one({"kind": ["call"]}), "NaN": _with_header(b'{"nodes":[NaN],"outputs":[]}'),
    "a reference to itself": _call(["r", 1]), "to the future": _call(["r", 9]),
    "to before the start": _call(["r", -1]), "as a truth": _call(["r", True]),
    "as a fraction": _call(["r", 0.0]), "an unknown tag": _call(["x", 1]), "no tag": _call([]),
    "a bare dict": _call({"a": 1}), "a tag as a list": _call([["r"], 1]),
    "an unknown special": _call(["f", "huge"]), "a huge float": _with_header(
        b'{"nodes":[{"kind":"call","op":"torch.add","args":[1e999],"kwargs":[]}],"outputs":[]}'),
    "a number beyond 64 bits": _call(2**64), "a slice of two": _call(["s", 1, 2]),
    "a complex word": _call(["c", "1", 2]), "a dict without pairs": _call(["d", [1]]),
    "a number as a key": _call(["d", [1, 2]]), "a name of no kind": _call(["n", "module", "os"]),
    "a device": _call(["n", "device", "cuda"]), "kwargs as a dict": _one(
        {"kind": "call", "op": "torch.add", "args": [], "kwargs": {"a": 1}}),
    "an op as a number": _call(op=5), "an unknown dtype": _constant("object", []),
    "a negative axis": _constant("float32", [-1]), "an axis as text": _constant("float32", ["2"]),
    "a constant without bytes": _constant("float32", [2]),
    "more elements than atoms": _constant("float32", [2**40, 2**40, 2**40]),
    "empty, yet endless": _constant("float32", [0, 2**63]),
    "many axes": _constant("float32", [1] * 65), "a huge axis": _constant("int8", [2**62]),
    "an address of two": _one({"kind": "read", "at": ["a", "output"], "invoke": None}),
    "a negative call": _one({"kind": "read", "at": ["a", "output", -1], "invoke": None}),
    "an invoke as text": _one({"kind": "read", "at": ["a", "output", 0], "invoke": "0"}),
    "no invoke": _one({"kind": "read", "at": ["a", "output", 0]}),
    "a write of nothing": _one({"kind": "write", "at": ["a", "output", 0], "value": 5,
                                "invoke": None}),
    "an output of nothing": _one({"kind": "weight", "path": "", "name": ""}, [["x", 2]]),
    "an output of a write": _one({"kind": "write", "at": ["a", "output", 0], "value": 0,
                                  "invoke": None}, [["x", 1]]),
    "two outputs of one name": _one({"kind": "weight", "path": "", "name": ""},
                                    [["x", 0], ["x", 1]]),
    "an output as text": _one({"kind": "weight", "path": "", "name": ""}, ["x0"]),
    "a line of two": _one({"kind": "weight", "path": "", "name": "", "where": ["f", 1]}),
    "a line before the first": _one({"kind": "weight", "path": "", "name": "",
                                     "where": ["f", -1, None]}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bytes_that_are_not_a_graph_are_bad_bytes(name: str) -> None:
    with pytest.raises(errors.BadBytes) as caught:
        Graph.from_bytes(BAD[name])
    assert caught.value.code == "bad-bytes"
    assert caught.value.hint


@pytest.mark.parametrize("op", [
    "os.system", "builtins.eval", "torch.load", "Tensor.__reduce_ex__", "torch.Tensor.add", "",
    "__import__", "torch.rand_like", "lab.anything",
])  # fmt: skip
def test_an_operation_outside_the_table_is_not_allowed(op: str) -> None:
    with pytest.raises(errors.OpNotAllowed):
        Graph.from_bytes(_call(op=op))


def _nested(depth: int) -> bytes:
    return b'{"nodes":[{"kind":"call","op":"torch.add","args":[' + b'["t",' * depth + b"1" + (
        b"]" * depth + b'],"kwargs":[]}],"outputs":[]}'
    )  # fmt: skip


LARGE: dict[str, bytes] = {
    "nested a little too deep": _with_header(_nested(20)),
    "long text": _call("x" * 5_000), "a long name": _call(op="x" * 5_000),
    "too many nodes": _with_header({"nodes": [0] * 200_001, "outputs": []}),
    "too many outputs": _with_header({"nodes": [], "outputs": [0] * 20_001}),
    "too many items": _with_header(b"[" + b"[]," * 5_000_000 + b"[]]"),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_what_is_larger_than_the_limits_is_refused(name: str) -> None:
    with pytest.raises(errors.LimitExceeded) as caught:
        Graph.from_bytes(LARGE[name])
    assert caught.value.code == "limit-exceeded"


def test_limits_are_the_readers_choice() -> None:
    for limits in (Limits(nodes=3), Limits(bytes=50), Limits(outputs=1), Limits(text=3),
                   Limits(argument_depth=1), Limits(items=10)):  # fmt: skip
        with pytest.raises(errors.LimitExceeded):
            Graph.from_bytes(GOOD, limits=limits)
    with pytest.raises(errors.LabError):
        Graph.from_bytes(GOOD, limits=Limits(header_bytes=20))


@pytest.mark.parametrize("depth", [500, 100_000, 2_000_000])
def test_a_nesting_bomb_is_an_error_not_a_crash(depth: int) -> None:
    with pytest.raises((errors.BadBytes, errors.LimitExceeded)):
        Graph.from_bytes(_with_header(_nested(depth)))


def _mutated(draw: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut, repeated or exchanged; lengths sometimes put right again."""
    body = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place, kind = draw.randrange(len(body)), draw.randrange(6)
        if kind == 0:
            body[place] = draw.randrange(256)
        elif kind == 1:
            del body[place : place + draw.randint(1, 8)]
        elif kind == 2:
            body[place:place] = bytes(draw.choices(b'[]{}",:0123456789eE.-truefalsn', k=3))
        elif kind == 3:
            body[place] = draw.choice(b"0123456789")
        elif kind == 4:
            other = draw.randrange(len(body))
            body[place : place + 5], body[other : other + 5] = (
                body[other : other + 5], body[place : place + 5],
            )  # fmt: skip
        else:
            body[place:place] = body[place : place + 20]
        if not body:
            return b""
    if draw.random() < 0.8 and len(body) > 24:
        body[:8] = data[:8]
        body[8:12] = struct.pack("<I", max(len(body) - 12 - 12, 0))
    return bytes(body)


def test_mutated_graphs_give_graphs_or_typed_errors_quickly() -> None:
    """Three thousand damaged graphs; none crashes, hangs, or asks for much memory."""
    draw = random.Random(20)
    kinds: dict[str, int] = {}
    tracemalloc.start()
    begun = time.perf_counter()
    for _ in range(3_000):
        data = _mutated(draw, GOOD)
        try:
            graph = Graph.from_bytes(data)
        except LabError as exc:
            kinds[exc.code] = kinds.get(exc.code, 0) + 1
        else:
            kinds["a graph"] = kinds.get("a graph", 0) + 1
            assert Graph.from_bytes(graph.to_bytes()) == graph
            assert str(graph)
    seconds = time.perf_counter() - begun
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 30
    assert peak < 20 * 2**20
    assert kinds["bad-bytes"] > 500
    assert kinds["a graph"] > 50
    assert set(kinds) <= {"bad-bytes", "op-not-allowed", "limit-exceeded", "a graph"}


def test_a_chain_of_a_hundred_thousand_nodes_travels() -> None:
    """Long is not deep: no recursion anywhere from text to bytes and back."""
    calls = [Call(id=id, op="Tensor.add", args=(Ref(id - 1), 1)) for id in range(1, 100_000)]
    graph = Graph((Read(id=0, address=Address("a")), *calls), (Output("x", 99_999),))
    back = Graph.from_bytes(graph.to_bytes())
    assert back == graph
    assert str(back).count("\n") == 100_001
    assert back.renumbered(range(100_000)) == graph


def test_a_reader_may_hand_over_any_buffer() -> None:
    assert Graph.from_bytes(bytes(memoryview(GOOD))) == many_kinds()
