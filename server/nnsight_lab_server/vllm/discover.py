"""Which tensors of vLLM's model are the value of an address: found by comparing numbers.

    candidates(reference, surveys)[address]    # the likeliest forms, best first

A value may be a tensor of vLLM's own, the sum of two that are held at one point, or some columns of
a wider one. Several may be right for reading; which one takes an edit as Hugging Face does is tried
in `probe.py`. Names only decide what is tried first, and nothing is keyed by a model's class.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.forms import Form, Point, Term, rows_of
from nnsight_lab_server.vllm.reference import Reference
from nnsight_lab_server.vllm.survey import Held, Survey

__all__ = ["Findings", "candidates", "close_enough", "difference", "points_in_order"]

_TRIED = 8
_PIECES = 512
_FIRST_COLUMNS = 4


@dataclass(frozen=True)
class Findings:
    """What the comparison gave.

    forms: by address, those whose value is right and how far it is off, the likeliest first.
    nearest: for addresses without any, how far off the likeliest place is, relative to its scale.
    """

    forms: Mapping[Address, tuple[tuple[Form, float], ...]]
    nearest: Mapping[Address, float]


@dataclass(frozen=True)
class _Source:
    """One tensor, or the sum of two, at one point; the rows of all prompts one after another."""

    point: Point
    attention: bool
    order: int
    terms: tuple[Term, ...]
    axis: int
    rows: torch.Tensor
    columns: tuple[tuple[int, int], ...] | None = None
    bias: Term | None = None
    scale: float = 1.0
    parted: bool = False
    stage: int = 0

    @property
    def value(self) -> torch.Tensor:
        """What a form of it takes."""
        if self.columns is not None:
            return torch.cat([self.rows[:, start:stop] for start, stop in self.columns], dim=1)
        return self.rows * self.scale if self.scale != 1.0 else self.rows


def close_enough(dtype: torch.dtype) -> float:
    """How far numbers may be apart, relative to the largest."""
    return {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 5e-3}.get(dtype, 3e-2)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the largest value of `other`; infinite for no number."""
    apart = (one.double() - other.double()).abs().max() if other.numel() else torch.tensor(0.0)
    scale = other.double().abs().max() if other.numel() else torch.tensor(1.0)
    found = float(apart / scale) if float(scale) else float(apart)
    return found if found == found else float("inf")  # noqa: PLR0124 - not a number


def points_in_order(survey: Survey) -> list[Point]:
    """The points of a forward pass that come once, in their order, and the logits after them."""
    times = Counter(held.point for held in survey.held)
    once = [held.point for held in survey.held if times[held.point] == 1]
    return [*once, Point("logits", "")]


def candidates(reference: Reference, surveys: Sequence[Survey]) -> Findings:
    """Forms for every address of the reference.

    surveys: one of each prompt.
    """
    sources = list(_sources(surveys))
    by_width: dict[tuple[int, bool], list[_Source]] = {}
    for source in sources:
        key = source.rows.shape[1], source.rows.is_floating_point()
        by_width.setdefault(key, []).append(source)
    firsts = {
        key: torch.stack([source.rows[:, :_FIRST_COLUMNS] for source in group])
        for key, group in by_width.items()
    }
    forms: dict[Address, tuple[tuple[Form, float], ...]] = {}
    nearest: dict[Address, float] = {}
    paths = reference.card.tree.module_of
    for address, values in reference.values.items():
        wanted = _one_after_another(values, 0)
        key = wanted.shape[1], wanted.is_floating_point()
        tolerance = close_enough(wanted.dtype)
        group = by_width.get(key, [])
        near = _near(wanted, firsts[key], tolerance) if group else []
        layer = _layer(_path(address, paths))
        known = (
            [group[n] for n in near if difference(group[n].rows, wanted) <= tolerance]
            or list(_in_columns(wanted, sources, layer, tolerance))
            or list(_in_proportion(wanted, group, layer, tolerance))
        )
        ranked = sorted(known, key=lambda source: _rank(address, paths, source))
        shape = tuple(values[0].shape[1:])
        forms[address] = tuple(
            (_form(address, source, shape), difference(source.value, wanted))
            for source in ranked[:_TRIED]
        )
        if not ranked:
            nearest[address] = _nearest(address, paths, wanted, group)
    return Findings(forms, nearest)


def _form(address: Address, source: _Source, shape: tuple[int, ...]) -> Form:
    return Form(
        address,
        source.point,
        source.terms,
        source.columns,
        shape,
        kind="logits" if source.point.stage == "logits" else "rows",
        axis=source.axis,
        bias=source.bias,
        scale=source.scale,
        parted=source.parted,
        stage=source.stage,
    )


def _one_after_another(values: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
    return torch.cat([rows_of(value, axis) for value in values])


def _sources(surveys: Sequence[Survey]) -> Iterator[_Source]:
    """Every tensor that has a row for each token, and every sum of two at one point."""
    once = [set(points_in_order(survey)) for survey in surveys]
    found = [{held.point: held for held in survey.held} for survey in surveys]
    for order, held in enumerate(surveys[0].held):
        if not all(held.point in points for points in once):
            continue
        each = [survey[held.point] for survey in found]
        alone = list(_single(each, order, [survey.rows for survey in surveys]))
        yield from alone
        yield from _with_bias(alone, each)
        for number, one in enumerate(alone):
            for other in alone[number + 1 :]:
                if _can_be_added(one, other):
                    terms = (*one.terms, *other.terms)
                    yield replace(one, terms=terms, rows=one.rows + other.rows)
    logits = [survey.logits for survey in surveys]
    if all(tensor is not None for tensor in logits):
        rows = torch.cat([tensor for tensor in logits if tensor is not None])
        last = max((held.stage for held in surveys[0].held), default=0)
        end = len(surveys[0].held)
        yield _Source(Point("logits", ""), False, end, ((),), 0, rows, stage=last)


def _with_bias(alone: Sequence[_Source], each: Sequence[Held]) -> Iterator[_Source]:
    """Tensors and a vector beside them, which vLLM's linear layers may hand on to be added later."""
    for way, vector in each[0].tensors.items():
        others = [held.tensors.get(way) for held in each]
        if vector.dim() != 1 or not vector.is_floating_point():
            continue
        if not all(other is not None and torch.equal(other, vector) for other in others):
            continue
        for source in alone:
            if source.rows.is_floating_point() and source.rows.shape[1] == len(vector):
                yield replace(source, bias=way, rows=source.rows + vector)


def _single(each: Sequence[Held], order: int, lengths: Sequence[int]) -> Iterator[_Source]:
    first = each[0]
    for way, tensor in first.tensors.items():
        for axis in range(tensor.dim()):
            others = [held.tensors.get(way) for held in each]
            if not all(
                other is not None and _fits(tensor, other, axis, length)
                for other, length in zip(others, lengths, strict=True)
            ):
                continue
            rows = _one_after_another([other for other in others if other is not None], axis)
            parted = way in first.parted
            yield _Source(
                first.point,
                first.attention,
                order,
                (way,),
                axis,
                rows,
                parted=parted,
                stage=first.stage,
            )


def _fits(first: torch.Tensor, other: torch.Tensor, axis: int, length: int) -> bool:
    """Whether both have the same axes, but for the rows."""
    one, two = list(first.shape), list(other.shape)
    if len(one) != len(two) or two[axis] != length:
        return False
    del one[axis], two[axis]
    return one == two and first.dtype == other.dtype


def _can_be_added(one: _Source, other: _Source) -> bool:
    alike = one.rows.shape == other.rows.shape and one.axis == other.axis
    alike = alike and one.parted == other.parted
    return alike and one.rows.is_floating_point() and other.rows.is_floating_point()


def _near(wanted: torch.Tensor, firsts: torch.Tensor, tolerance: float) -> list[int]:
    """Which of the tensors begin as the wanted one does."""
    scale = wanted.double().abs().max() if wanted.numel() else torch.tensor(0.0)
    begin = wanted[:, :_FIRST_COLUMNS].double()
    apart = (firsts.double() - begin).abs().flatten(1).amax(1)
    return [int(place) for place in (apart <= tolerance * scale).nonzero().flatten()]


_Columns = tuple[tuple[int, int], ...]


def _in_columns(
    wanted: torch.Tensor, sources: Sequence[_Source], layer: tuple[int, ...], tolerance: float
) -> Iterator[_Source]:
    """Wider tensors of the same layer that have the value among their columns."""
    for source in sources:
        wider = source.rows.shape[1] > wanted.shape[1] or (
            source.rows.shape[1] == wanted.shape[1] > 1
        )
        like = source.rows.is_floating_point() == wanted.is_floating_point()
        if not wider or not like or _layer(source.point.path) != layer or len(source.terms) > 1:
            continue
        columns = _columns(wanted, source.rows, tolerance)
        if columns is not None:
            yield replace(source, columns=columns)


def _in_proportion(
    wanted: torch.Tensor, group: Sequence[_Source], layer: tuple[int, ...], tolerance: float
) -> Iterator[_Source]:
    """Tensors of the same layer that are so many times the value, everywhere."""
    if not wanted.is_floating_point():
        return
    for source in group:
        if _layer(source.point.path) != layer or source.point.stage == "logits":
            continue
        there = source.rows.double()
        scale = float((there * wanted.double()).sum() / (there * there).sum().clamp(min=1e-30))
        if scale and difference(there * scale, wanted) <= tolerance:
            yield replace(source, scale=scale)


def _columns(wanted: torch.Tensor, wide: torch.Tensor, tolerance: float) -> _Columns | None:
    """Where in a wide tensor the wanted columns are, as pieces; None when they are not."""
    close = tolerance * float(wanted.double().abs().max())
    pieces: list[tuple[int, int]] = []
    done, width = 0, wanted.shape[1]
    while done < width:
        starts = _alike(wide, wanted[:, done : done + 1], close).nonzero().flatten()[:16]
        runs = [(_run(wanted[:, done:], wide[:, int(at) :], close), int(at)) for at in starts]
        if not runs or len(pieces) >= _PIECES:
            return None
        length, start = max(runs, key=lambda run: (run[0], -run[1]))
        pieces.append((start, start + length))
        done += length
    return tuple(pieces)


def _alike(one: torch.Tensor, other: torch.Tensor, close: float) -> torch.Tensor:
    return (one.double() - other.double()).abs().amax(0) <= close


def _run(wanted: torch.Tensor, wide: torch.Tensor, close: float) -> int:
    """How many columns from the first on are the same."""
    length = min(wanted.shape[1], wide.shape[1])
    same = _alike(wide[:, :length], wanted[:, :length], close)
    return length if bool(same.all()) else int(same.int().argmin())


# Which is tried first


def _path(address: Address, paths: Mapping[str, str]) -> str:
    """The module path behind an address."""
    return paths.get(address.path, address.path)


def _layer(path: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"(?<=\.)\d+(?=\.|$)", path)[:1])


def _rank(address: Address, paths: Mapping[str, str], source: _Source) -> tuple[float, ...]:
    """How likely this is where the address is; the smallest first."""
    path, point = _path(address, paths), source.point
    inside = "before" if address.port in ("q", "k", "v") else None
    at_attention = source.attention and point.stage == inside
    stage = "after" if address.port == "output" else "before"
    likeness = difflib.SequenceMatcher(None, path, point.path).ratio()
    return (
        0 if inside is None or at_attention else 1,
        0 if _layer(path) == _layer(point.path) else 1,
        0 if path == point.path else 1,
        0 if stage == point.stage else 1,
        1 - likeness,
        len(source.terms),
        len(source.columns or ()),
        source.order,
    )


def _nearest(
    address: Address, paths: Mapping[str, str], wanted: torch.Tensor, group: Sequence[_Source]
) -> float:
    """How far off the most similar value of the same width in the same layer is."""
    layer = _layer(_path(address, paths))
    there = [source for source in group if _layer(source.point.path) == layer]
    return min((difference(source.rows, wanted) for source in there), default=float("inf"))
