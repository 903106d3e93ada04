"""`module.skip(value)` while a block is recorded: the module does not run, its output is `value`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.errors import NotSupported, ShapeMismatch
from nnsight_lab.ir import STEP, Address, OpaqueSpec, Read, Skip, Spec, TupleSpec
from nnsight_lab.passes.check import check_fits
from nnsight_lab.passes.shapes import meta_of_spec, module_path
from nnsight_lab.passes.skips import (
    check_skippable,
    inside_skipped,
    skip_moments,
    skipped_too_early,
    skipped_twice,
)
from nnsight_lab.tracing.cells import Cell, Value, place_and_line
from nnsight_lab.tracing.parts import Part
from nnsight_lab.tracing.peeks import Visit
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.source import at_line, user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["Skips"]


class Skips(Part):
    """The modules that do not run in one recording."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._skips: list[tuple[Skip, int, int]] = []

    def skip(self, path: str, call: int, value: Any) -> None:
        """Skip one call of a module. In a generation its output is replaced, which is the same.

        A module that keeps keys and values of the text must see every position of it.

        Raises:
            AddressNotFound: the model does not run it.
            ShapeMismatch: the value is not of the shape the module gives.
            WriteTooEarly: the value is made after the module is due.
            GraphError: something inside it is read or edited, or it is skipped already.
            NotSupported: an invoke is open; a module runs for all rows or for none.
        """
        where, places, tree = user_line(), self._recorder.places, self._recorder.tree
        if places.invoke is not None:
            raise NotSupported(
                "A module runs for all rows of the batch, so one invoke cannot skip it.",
                hint="Skip it in tracer.invoke() without a prompt, or write its output here.",
            ).at(where)
        address = Address(module_path(tree, path), "output", call)
        step = places.steps.step_of(address)
        at_line(where, places.check_rows, address, step)
        at_line(where, places.steps.moment, address)
        at_line(where, check_skippable, tree, address)
        before, after = (step * STEP + local for local in skip_moments(tree, address))
        if places.steps.generates:
            places.write(address, value)
            return
        spec = tree.by_address[address].spec
        held = meta_of_spec(spec, places.batch, places.pos)
        new = self._value(value, spec, held)
        at_line(where, check_fits, str(address), held, new.meta)
        if new.moment > before:
            raise skipped_too_early(address, *place_and_line(new.read)).at(where)
        id = self._recorder.next_id
        skip = Skip(id=id, address=address, value=new.node, step=step, where=where)
        self._check(skip, before, after)
        if self._recorder.peeks is not None:
            self._recorder.peeks.check_edit(Visit(address, before))
        self._recorder.add(skip, None, before)
        self._skips.append((skip, before, after))

    def _check(self, skip: Skip, before: int, after: int) -> None:
        for other, _, _ in self._skips:
            if (other.address, other.step) == (skip.address, skip.step):
                raise skipped_twice(skip.address, other.where).at(skip.where)
        for node in self._recorder.nodes:
            if not isinstance(node, Read | Skip):
                continue
            if before < self._recorder.moment_of(node.id) < after:
                error = inside_skipped(node.address, node.where, skip.address, skip.where)
                raise error.at(skip.where)

    def check_reached(self, address: Address, moment: int) -> None:
        """Whether the model comes by a place, as far as skipped modules go.

        Raises:
            GraphError: it lies inside a module that is skipped.
        """
        for skip, before, after in self._skips:
            if before < moment < after:
                raise inside_skipped(address, user_line(), skip.address, skip.where)

    def is_inside(self, path: str) -> bool:
        """Whether a module lies inside one that is skipped now."""
        whole = module_path(self._recorder.tree, path)
        return any(whole.startswith(f"{skip.address.path}.") for skip, _, _ in self._skips)

    def _value(self, value: Any, spec: Spec, held: Any) -> Value:
        """The value as one node, in the form that the module's callers expect."""
        recorder = self._recorder
        if not isinstance(spec, TupleSpec):
            return recorder.value_of(value, like=held)
        if isinstance(value, Proxy) and isinstance(value.now().meta, tuple | list):
            return value.now()
        if not isinstance(value, tuple | list):
            if not all(isinstance(item, OpaqueSpec) for item in spec.items[1:]):
                raise ShapeMismatch(
                    f"The module gives {spec}; one value cannot take its place.",
                    hint=f"Skip it with all of them: module.skip((value{_zeros(held[1:])})).",
                ).at(user_line())
            value = (value, *(None for _ in spec.items[1:]))
        likes = [*held, *(None for _ in value)]
        items = tuple(
            item if item is None else Proxy(recorder, Cell(recorder.value_of(item, like=like)))
            for item, like in zip(value, likes, strict=False)
        )
        found = recorder.call("lab.tuple", items, {})
        if not isinstance(found, Value):
            raise ShapeMismatch(
                "A module cannot be skipped with nothing.", hint="Give at least one tensor."
            ).at(user_line())
        return found


def _zeros(rest: Any) -> str:
    """What may stand for the other values that a module gives, such as its attention weights."""
    sizes = (tuple(item.shape) if isinstance(item, torch.Tensor) else None for item in rest)
    return "".join(", None" if size is None else f", torch.zeros{size}" for size in sizes)
