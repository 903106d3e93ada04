"""The source of a module as plain JSON data and back: what its forward calls, and its sites.

Small enough for a control message. Forms are those of a card (`trees.py`); reading checks every
field and builds nothing else.
"""

from __future__ import annotations

from typing import Any

from nnsight_lab.ir import ModuleSource, SourceCall
from nnsight_lab.wire.plain import Malformed, read_record, read_text, read_whole, tuple_of
from nnsight_lab.wire.trees import read_site, site_to_plain

__all__ = ["read_source", "source_to_plain"]

_CALLS = 65_536


def source_to_plain(source: ModuleSource) -> dict[str, Any]:
    """The source of a module as plain data."""
    return {
        "path": source.path,
        "kind": source.kind,
        "file": source.file,
        "calls": [
            {
                "name": call.name,
                "submodule": call.submodule,
                "file": call.file,
                "function": call.function,
                "line": call.line,
                "text": call.text,
                "called_at": call.called_at,
            }
            for call in source.calls
        ],
        "sites": [site_to_plain(site) for site in source.sites],
    }


def read_source(plain: Any) -> ModuleSource:
    """The source that plain data holds. Raises `Malformed`."""
    return ModuleSource(**read_record(plain, _SOURCE))


def _flag(plain: Any) -> bool:
    if not isinstance(plain, bool):
        raise Malformed("not true or false")
    return plain


def _call(plain: Any) -> SourceCall:
    return SourceCall(**read_record(plain, _CALL))


_CALL = {
    "name": read_text,
    "submodule": _flag,
    "file": read_text,
    "function": read_text,
    "line": read_whole,
    "text": read_text,
    "called_at": read_whole,
}
_SOURCE = {
    "path": read_text,
    "kind": read_text,
    "file": read_text,
    "calls": tuple_of(_call, _CALLS),
    "sites": tuple_of(read_site, 3 * _CALLS),
}
