"""Conditions and loops of a graph as `if`, `for` and `while`, with their blocks written inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnsight_lab.executors.eject.statements import Statements, Text
from nnsight_lab.ir import Block, Cond, Foreach, Node, Param, While

__all__ = ["control_lines"]

_INDENT = "    "


def control_lines(
    node: Cond | Foreach | While, target: str, text: Text, statements: Statements
) -> list[str]:
    """The lines that give `target` the value of a node with blocks: a tuple."""
    match node:
        case Cond():
            return _cond(node, target, text, statements)
        case Foreach():
            return _foreach(node, target, text, statements)
        case While():
            return _while(node, target, text, statements)


def _cond(node: Cond, target: str, text: Text, statements: Statements) -> list[str]:
    given = [text(id) for id in node.inputs]
    lines = []
    for head, block in ((f"if {text(node.test)}:", node.then), ("else:", node.otherwise)):
        inner, results = _block(block, given, statements)
        lines += [head, *_in([*inner, f"{target} = {_tuple(results)}"])]
    return lines


def _foreach(node: Foreach, target: str, text: Text, statements: Statements) -> list[str]:
    free = statements.names.free
    item, carried = free("item"), [free(f"{text(id)}_now") for id in node.carry]
    made = [free("made") for _ in node.body.results[len(carried) :]]
    given = [item, *carried, *(text(id) for id in node.inputs)]
    inner, results = _block(node.body, given, statements)
    inner += [
        f"{name}.append({one})" for name, one in zip(made, results[len(carried) :], strict=True)
    ]
    inner += _assign(carried, results[: len(carried)])
    lines = _assign(carried, [text(id) for id in node.carry])
    lines += [f"{name} = []" for name in made]
    lines += [f"for {item} in {text(node.over)}:", *_in(inner or ["pass"])]
    return [*lines, f"{target} = {_tuple([*carried, *(f'tuple({name})' for name in made)])}"]


def _while(node: While, target: str, text: Text, statements: Statements) -> list[str]:
    carried = [statements.names.free(f"{text(id)}_now") for id in node.carry]
    given = [*carried, *(text(id) for id in node.inputs)]
    tests, (test,) = _block(node.test, given, statements)
    inner, results = _block(node.body, given, statements)
    body = [*tests, f"if not {test}:", _INDENT + "break", *inner, *_assign(carried, results)]
    return [
        *_assign(carried, [text(id) for id in node.carry]),
        f"for _ in range({node.limit + 1}):",
        *_in(body),
        "else:",
        *_in([f'raise RuntimeError("the loop did not end within {node.limit} times")']),
        f"{target} = {_tuple(carried)}",
    ]


def _block(block: Block, given: list[str], statements: Statements) -> tuple[list[str], list[str]]:
    """The lines of a block, and its results; `given` are the variables it is handed."""
    env: dict[int, str] = {}
    lines: list[str] = []
    for node in block.nodes:
        if isinstance(node, Param):
            env[node.id] = given[node.index]
            continue
        target = statements.names.free(statements.names.plain(node))
        lines += _inner(node, target, env.__getitem__, statements)
        env[node.id] = target
    return lines, [env[id] for id in block.results]


def _inner(node: Node, target: str, text: Text, statements: Statements) -> list[str]:
    if isinstance(node, Cond | Foreach | While):
        return control_lines(node, target, text, statements)
    unknown: Callable[[int], Any] = lambda _: None  # noqa: E731 - shapes in blocks are not known
    return statements.lines(node, target, text, unknown)


def _assign(targets: list[str], values: list[str]) -> list[str]:
    return [f"{', '.join(targets)} = {', '.join(values)}"] if targets else []


def _tuple(parts: list[str]) -> str:
    return f"({', '.join(parts)},)" if len(parts) == 1 else f"({', '.join(parts)})"


def _in(lines: list[str]) -> list[str]:
    return [_INDENT + line for line in lines]
