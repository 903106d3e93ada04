"""A graph without its large constants is small, and is the same graph once they are back."""

from __future__ import annotations

import json

import pytest

from nnsight_lab.errors import BadBytes
from nnsight_lab.ir import (
    Address,
    Block,
    Call,
    Cond,
    Constant,
    Graph,
    Output,
    Read,
    Ref,
    TensorData,
)

LARGE = TensorData("float32", (200, 100), bytes(range(250)) * 320)
SMALL = TensorData("uint8", (3,), b"abc")


def graph(*constants: TensorData) -> Graph:
    """Constants by themselves, and the first once more inside a block."""
    nodes = [Constant(id=id, value=value) for id, value in enumerate(constants)]
    block = Block(0, (Constant(id=0, value=constants[0]),), (0,))
    read = Read(id=len(nodes), address=Address("a"))
    cond = Cond(id=len(nodes) + 1, test=read.id, inputs=(), then=block, otherwise=block)
    last = Call(id=cond.id + 1, op="torch.neg", args=(Ref(0),))
    return Graph((*nodes, read, cond, last), (Output("x", last.id),))


def test_large_constants_are_named_small_ones_are_not() -> None:
    assert dict(graph(LARGE, SMALL, LARGE).large_constants) == {LARGE.digest: LARGE}
    assert dict(graph(SMALL).large_constants) == {}


def test_a_graph_without_its_large_constants_is_small() -> None:
    whole = graph(LARGE, SMALL, LARGE)

    named = whole.to_bytes(without=whole.large_constants)

    assert len(whole.to_bytes()) > 4 * len(LARGE.data)
    assert len(named) < 2_000
    assert named.endswith(b"abc")
    assert Graph.from_bytes(named, blobs=whole.large_constants) == whole
    assert Graph.from_bytes(whole.to_bytes()) == whole


def test_a_graph_whose_constants_did_not_come_is_refused() -> None:
    whole = graph(LARGE)
    named = whole.to_bytes(without=whole.large_constants)

    for blobs in (None, {}, {SMALL.digest: SMALL}):
        with pytest.raises(BadBytes) as refused:
            Graph.from_bytes(named, blobs=blobs)
        assert refused.value.hint


def test_a_digest_stands_for_one_dtype_and_shape() -> None:
    whole = graph(LARGE)
    named = whole.to_bytes(without=whole.large_constants)
    assert b"[200,100]" in named

    with pytest.raises(BadBytes):
        Graph.from_bytes(named.replace(b"[200,100]", b"[100,200]"), blobs=whole.large_constants)


@pytest.mark.parametrize("digest", [7, None, ["a"], "x" * 10_000, ""])
def test_a_digest_that_is_none_is_refused(digest: object) -> None:
    header = {"kind": "constant", "dtype": "uint8", "shape": [3], "digest": digest}
    body = json.dumps({"nodes": [header], "outputs": []}).encode()
    head = graph(SMALL).to_bytes()[:8] + len(body).to_bytes(4, "little")

    with pytest.raises(Exception, match=r".") as refused:
        Graph.from_bytes(head + body, blobs={LARGE.digest: LARGE})
    assert getattr(refused.value, "code", None) in {"bad-bytes", "limit-exceeded"}


def test_two_graphs_that_differ_in_a_large_constant_differ() -> None:
    other = TensorData(LARGE.dtype, LARGE.shape, LARGE.data[:-1] + b"\x07")

    assert graph(LARGE) != graph(other)
    assert graph(LARGE) == graph(TensorData(LARGE.dtype, LARGE.shape, bytes(LARGE.data)))
