"""Blocks, skips, backward passes and steps as data: text, bytes and back, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from nnsight_lab.errors import BadBytes, LimitExceeded
from nnsight_lab.ir import (
    Address,
    Block,
    Call,
    Cond,
    Constant,
    Foreach,
    Gradient,
    GradientWrite,
    Graph,
    Limits,
    LocalCall,
    Output,
    Param,
    Read,
    Ref,
    Skip,
    TensorData,
    While,
)

_H = Address("layers.0")
_DOUBLE = Block(1, (Param(id=0, index=0), Call(id=1, op="Tensor.add", args=(Ref(0), Ref(0)))), (1,))
_SAME = Block(1, (Param(id=0, index=0),), (0,))
_POSITIVE = Block(1, (Param(id=0, index=0), Call(id=1, op="Tensor.any", args=(Ref(0),))), (1,))
_STEP = Block(2, (Param(id=0, index=0), Param(id=1, index=1)), (1, 0))


def _graph() -> Graph:
    return Graph(
        (
            Read(id=0, address=_H, step=3),
            Call(id=1, op="Tensor.any", args=(Ref(0),)),
            Cond(id=2, test=1, inputs=(0,), then=_DOUBLE, otherwise=_SAME),
            Foreach(id=3, over=0, carry=(0,), inputs=(), body=_STEP),
            While(id=4, carry=(0,), inputs=(), test=_POSITIVE, body=_DOUBLE, limit=7),
            Skip(id=5, address=Address("layers.1.mlp"), value=0, step=3),
            Gradient(id=6, of=1, at=0, sweep=1),
            GradientWrite(id=7, of=1, at=0, value=6, sweep=1),
            LocalCall(id=8, function="f", args=(Ref(0),)),
        ),
        (Output("out", 2),),
    )


def test_constants_of_all_blocks_keep_their_places() -> None:
    """Their bytes lie one after another behind the header, in the order of the blocks."""

    def block(number: int, params: int) -> Block:
        given = tuple(Param(id=place, index=place) for place in range(params))
        constant = Constant(id=params, value=TensorData("uint8", (1,), bytes([number])))
        return Block(params, (*given, constant), (params,))

    graph = Graph(
        (
            Read(id=0, address=_H),
            Cond(id=1, test=0, inputs=(0,), then=block(1, 1), otherwise=block(2, 1)),
            Foreach(id=2, over=0, carry=(0,), inputs=(), body=block(3, 2)),
            While(id=3, carry=(0,), inputs=(), test=block(4, 1), body=block(5, 1), limit=7),
        )
    )
    assert Graph.from_bytes(graph.to_bytes()).nodes == graph.nodes


def test_every_kind_of_node_reads_as_a_line_and_blocks_are_indented() -> None:
    assert str(_graph()).splitlines() == [
        "graph, schema 2",
        "  %0 = read layers.0.output at step 3",
        "  %1 = Tensor.any(%0)",
        "  %2 = if %1 given (%0)",
        "       then",
        "         %0 = given 0",
        "         %1 = Tensor.add(%0, %0)",
        "         give (%1)",
        "       else",
        "         %0 = given 0",
        "         give (%0)",
        "  %3 = for each of %0 carry (%0) given ()",
        "       do",
        "         %0 = given 0",
        "         %1 = given 1",
        "         give (%1, %0)",
        "  %4 = while carry (%0) given () at most 7",
        "       as long as",
        "         %0 = given 0",
        "         %1 = Tensor.any(%0)",
        "         give (%1)",
        "       do",
        "         %0 = given 0",
        "         %1 = Tensor.add(%0, %0)",
        "         give (%1)",
        "       skip layers.1.mlp at step 3 <- %0",
        "  %6 = gradient of %1 at %0 in backward 1",
        "       gradient of %1 at %0 in backward 1 <- %6",
        "  %8 = local f(%0)",
        "save out = %2",
    ]


def test_bytes_give_the_same_graph_back() -> None:
    graph = _graph()
    assert Graph.from_bytes(graph.to_bytes()).nodes == graph.nodes


def test_ids_close_up_when_nodes_are_dropped() -> None:
    graph = _graph().renumbered([0, 1, 2])
    assert graph.nodes[2] == _graph().nodes[2]
    moved = Graph(
        (Read(id=0, address=_H), Read(id=1, address=_H), *_graph().nodes[:0]), ()
    ).renumbered([1])
    assert [node.id for node in moved] == [0]


def _changed(change: Any) -> bytes:
    data = _graph().to_bytes()
    (length,) = struct.unpack_from("<I", data, 8)
    header = json.loads(data[12 : 12 + length])
    change(header["nodes"])
    body = json.dumps(header).encode()
    return data[:8] + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "change",
    [
        lambda nodes: nodes[2]["then"]["nodes"].append(nodes[0]),
        lambda nodes: nodes[2]["then"].update(results=[9]),
        lambda nodes: nodes[2]["then"].update(results=[]),
        lambda nodes: nodes[2]["then"].update(params=3),
        lambda nodes: nodes[2]["then"]["nodes"][0].update(index=1),
        lambda nodes: nodes[3]["body"].update(results=[]),
        lambda nodes: nodes[4].update(limit=0),
        lambda nodes: nodes[4]["test"].update(results=[0, 0]),
        lambda nodes: nodes[0].update(step=-1),
        lambda nodes: nodes[6].update(value=5),
        lambda nodes: nodes.append({"kind": "param", "index": 0}),
    ],
)
def test_a_block_that_does_not_hold_together_is_refused(change: Any) -> None:
    with pytest.raises(BadBytes):
        Graph.from_bytes(_changed(change))


def test_blocks_count_against_the_limits() -> None:
    data = _graph().to_bytes()
    with pytest.raises(LimitExceeded):
        Graph.from_bytes(data, limits=Limits(nodes=12))
    with pytest.raises(LimitExceeded):
        Graph.from_bytes(data, limits=Limits(block_depth=0))


def test_a_graph_of_an_older_schema_still_loads() -> None:
    old = (Path(__file__).parent / "graphs" / "schema-1.nnlg").read_bytes()
    assert old[4] == 1
    graph = Graph.from_bytes(old)
    assert [output.name for output in graph.outputs] == ["w", "logits", "g", "k"]
    assert graph.invokes == (1, 1)
    assert all(node.step == 0 for node in graph.reads())
    assert Graph.from_bytes(graph.to_bytes()) == graph
