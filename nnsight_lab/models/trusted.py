"""Local functions to bytes and back, by cloudpickle. The one place where bytes become code.

Reading such bytes runs whatever they say, so it is only done for who asks for it by name:
`nl.load(path, trust=True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nnsight_lab.errors import BadBytes, NotSupported, NotTrusted

__all__ = ["functions_from_bytes", "functions_to_bytes"]


def functions_to_bytes(functions: Mapping[str, Callable[..., Any]]) -> bytes:
    """Functions with what they close over.

    Raises:
        NotSupported: one of them holds what cannot be written down: an open file, a thread.
    """
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(dict(functions))
    except Exception as exc:  # a seam: what a function closes over may raise anything
        raise NotSupported(
            f"The local functions {', '.join(functions)} cannot be saved: {exc}",
            hint="Let them close over plain values and tensors only, or save the graph without "
            "them: run.graph.save(path).",
        ) from exc
    return data


def functions_from_bytes(
    data: bytes, names: list[str], *, trust: bool
) -> dict[str, Callable[..., Any]]:
    """The functions again.

    Raises:
        NotTrusted: nobody said that these bytes may be run.
        BadBytes: they are no functions.
    """
    if not trust:
        raise NotTrusted(
            f"The file holds Python functions ({', '.join(names)}); reading them runs code.",
            hint="Only if you know who made the file: nl.load(path, trust=True).",
        )
    import cloudpickle

    try:
        found = cloudpickle.loads(data)
    except Exception as exc:  # a seam: unpickling may raise anything
        raise BadBytes(
            f"The file's functions cannot be read here: {type(exc).__name__}: {exc}",
            hint="They need the modules, and about the Python version, they were saved with.",
        ) from exc
    if not isinstance(found, dict) or not all(map(callable, found.values())):
        raise BadBytes(
            "The file's functions are no functions.", hint="run.save(path) makes such files."
        )
    return found
