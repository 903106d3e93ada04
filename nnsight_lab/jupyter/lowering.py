"""A cell's `if`, `for`, `while` and comprehensions, made so that they also work on recorded values.

Python asks a test for its truth, and a recorded value has none yet. So each of these statements is
rewritten to ask `flow.py` first: where the test or the iterable is plain Python, plain Python
happens; where it is recorded, the statement becomes part of the graph.

    if t: A                     for b in flow.branches(t):
    else: B                         if b: A
                                    else: B

    for x in xs: A              for x in flow.items(xs): A

    while t: A                  for w in flow.turns():
                                    w.test(t)
                                    if w.goes_on: A

Statements with a `break` or `continue` that an added loop would catch stay as they are, and so
does all code inside functions, classes and lambdas. Lines keep their numbers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

__all__ = ["FLOW", "lower"]

FLOW = "the flow of this cell"
"""The name that `flow.py` has in the cell; with spaces, so that no variable can have it."""

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_STAYS = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
_COMPARED = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
    ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip


def lower(tree: ast.Module) -> ast.Module:
    """The same cell with its choices and loops asking first."""
    lowered = _Lowering().visit(tree)
    assert isinstance(lowered, ast.Module), "a module stays one"
    return ast.fix_missing_locations(lowered)


def _within(node: ast.AST, stop: tuple[type, ...]) -> Iterator[ast.AST]:
    """A node and all below it, not below nodes of these kinds."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, stop):
            yield from _within(child, stop)


def _jumps(body: list[ast.stmt]) -> bool:
    """Whether statements hold a `break` or `continue` of the loop around them."""
    found = (part for node in body if not isinstance(node, _SCOPES) for part in _of_loop(node))
    return any(isinstance(part, ast.Break | ast.Continue) for part in found)


def _of_loop(node: ast.stmt) -> Iterator[ast.AST]:
    if not isinstance(node, _LOOPS):
        yield node
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
                yield from _of_loop(child)  # type: ignore[arg-type]
        return
    for child in node.orelse:  # a jump there belongs to the loop outside
        yield from _of_loop(child)


def _breaks(body: list[ast.stmt]) -> bool:
    found = (part for node in body if not isinstance(node, _SCOPES) for part in _of_loop(node))
    return any(isinstance(part, ast.Break) for part in found)


def _stays(node: ast.expr) -> bool:
    """Whether an expression does what a function of its own could not do for it."""
    return any(isinstance(part, _STAYS) for part in ast.walk(node))


def _flow(name: str, *args: ast.expr, at: ast.AST) -> ast.Call:
    function = ast.Attribute(ast.Name(FLOW, ast.Load()), name, ast.Load())
    call: ast.Call = _at(ast.Call(function, list(args), []), at)
    return call


def _at(new: Any, old: ast.AST) -> Any:
    """A new node, and every new node below it, where an old one begins.

    Not where it ends: Python takes the line of a call from the end of the name that is called.
    """
    assert isinstance(old, ast.expr | ast.stmt), "what is lowered has a place"
    one_line = old.lineno == old.end_lineno
    end = old.end_col_offset if one_line else old.col_offset + 1
    for part in ast.walk(new):
        if isinstance(part, ast.expr | ast.stmt) and not hasattr(part, "lineno"):
            part.lineno = part.end_lineno = old.lineno
            part.col_offset, part.end_col_offset = old.col_offset, end
    return new


def _later(expression: ast.expr) -> ast.Lambda:
    nothing = ast.arguments([], [], None, [], [], None, [])
    later: ast.Lambda = _at(ast.Lambda(nothing, expression), expression)
    return later


class _Lowering(ast.NodeTransformer):
    """Rewrites a cell from the inside out."""

    def __init__(self) -> None:
        self._count = 0

    def _name(self) -> str:
        self._count += 1
        return f"{FLOW} {self._count}"

    def visit(self, node: ast.AST) -> Any:
        """A node lowered; what has a scope of its own stays as it is."""
        return node if isinstance(node, _SCOPES) else super().visit(node)

    def visit_If(self, node: ast.If) -> ast.stmt:
        """`if`, `elif` and `else`."""
        jumps = _jumps([node])
        self.generic_visit(node)
        if jumps:
            return node
        name = self._name()
        chosen = ast.If(ast.Name(name, ast.Load()), node.body, node.orelse)
        tests = _flow("branches", node.test, at=node)
        asked: ast.For = _at(ast.For(ast.Name(name, ast.Store()), tests, [chosen], []), node)
        return asked

    def visit_For(self, node: ast.For) -> ast.stmt:
        """`for`; one that may `break` is a loop of Python's."""
        breaks = _breaks(node.body)
        self.generic_visit(node)
        if not breaks:
            node.iter = _flow("items", node.iter, at=node.iter)
        return node

    def visit_While(self, node: ast.While) -> ast.stmt:
        """`while`; one that may `break` is a loop of Python's."""
        breaks = _breaks(node.body) or _stays(node.test)
        self.generic_visit(node)
        if breaks:
            return node
        name = self._name()
        turn = ast.Name(name, ast.Load())
        test = ast.Expr(ast.Call(ast.Attribute(turn, "test", ast.Load()), [node.test], []))
        goes_on = ast.Attribute(ast.Name(name, ast.Load()), "goes_on", ast.Load())
        body: list[ast.stmt] = [_at(test, node.test), ast.If(goes_on, node.body, [])]
        turns = _flow("turns", at=node)
        asked: ast.For = _at(ast.For(ast.Name(name, ast.Store()), turns, body, node.orelse), node)
        return asked

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """`a if t else b`."""
        stays = _stays(node.body) or _stays(node.orelse)
        self.generic_visit(node)
        if stays:
            return node
        return _flow("chosen", node.test, _later(node.body), _later(node.orelse), at=node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """`and`, `or`."""
        stays = any(map(_stays, node.values[1:]))
        self.generic_visit(node)
        if stays:
            return node
        name = "all_of" if isinstance(node.op, ast.And) else "any_of"
        return _flow(name, node.values[0], *map(_later, node.values[1:]), at=node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """`not`."""
        self.generic_visit(node)
        if not isinstance(node.op, ast.Not):
            return node
        return _flow("negated", node.operand, at=node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """`a < b < c`, which asks `a < b` for its truth."""
        stays = any(map(_stays, node.comparators[1:]))
        self.generic_visit(node)
        if len(node.ops) == 1 or stays:
            return node
        args: list[ast.expr] = [node.left]
        for op, other in zip(node.ops, node.comparators, strict=True):
            args += [_at(ast.Constant(_COMPARED[type(op)]), other), _later(other)]
        return _flow("compared", *args, at=node)

    def visit_ListComp(self, node: ast.ListComp) -> ast.expr:
        """`[f(x) for x in xs]` over one iterable."""
        stays = _stays(node)
        self.generic_visit(node)
        if len(node.generators) > 1 or stays:
            return node
        over = node.generators[0]
        over.iter = _flow("listed", over.iter, at=over.iter)
        node.elt = _flow("made", node.elt, at=node.elt)
        return _flow("list", node, at=node)
