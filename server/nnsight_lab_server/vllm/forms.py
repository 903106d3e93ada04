"""`Form`: where in vLLM's model the value of an address is, as Hugging Face means it.

vLLM computes flat rows: the tokens of all requests of a step, one after another. A form says at
which module they are, which tensors there add up to the value (a block hands on its output and the
residual apart), and which of the columns are meant (q, k and v are made by one matrix). Forms are
data; which one an address has is found by measurement (`discover.py`), never read off a class name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from nnsight_lab.ir import Address, DictSpec, OpaqueSpec, Spec, TensorSpec, TupleSpec
from nnsight_lab_server.vllm.ranks import gathered, own_part

__all__ = [
    "Form",
    "Point",
    "Rows",
    "Stage",
    "Term",
    "form_from_plain",
    "packed",
    "rows_of",
    "tensor_at",
    "tensor_spec_of",
    "unpacked",
]

Term: TypeAlias = tuple[str | int, ...]
"""The way to one tensor in what is held: `(0, 0)` is `args[0]`, `(1, "residual")` a keyword of a
module's call; `(1,)` the second item of an output that is a tuple, `()` an output itself."""


Stage: TypeAlias = Literal["before", "after", "logits"]


Rows: TypeAlias = slice | torch.Tensor
"""Some of the flat rows of a step: from one to another, or their numbers."""


class Point(NamedTuple):
    """Before or after a module of vLLM's own model. `logits`: after the whole model."""

    stage: Stage
    path: str


_ALL = slice(None)


@dataclass(frozen=True, slots=True)
class Form:
    """One address, found in vLLM.

    terms: the tensors which, added, are the value; the first takes an edit, the others become 0.
    columns: those of the last axis that are meant, as `(start, stop)` pieces in order; None for all.
    shape: what one row holds, e.g. `(d_model,)` or `(heads, d_head)`.
    kind: `rows`, a value of each token; `pattern`, made anew from q and k; `logits`.
    axis: which axis of the tensors the rows lie along; 1 for `[1, rows, d_model]`.
    bias: a vector that is held there and not added yet, to every row.
    scale: the value is so many times what is there; some models scale elsewhere than vLLM does.
    stage: which stage of a pipeline has it.
    parted: each of several workers holds a part of the tensors' last axis; columns are of all.
    """

    address: Address
    point: Point
    terms: tuple[Term, ...] = ((),)
    columns: tuple[tuple[int, int], ...] | None = None
    shape: tuple[int, ...] = ()
    kind: Literal["rows", "pattern", "logits"] = "rows"
    axis: int = 0
    bias: Term | None = None
    scale: float = 1.0
    parted: bool = False
    stage: int = 0

    def take(self, held: Any, rows: Rows = _ALL) -> torch.Tensor:
        """The value of rows of the step, `[rows, *shape]`: perhaps the very memory that is held."""
        # The rows are cut out first: the step may hold many more, of other runs.
        value = rows_of(self._cut(held, self.terms[0], rows), self.axis)
        for term in self.terms[1:]:
            value = value + rows_of(self._cut(held, term, rows), self.axis)
        if self.bias is not None:
            value = value + tensor_at(held, self.bias)
        value = self._of_columns(value)
        if self.scale != 1.0:
            value = value * self.scale
        return value.reshape(len(value), *self.shape)

    def put(self, held: Any, rows: Rows, new: torch.Tensor) -> Any:
        """What shall be held instead, with `new` `[how many, *shape]` at some of the rows.

        Nothing that was held is changed: other rows, and other readers of it, keep theirs.
        """
        flat = new.reshape(len(new), prod(self.shape))
        if self.scale != 1.0:
            flat = flat / self.scale
        if self.bias is not None:
            flat = flat - self._of_columns(tensor_at(held, self.bias)[None])
        for number, term in enumerate(self.terms):
            given = flat if number == 0 else torch.zeros_like(flat)
            changed = self._with_rows(self._whole(held, term), rows, given)
            held = _replaced(held, term, own_part(changed) if self.parted else changed)
        return held

    def _of_columns(self, value: torch.Tensor) -> torch.Tensor:
        if self.columns is None:
            return value
        pieces = [value[:, start:stop] for start, stop in self.columns]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def _whole(self, held: Any, term: Term) -> torch.Tensor:
        tensor = tensor_at(held, term)
        return gathered(tensor) if self.parted else tensor

    def _cut(self, held: Any, term: Term, rows: Rows) -> torch.Tensor:
        tensor = tensor_at(held, term)[(*(_ALL,) * self.axis, rows)]
        return gathered(tensor) if self.parted else tensor

    def _with_rows(self, tensor: torch.Tensor, rows: Rows, new: torch.Tensor) -> torch.Tensor:
        moved = tensor.movedim(self.axis, 0)
        changed = moved.reshape(len(moved), -1).clone()
        new = new.to(changed)
        if self.columns is None:
            changed[rows] = new
        else:
            begin = 0
            for start, stop in self.columns:
                changed[rows, start:stop] = new[:, begin : begin + stop - start]
                begin += stop - start
        return changed.reshape(moved.shape).movedim(0, self.axis)

    def to_plain(self) -> dict[str, Any]:
        """Plain data, as JSON has it."""
        return {
            "address": list(self.address),
            "point": list(self.point),
            "terms": [list(term) for term in self.terms],
            "columns": None if self.columns is None else [list(piece) for piece in self.columns],
            "shape": list(self.shape),
            "kind": self.kind,
            "axis": self.axis,
            "bias": None if self.bias is None else list(self.bias),
            "scale": self.scale,
            "parted": self.parted,
            "stage": self.stage,
        }


def form_from_plain(plain: Mapping[str, Any]) -> Form:
    """The form that `Form.to_plain` described."""
    columns = plain["columns"]
    return Form(
        address=Address(*plain["address"]),
        point=Point(*plain["point"]),
        terms=tuple(tuple(term) for term in plain["terms"]),
        columns=None if columns is None else tuple((start, stop) for start, stop in columns),
        shape=tuple(plain["shape"]),
        kind=plain["kind"],
        axis=plain["axis"],
        bias=None if plain["bias"] is None else tuple(plain["bias"]),
        scale=plain["scale"],
        parted=plain["parted"],
        stage=plain["stage"],
    )


def rows_of(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """A tensor as `[rows, everything else]`."""
    if axis == 0 and tensor.dim() == 2:
        return tensor
    moved = tensor.movedim(axis, 0)
    return moved.reshape(len(moved), -1) if moved.numel() else moved.new_zeros(len(moved), 0)


def tensor_at(held: Any, term: Term) -> torch.Tensor:
    """The tensor at the end of a way into what is held."""
    for step in term:
        held = held[step]
    assert isinstance(held, torch.Tensor), "a form ends at a tensor"
    return held


def _replaced(held: Any, term: Term, new: torch.Tensor) -> Any:
    """What is held, with another tensor there; the containers on the way are new ones."""
    if not term:
        return new
    step, rest = term[0], term[1:]
    changed = _replaced(held[step], rest, new)
    if isinstance(held, Mapping):
        return {**held, step: changed}
    items = [changed if place == step else item for place, item in enumerate(held)]
    if hasattr(held, "_fields"):
        return type(held)(*items)
    return type(held)(items)


def tensor_spec_of(spec: Spec) -> TensorSpec | None:
    """The only tensor in what an address holds; None where there are none or several.

    Beside it there may be None, empty tuples and empty dicts, nothing else.
    """
    found = list(_tensors(spec))
    return found[0] if len(found) == 1 and isinstance(found[0], TensorSpec) else None


def _tensors(spec: Spec) -> list[Spec]:
    match spec:
        case TensorSpec():
            return [spec]
        case TupleSpec(items=items):
            return [found for item in items for found in _tensors(item)]
        case DictSpec(items=items):
            return [found for _, item in items for found in _tensors(item)]
        case OpaqueSpec(kind="NoneType"):
            return []
        case _:
            return [spec]  # something of the model's own that cannot be made here


def packed(tensor: Any, spec: Spec) -> Any:
    """A tensor as the address holds it on Hugging Face, e.g. `(tensor, None)`."""
    match spec:
        case TensorSpec():
            return tensor
        case TupleSpec(items=items):
            return tuple(packed(tensor, item) for item in items)
        case DictSpec(items=items):
            return {key: packed(tensor, item) for key, item in items}
        case OpaqueSpec():
            return None


def unpacked(value: Any, spec: Spec) -> Any:
    """The only tensor in a value that is like `spec`."""
    if isinstance(spec, TensorSpec):
        return value
    parts = (
        [(value[place], item) for place, item in enumerate(spec.items)]
        if isinstance(spec, TupleSpec)
        else [(value[key], item) for key, item in spec.items]
        if isinstance(spec, DictSpec)
        else []
    )
    inside = [(part, item) for part, item in parts if tensor_spec_of(item) is not None]
    return unpacked(*inside[0])
