"""Readers of plain JSON data that may come from anybody: each gives a typed value or refuses.

A reader takes what `json` made of the text and returns what the message holds, or raises
`Malformed`, which the codec turns into one typed error. Nothing here knows a message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = [
    "Malformed",
    "optional",
    "parse",
    "read_error",
    "read_flag",
    "read_list",
    "read_number",
    "read_record",
    "read_seconds",
    "read_text",
    "read_texts",
    "read_whole",
    "tuple_of",
    "write",
]

_T = TypeVar("_T")
_BIGGEST = 2**63 - 1
_TEXT = 65_536
_NAMES = 4_096
_DEEPEST = 64


class Malformed(ValueError):
    """Plain data is not of the form it should have."""


def write(plain: Any) -> str:
    """Plain data as one line of JSON. ASCII, so that no text can break the frame around it."""
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def parse(text: str | bytes) -> Any:
    """The plain data of a JSON text. Refuses NaN, repeated keys and bottomless nesting."""
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except RecursionError as exc:
        raise Malformed("nested too deeply") from exc


def _refuse(name: str) -> Any:
    raise Malformed(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key stands twice")
    return found


def read_whole(plain: Any) -> int:
    """A whole number from 0 that fits 64 bits."""
    if type(plain) is not int or not 0 <= plain <= _BIGGEST:
        raise Malformed("not a whole number")
    return plain


def read_number(plain: Any) -> float:
    """A finite number."""
    try:
        if type(plain) in {int, float} and math.isfinite(plain):
            return float(plain)
    except OverflowError as exc:
        raise Malformed("a number too large") from exc
    raise Malformed("not a finite number")


def read_flag(plain: Any) -> bool:
    """True or false."""
    if not isinstance(plain, bool):
        raise Malformed("not true or false")
    return plain


def read_text(plain: Any) -> str:
    """A string of bounded length that can be written as UTF-8."""
    if not isinstance(plain, str) or len(plain) > _TEXT:
        raise Malformed("not a text of bounded length")
    plain.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
    return plain


def read_list(plain: Any) -> list[Any]:
    """A list."""
    if not isinstance(plain, list):
        raise Malformed("not a list")
    return plain


def read_record(plain: Any, fields: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """A dict with exactly these fields, each read by its reader."""
    if not isinstance(plain, dict) or plain.keys() != fields.keys():
        raise Malformed(f"not a record of {', '.join(fields)}")
    return {name: read(plain[name]) for name, read in fields.items()}


def read_texts(plain: Any) -> dict[str, str]:
    """A dict of texts."""
    if not isinstance(plain, dict) or len(plain) > _NAMES:
        raise Malformed("not a dict of texts")
    return {read_text(key): read_text(value) for key, value in plain.items()}


def read_seconds(plain: Any) -> dict[str, float]:
    """A dict of finite numbers."""
    if not isinstance(plain, dict) or len(plain) > _NAMES:
        raise Malformed("not a dict of numbers")
    return {read_text(key): read_number(value) for key, value in plain.items()}


def read_error(plain: Any) -> dict[str, Any]:
    """An error as `LabError.to_plain` writes it."""
    texts = dict.fromkeys(("code", "message", "hint"), read_text)
    fields: dict[str, Callable[[Any], Any]] = {**texts, "node": optional(read_whole)}
    if isinstance(plain, dict) and "inside" in plain:  # only where a node holds blocks
        fields["inside"] = tuple_of(read_whole, _DEEPEST)
    return read_record(plain, fields)


def tuple_of(read: Callable[[Any], _T], most: int) -> Callable[[Any], tuple[_T, ...]]:
    """A reader of a list of at most `most` things, each read by `read`."""

    def reader(plain: Any) -> tuple[_T, ...]:
        items = read_list(plain)
        if len(items) > most:
            raise Malformed(f"a list of more than {most}")
        return tuple(map(read, items))

    return reader


def optional(read: Callable[[Any], _T]) -> Callable[[Any], _T | None]:
    """A reader that also takes null."""
    return lambda plain: None if plain is None else read(plain)
