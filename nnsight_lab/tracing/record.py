"""One operation on recorded values: what Python expects of it, as a value, a tuple, a size.

Operators, methods and torch functions all come here. The spelling is brought into the one form a
graph holds (`calls.py`), writes in place become edits, views stay views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnsight_lab.errors import OpNotAllowed
from nnsight_lab.ir.ops import is_op
from nnsight_lab.kernels.table import (
    is_inplace,
    kernel,
    not_in_place,
    written_arguments,
)
from nnsight_lab.tracing.calls import is_dropout_off, is_view, plainly
from nnsight_lab.tracing.cells import Cell, Step, Value
from nnsight_lab.tracing.conversions import number_of, peeked_size
from nnsight_lab.tracing.proxy import Proxy, after
from nnsight_lab.tracing.source import user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["record"]


def record(recorder: Recorder, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record one operation; once the block has ended, carry it out."""
    args, kwargs = plainly(args, kwargs)
    if is_dropout_off(op, args, kwargs):
        return args[0]
    if not is_op(op):
        return number_of(recorder, op, args, kwargs)
    if not recorder.open:
        return _carried_out(op, after(args), after(kwargs))
    recorder.modes.check_autocast()
    if recorder.modes.without_gradient and op != "Tensor.detach" and not is_inplace(op):
        return recorder.modes.given(_recorded(recorder, op, args, kwargs))
    return _recorded(recorder, op, args, kwargs)


def _carried_out(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on tensors that came back; in place it writes to the tensor itself."""
    if is_inplace(op) and op.startswith("Tensor."):
        return getattr(args[0], op.removeprefix("Tensor."))(*args[1:], **kwargs)
    return kernel(op)(*args, **kwargs)


def _recorded(recorder: Recorder, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if is_inplace(op):
        return _record_inplace(recorder, op, args, kwargs)
    if "inplace" in written_arguments(op, args, kwargs):
        return _record_inplace(recorder, op, *not_in_place(op, args, kwargs))
    result = recorder.call(op, args, kwargs)
    if not isinstance(result, Value):
        return result
    size = peeked_size(recorder, op, result)
    if size is not None:
        return size
    base = args[0] if args and isinstance(args[0], Proxy) else None
    step: Step = (op, args[1:], kwargs)
    return _wrapped(recorder, result, base, step)


def _record_inplace(
    recorder: Recorder, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    target = args[0] if args else None
    if not isinstance(target, Proxy):
        raise OpNotAllowed(
            f"{op} would write a recorded value into a real tensor.",
            hint="Use the form without the underscore; it gives a recorded value.",
        ).at(user_line())
    recorder.modes.note_write()
    target.unpin()
    target.edit_in_place(recorder.call(op, args, kwargs))
    return target


def _wrapped(recorder: Recorder, result: Value, base: Proxy | None, step: Step) -> Any:
    meta = result.meta
    if isinstance(meta, tuple | list | dict) and step[0] != "operator.getitem":
        return _unpacked(recorder, result, base, step)
    if base is not None and is_view(step, meta, base.now().meta):
        return base.viewed_by(step, result)
    return Proxy(recorder, Cell(result))


def _unpacked(recorder: Recorder, result: Value, base: Proxy | None, step: Step) -> Any:
    """A tuple of results as a tuple of recorded values, so that `values, ids = h.topk(3)` works."""
    meta = result.meta
    first = meta[0] if isinstance(meta, tuple | list) and meta else None
    whole = Proxy(recorder, Cell(result))
    if base is not None and is_view(step, first, base.now().meta):
        whole = base.viewed_by(step, result)
    if isinstance(meta, dict):
        return {key: whole[key] for key in meta}
    items = [whole[index] for index in range(len(meta))]
    if hasattr(meta, "_fields"):
        return type(meta)(*items)
    return type(meta)(items)
