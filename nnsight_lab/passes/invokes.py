"""Which rows and positions of a padded batch belong to which invoke.

Prompts are padded on the left, so an invoke has its own rows and, of those, the last positions:
as many as its own longest prompt has tokens. Which axes are rows and positions is known from the
spec of the place, never guessed from sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nnsight_lab.contract import ModuleInputs, TokenRows
from nnsight_lab.errors import BadInput, NotSupported
from nnsight_lab.ir import Dim, SizeForm, Spec, TensorSpec

__all__ = ["Span", "check_separable", "index_of", "narrowed", "spans_of", "widened"]


@dataclass(frozen=True, slots=True)
class Span:
    """Rows `start` to `start + rows` of a batch, and the last `pos` positions of them."""

    start: int
    rows: int
    pos: int


def spans_of(invokes: tuple[int, ...], inputs: TokenRows | ModuleInputs) -> tuple[Span, ...]:
    """The span of each invoke, given how many rows it has, on these inputs.

    Raises:
        BadInput: the inputs have not the rows the graph was recorded for.
    """
    if not invokes:
        return ()
    if invokes == (1,) and not isinstance(inputs, TokenRows):
        return (Span(0, 1, 1),)  # a module in a session: all it is given
    if not isinstance(inputs, TokenRows) or sum(invokes) != inputs.batch:
        have = inputs.batch if isinstance(inputs, TokenRows) else 0
        raise BadInput(
            f"The graph has invokes of {', '.join(map(str, invokes))} rows;"
            f" {have} prompts were given.",
            hint="Give one prompt for each row, in the order of the invokes.",
        )
    spans, start = [], 0
    for rows in invokes:
        pos = max(map(len, inputs.rows[start : start + rows]))
        spans.append(Span(start, rows, pos))
        start += rows
    return tuple(spans)


def index_of(spec: Spec, span: Span, where: str) -> tuple[slice, ...]:
    """The index that picks a span out of a value of this spec."""
    if not isinstance(spec, TensorSpec):
        raise NotSupported(
            f"{where} holds {spec}; one invoke's part of it cannot be told.",
            hint="Name the tensor you mean by its standard name.",
        )
    return tuple(_of_axis(dim, span, where) for dim in spec.dims)


def _of_axis(dim: Dim, span: Span, where: str) -> slice:
    match dim.form:
        case SizeForm.FIXED:
            return slice(None)
        case SizeForm.BATCH:
            return slice(span.start * dim.factor, (span.start + span.rows) * dim.factor)
        case SizeForm.POS if dim.factor == 1:
            return slice(-span.pos, None)
    raise NotSupported(
        f"The rows of {where} are mixed into other axes ({dim}), so invokes cannot be told apart.",
        hint="Trace the prompts one by one.",
    )


def check_separable(spec: Spec, where: str) -> None:
    """Whether one invoke's part of a place can be told. Raises `NotSupported` where not."""
    index_of(spec, Span(0, 1, 1), where)


def narrowed(value: torch.Tensor, spec: Spec, span: Span, where: str) -> torch.Tensor:
    """One invoke's part of a value. Raises `NotSupported` where it cannot be told."""
    return value[index_of(spec, span, where)]


def widened(
    whole: torch.Tensor, new: torch.Tensor, spec: Spec, span: Span, where: str
) -> torch.Tensor:
    """The whole value with one invoke's part replaced."""
    changed = whole.clone()
    changed[index_of(spec, span, where)] = new
    return changed
