"""Arguments and operations of a graph as Python expressions, as a person would write them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import torch

from nnsight_lab.ir import DictArg, ListArg, Name, Ref, SliceArg, Special
from nnsight_lab.ir.literals import Arg
from nnsight_lab.kernels.table import is_inplace

__all__ = ["argument", "call", "index", "indexed", "item", "module", "operand", "shown"]

Text = Callable[[int], str]
"""The variable that holds the value of a node."""

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "matmul": "@", "pow": "**",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    "__and__": "&", "__or__": "|", "__xor__": "^", "__mod__": "%", "__floordiv__": "//",
    "__lshift__": "<<", "__rshift__": ">>",
}  # fmt: skip
_REFLECTED = {
    "__radd__": "+", "__rsub__": "-", "__rmul__": "*", "__rtruediv__": "/", "__rmatmul__": "@",
    "__rpow__": "**", "__rfloordiv__": "//", "__rmod__": "%",
    "__rand__": "&", "__ror__": "|", "__rxor__": "^",
}  # fmt: skip
_PREFIX = {"neg": "-", "__invert__": "~"}
_LISTS = frozenset({"ModuleList", "Sequential"})
_WRITE_TO_THEIR_ARGUMENTS = ("batch_norm", "instance_norm")


def argument(arg: Arg, text: Text) -> str:
    """An argument in its place between commas."""
    match arg:
        case Ref(id=id):
            return text(id)
        case Name(name=name):
            return name
        case Special(name=name):
            return f'float("{name}")'
        case SliceArg(start=start, stop=stop, step=step):
            return f"slice({', '.join(argument(part, text) for part in (start, stop, step))})"
        case ListArg(items=items):
            return f"[{', '.join(argument(item, text) for item in items)}]"
        case DictArg(items=pairs):
            inner = (f"{shown(key)}: {argument(value, text)}" for key, value in pairs)
            return f"{{{', '.join(inner)}}}"
        case tuple() as items:
            inner_text = ", ".join(argument(item, text) for item in items)
            return f"({inner_text},)" if len(items) == 1 else f"({inner_text})"
        case e if e is Ellipsis:
            return "..."
        case str():
            return shown(arg)
        case _:
            return repr(arg)


def shown(text: str) -> str:
    """A string as ruff and black would quote it."""
    plain = repr(text)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in plain else plain


def index(key: Arg, text: Text) -> str:
    """What stands between the brackets of `value[…]`."""
    if isinstance(key, SliceArg):
        parts = [
            "" if part is None else argument(part, text) for part in (key.start, key.stop, key.step)
        ]
        return ":".join(parts[:2] if key.step is None else parts)
    if isinstance(key, tuple) and key:
        inner = ", ".join(index(part, text) for part in key)
        return f"{inner}," if len(key) == 1 else inner
    return argument(key, text)


def item(base: str, key: Arg, text: Text) -> str:
    """`base[key]`."""
    return f"{base}[{index(key, text)}]"


def indexed(base: str, slices: tuple[slice, ...]) -> str:
    """A value narrowed to one invoke's rows and positions; whole axes at the end are left out."""
    parts = [
        ":".join("" if part is None else str(part) for part in (one.start, one.stop))
        for one in slices
    ]
    while parts and parts[-1] == ":":
        parts.pop()
    return f"{base}[{', '.join(parts)}]" if parts else base


def call(
    op: str,
    args: tuple[Arg, ...],
    kwargs: Mapping[str, Arg],
    text: Text,
    dtype_of: Callable[[Arg], Any] = lambda _: None,
) -> str:
    """One operation on its arguments; `dtype_of` tells the dtype of an argument, if it has one."""
    given = [argument(arg, text) for arg in args]
    named = [f"{key}={argument(arg, text)}" for key, arg in kwargs.items()]
    home, _, name = op.rpartition(".")
    if op == "operator.getitem":
        return item(operand(given[0]), args[1], text)
    if home == "Tensor" and not named:
        plain = name.removesuffix("_")
        if is_inplace(op) and plain in ("add", "sub", "mul", "div") and _keeps(args, dtype_of):
            name = plain
        found = _operator(name, given)
        if found is not None:
            return found
    if name.rstrip("_") in _WRITE_TO_THEIR_ARGUMENTS:
        is_value = [isinstance(arg, Ref) for arg in args]
        given = [
            f"{operand(one)}.clone()" if yes else one
            for one, yes in zip(given, is_value, strict=True)
        ]
    if home != "Tensor":
        return f"{op}({', '.join([*given, *named])})"
    if not callable(getattr(torch.Tensor, name)):
        return f"{operand(given[0])}.{name}"
    base = f"{operand(given[0])}{'.clone()' if is_inplace(op) else ''}"
    return f"{base}.{name}({', '.join([*given[1:], *named])})"


def _operator(name: str, given: list[str]) -> str | None:
    if len(given) == 2 and name in _INFIX:
        return _between(given[0], _INFIX[name], given[1])
    if len(given) == 2 and name in _REFLECTED:
        return _between(given[1], _REFLECTED[name], given[0])
    if len(given) == 1 and name in _PREFIX:
        return f"{_PREFIX[name]}{operand(given[0])}"
    return None


def _keeps(args: tuple[Arg, ...], dtype_of: Callable[[Arg], Any]) -> bool:
    """Whether `a + b` has the dtype of `a`, so that it says the same as `a.add_(b)` on a copy."""
    if len(args) != 2:
        return False
    own = dtype_of(args[0])
    if isinstance(args[1], int | float) and not isinstance(args[1], bool):
        counts = own in (torch.int64, torch.int32) and isinstance(args[1], int)
        return own is not None and (own.is_floating_point or counts)
    return own is not None and own == dtype_of(args[1])


def operand(text: str) -> str:
    """An operand that may stand on the left of any operator, of a dot, and of brackets."""
    kind = ast.parse(text, mode="eval").body
    return f"({text})" if isinstance(kind, ast.BinOp | ast.UnaryOp | ast.Compare) else text


def _between(left: str, symbol: str, right: str) -> str:
    """`left symbol right`, with brackets where a reader, or Python, needs them."""
    return f"{_side(left, symbol)} {symbol} {_side(right, symbol, signed=True)}"


def _side(text: str, symbol: str, *, signed: bool = False) -> str:
    kind = ast.parse(text, mode="eval").body
    if signed and isinstance(kind, ast.UnaryOp):
        return text
    product = isinstance(kind, ast.BinOp) and isinstance(kind.op, ast.Mult | ast.Div | ast.MatMult)
    return text if product and symbol in ("+", "-") else operand(text)


def module(path: str, kinds: Mapping[str, str]) -> str:
    """A module as an expression: `model.model.layers[2].mlp`. `kinds`: class names by path."""
    text, above = "model", ""
    for part in path.split(".") if path else ():
        if part.isdigit() and kinds.get(above) in _LISTS:
            text += f"[{part}]"
        elif part.isidentifier():
            text += f".{part}"
        else:
            return f"model.get_submodule({shown(path)})"
        above = f"{above}.{part}" if above else part
    return text
