"""`nl.save(value)`: the same as `value.save()`, and for lists and dicts all they come to hold."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from nnsight_lab.errors import BadInput, GraphError
from nnsight_lab.tracing.envoy import Envoy
from nnsight_lab.tracing.openings import open_recordings
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.show import is_shown
from nnsight_lab.tracing.source import one_frame, user_line

__all__ = ["check_saved_as", "holds_recorded", "save"]

ValueT = TypeVar("ValueT")


@one_frame
def save(value: ValueT) -> ValueT:
    """Ask for a recorded value back, or for all that a list, tuple or dict holds when the block ends.

        with lm.trace(prompt):
            norms = nl.save([])
            for layer in lm.layers:
                norms.append(layer.output.norm())

    Raises:
        BadInput: it is neither a recorded value nor a container.
        GraphError: no block is open.
    """
    if isinstance(value, Proxy):
        saved: Any = value.save()
        found: ValueT = saved
        return found
    if isinstance(value, Envoy):
        raise value.as_value()
    if not isinstance(value, list | dict) and not holds_recorded(value):
        raise BadInput(
            f"A {type(value).__name__} cannot be saved: it is not a recorded value.",
            hint="It is there already; its variable keeps it after the block.",
        )
    recorder = next((recorder for _, recorder in open_recordings()), None)
    if recorder is None:
        raise GraphError(
            "There is nothing to save outside a block.",
            hint="Inside a block: values = nl.save([]), then values.append(lm.logits).",
        ).at(user_line())
    recorder.at_end.append(partial(_save_all, value))
    return value


def holds_recorded(value: Any) -> bool:
    """Whether a value is recorded, or a container of such."""
    if isinstance(value, tuple | list):
        return any(map(holds_recorded, value))
    if isinstance(value, dict):
        return any(map(holds_recorded, value.values()))
    return isinstance(value, Proxy)


def _save_all(container: Any) -> dict[str, Any]:
    """Save what a container holds by now. Its own variable gives the names."""
    stack, seen = [container], set[int]()
    while stack:
        item = stack.pop(0)
        if isinstance(item, Proxy) and item.recorder.open and item.saved_value is None:
            item.save()
        elif isinstance(item, list | tuple | dict) and id(item) not in seen:
            seen.add(id(item))
            stack.extend(item.values() if isinstance(item, dict) else item)
    return {}


def check_saved_as(name: str, value: Any, before: Any) -> None:
    """Check what is to be saved under a name. before: what is saved so already, if anything is.

    Raises:
        BadInput: it is not a recorded value, or what was saved before would be lost.
    """
    if is_shown(name) or not isinstance(value, Proxy):
        raise BadInput(
            f"{name!r} cannot be saved: a {type(value).__name__} under that name.",
            hint="Give recorded values: tracer.save(logits=lm.logits).",
        )
    if before is not None and before is not value:
        raise BadInput(
            f"A value is saved as {name!r} already, and would be lost.",
            hint=f"Collect several in a list: kept.append({name}.save()).",
        )
