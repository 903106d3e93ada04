"""A node as lines of Python: the operation, the edit, the module called, the weight read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from nnsight_lab.errors import NotSupported
from nnsight_lab.executors.eject.constants import Constants
from nnsight_lab.executors.eject.expressions import argument, call, item, module, shown
from nnsight_lab.executors.eject.names import Names
from nnsight_lab.ir import (
    Apply,
    Call,
    Constant,
    DictArg,
    LocalCall,
    ModuleTree,
    Node,
    Ref,
    SliderRange,
    Weight,
)
from nnsight_lab.ir.literals import Arg

__all__ = ["Statements", "Text"]

Text = Callable[[int], str]
_VIEW = -1
"""Stands for the view under construction, which is no node."""


class Statements:
    """Writes nodes of one program; notes which functions beside torch's they need.

    apart: module paths at or above a hook, which must not wake it when they are called by hand.
    """

    def __init__(self, tree: ModuleTree, names: Names, apart: Callable[[str], bool]) -> None:
        self.names = names
        self.constants = Constants()
        self.needs: set[str] = set()
        self._tree = tree
        self._kinds = {card.path: card.kind for card in tree.modules}
        self._apart = apart

    def module(self, path: str) -> str:
        """A module, by path or standard name, as an expression."""
        return module(self._tree.module_of.get(path, path), self._kinds)

    def lines(
        self,
        node: Node,
        target: str,
        text: Text,
        meta: Callable[[int], Any],
        *,
        followed: bool = False,
    ) -> list[str]:
        """The lines that give `target` the value of a node.

        text: the variable of each earlier node. meta: the shape of its value, where known.
        followed: whether a gradient is taken with respect to it.
        """
        match node:
            case Constant(value=data, slider=SliderRange() as range):
                limits = f"  # {range.low:g} to {range.high:g}"
                return [f"{target} = {self.constants.expression(target, data)}{limits}"]
            case Constant(value=data):
                return [f"{target} = {self.constants.expression(target, data)}"]
            case Weight(path=path, name=name):
                weight = f"{self.module(path)}.{name}"
                return [f"{target} = {weight}{'' if followed else '.detach()'}"]
            case Apply(path=path):
                return [f"{target} = {self._applied(path, node, text)}"]
            case LocalCall(function=function):
                return [f"{target} = functions[{shown(function)}]({_arguments(node, text)})"]
            case Call(op="lab.assign" | "lab.set_item"):
                return self._edit(node, target, text, meta)
            case Call(op="lab.like", args=(value, _)):
                return [f"{target} = {argument(value, text)}"]
            case Call():
                return [f"{target} = {self.expression(node, text, meta)}"]
        raise NotSupported(
            f"A {type(node).__name__} cannot be said in plain PyTorch yet.",
            hint="print(graph) shows the experiment line by line.",
            node=node.id,
        ).at(node.where)

    def expression(self, node: Call, text: Text, meta: Callable[[int], Any]) -> str:
        """An operation that is one expression."""
        return call(node.op, node.args, dict(node.kwargs), text, _dtypes(meta))

    def _applied(self, path: str, node: Apply, text: Text) -> str:
        found, given = self.module(path), _arguments(node, text)
        if not self._apart(self._tree.module_of.get(path, path)):
            return f"{found}({given})"
        self.needs.add("apart")
        return f"apart({found}, {given})"

    # Edits

    def _edit(self, node: Call, target: str, text: Text, meta: Callable[[int], Any]) -> list[str]:
        """A copy of a value with part of it replaced; tuples and dicts are copied on the way."""
        base, steps, *rest = node.args
        assert isinstance(base, Ref), "an edit is of a value"
        held, keys, left = (
            meta(base.id),
            list[Arg](),
            list(steps if isinstance(steps, tuple) else ()),
        )
        while _is_container(held) and left:
            key = _key_of(left.pop(0))
            keys.append(key)
            held = held[key]
        value = argument(rest[-1], text)
        inner = _within(text(base.id), keys, text)
        if _is_container(held):
            new = value if len(rest) == 1 else self._with(inner, rest[0], value, text)
            return [f"{target} = {self._nested(text(base.id), keys, new, text)}"]
        part = self.names.free("part") if keys else target
        lines = [f"{part} = {inner}.clone()", *_write(part, left, rest, text)]
        if keys:
            lines.append(f"{target} = {self._nested(text(base.id), keys, part, text)}")
        return lines

    def _with(self, container: str, key: Arg, value: str, text: Text) -> str:
        self.needs.add("with_item")
        return f"with_item({container}, {argument(key, text)}, {value})"

    def _nested(self, base: str, keys: list[Arg], new: str, text: Text) -> str:
        for depth in range(len(keys) - 1, -1, -1):
            new = self._with(_within(base, keys[:depth], text), keys[depth], new, text)
        return new


def _within(base: str, keys: list[Arg], text: Text) -> str:
    for key in keys:
        base = item(base, key, text)
    return base


def _write(part: str, steps: list[Arg], rest: list[Arg], text: Text) -> list[str]:
    """Write into our own copy, through the views on the way to the place."""
    value = argument(rest[-1], text)
    if len(rest) == 2:
        return [f"{item(_view(part, steps, text), rest[0], text)} = {value}"]
    *before, last = steps
    if _op_of(last) == "operator.getitem":
        return [f"{item(_view(part, before, text), _key_of(last), text)} = {value}"]
    method = "copy_" if isinstance(rest[0], Ref) else "fill_"
    return [f"{_view(part, steps, text)}.{method}({value})"]


def _view(base: str, steps: list[Arg], text: Text) -> str:
    for step in steps:
        assert isinstance(step, tuple), "a step is an op, arguments, and named ones"
        op, args, named = step
        assert isinstance(op, str), "the name of an operation"
        assert isinstance(args, tuple), "what follows the view it is of"
        pairs = dict(named.items) if isinstance(named, DictArg) else {}
        base = call(op, (Ref(_VIEW), *args), pairs, _with_view(base, text))
    return base


def _with_view(base: str, text: Text) -> Text:
    return lambda id: base if id == _VIEW else text(id)


def _op_of(step: Arg) -> Arg:
    return step[0] if isinstance(step, tuple) else None


def _key_of(step: Arg) -> Any:
    assert isinstance(step, tuple), "a step is an op, arguments, and named ones"
    (key,) = cast("tuple[Arg]", step[1])
    return key


def _arguments(node: Apply | LocalCall, text: Text) -> str:
    given = [argument(arg, text) for arg in node.args]
    return ", ".join([*given, *(f"{key}={argument(arg, text)}" for key, arg in node.kwargs)])


def _is_container(meta: Any) -> bool:
    return isinstance(meta, tuple | list | dict)


def _dtypes(meta: Callable[[int], Any]) -> Callable[[Arg], Any]:
    def dtype_of(arg: Arg) -> Any:
        held = meta(arg.id) if isinstance(arg, Ref) else None
        return held.dtype if isinstance(held, torch.Tensor) else None

    return dtype_of
