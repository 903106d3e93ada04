"""Arguments of a node as plain JSON data and back. The one place that knows the tags.

JSON has no tuples, slices, complex numbers or references; each is a list that begins with a
tag, so a bare JSON list never stands for anything: `["t", 1, 2]` is `(1, 2)`, `["r", 4]` is
`%4`. Reading is bounded in depth and refuses what it does not know.
"""

from __future__ import annotations

import math
from typing import Any

from nnsight_lab.errors import BadBytes, LimitExceeded
from nnsight_lab.ir.literals import Arg, DictArg, ListArg, Name, Ref, SliceArg, Special

__all__ = ["bad_bytes", "from_plain_arg", "to_plain_arg"]

_NAME_KINDS = frozenset({"dtype", "layout", "memory_format"})
_SPECIALS = frozenset({"nan", "inf", "-inf"})
_BIGGEST_INT = 2**63


def bad_bytes(message: str, *, node: int | None = None) -> BadBytes:
    """The error of bytes that no `to_bytes` has made, with the next step."""
    hint = "Graph.to_bytes() makes such bytes; these may be cut short or changed."
    return BadBytes(message, hint=hint, node=node)


def to_plain_arg(arg: Arg) -> Any:
    """An argument as JSON-ready data."""
    match arg:
        case float() if not math.isfinite(arg):
            return ["f", str(arg)]
        case None | bool() | int() | float() | str():
            return arg
        case Ref(id=id):
            return ["r", id]
        case Name(kind=kind, name=name):
            return ["n", kind, name]
        case Special(name=name):
            return ["f", name]
        case SliceArg(start=start, stop=stop, step=step):
            return ["s", to_plain_arg(start), to_plain_arg(stop), to_plain_arg(step)]
        case ListArg(items=items):
            return ["l", *map(to_plain_arg, items)]
        case DictArg(items=pairs):
            return ["d", *([key, to_plain_arg(value)] for key, value in pairs)]
        case complex():
            return ["c", to_plain_arg(arg.real), to_plain_arg(arg.imag)]
        case tuple() as items:
            return ["t", *map(to_plain_arg, items)]
        case _:
            return ["e"]


def from_plain_arg(plain: Any, depth: int) -> Arg:
    """The argument that `to_plain_arg` wrote, from data that may come from anybody."""
    if depth < 0:
        raise LimitExceeded("An argument in the graph is nested too deeply.")
    if isinstance(plain, float) and not math.isfinite(plain):
        raise bad_bytes("A number in the graph is too large for a float.")
    if plain is None or isinstance(plain, (bool, float)):
        return plain
    if isinstance(plain, (int, str)):
        return _bounded(plain)
    if not isinstance(plain, list) or not plain:
        raise bad_bytes("An argument in the graph is of no known form.")
    return _tagged(plain[0], plain[1:], depth - 1)


def _bounded(plain: int | str) -> int | str:
    if isinstance(plain, int) and not -_BIGGEST_INT <= plain < 2 * _BIGGEST_INT:
        raise bad_bytes("A whole number in the graph does not fit 64 bits.")
    if isinstance(plain, str) and len(plain) > 4_096:
        raise LimitExceeded("A string in the graph is longer than 4,096 characters.")
    return plain


def _tagged(tag: Any, rest: list[Any], depth: int) -> Arg:
    match tag, rest:
        case "r", [int() as id] if type(id) is int and id >= 0:
            return Ref(id)
        case "n", [str() as kind, str() as name] if kind in _NAME_KINDS and len(name) < 64:
            return Name(kind, name)
        case "f", [str() as name] if name in _SPECIALS:
            return Special(name)
        case "c", [real, imag]:
            return complex(_part(real), _part(imag))
        case "e", []:
            return Ellipsis
        case "s", [start, stop, step]:
            return SliceArg(
                from_plain_arg(start, depth),
                from_plain_arg(stop, depth),
                from_plain_arg(step, depth),
            )
        case "l", items:
            return ListArg(tuple(from_plain_arg(item, depth) for item in items))
        case "t", items:
            return tuple(from_plain_arg(item, depth) for item in items)
        case "d", pairs:
            return DictArg(tuple(_pair(pair, depth) for pair in pairs))
    raise bad_bytes("An argument in the graph is of no known form.")


def _part(plain: Any) -> float:
    match plain:
        case float() | int():
            return float(_bounded(plain) if isinstance(plain, int) else plain)
        case ["f", str() as name] if name in _SPECIALS:
            return float(name)
    raise bad_bytes("A complex number in the graph has a part that is no number.")


def _pair(pair: Any, depth: int) -> tuple[str, Arg]:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise bad_bytes("A dict in the graph has an entry that is no pair.")
    return pair[0], from_plain_arg(pair[1], depth)
