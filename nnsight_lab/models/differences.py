"""What two runs saved under the same names, compared number by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.errors import NotSaved, ShapeMismatch
from nnsight_lab.passes.shapes import describe

if TYPE_CHECKING:
    from nnsight_lab.models.run import Run

__all__ = ["Difference", "Differences", "differences"]


@dataclass(frozen=True)
class Difference:
    """One saved value in two runs.

    largest: the largest absolute difference. where: its index. cosine: between both, as one
    long vector each; NaN where one is all zero. refused: why they cannot be compared, or "".
    """

    name: str
    shape: str
    largest: float = float("nan")
    where: tuple[int, ...] = ()
    cosine: float = float("nan")
    refused: str = ""


class Differences(Mapping[str, Difference]):
    """The saved names that two runs share, each with how far they differ. Prints as a table."""

    def __init__(self, found: list[Difference]) -> None:
        self._found = {each.name: each for each in found}

    def __getitem__(self, name: str) -> Difference:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        rows = [_HEAD, *map(_row, self._found.values())]
        widths = [max(len(row[place]) for row in rows if len(row) > 3) for place in range(5)]
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
            cells += [row[2]] if len(row) == 3 else [
                cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)
            ]  # fmt: skip
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{cell}</th>' for cell in _HEAD)
        rows = []
        for each in self._found.values():
            name, shape, *rest = map(escape, _row(each))
            cells = f'<th scope="row">{name}</th><td>{shape}</td>'
            span = f'<td colspan="3">{rest[0]}</td>' if each.refused else ""
            cells += span or "".join(f"<td>{cell}</td>" for cell in rest)
            rows.append(f"<tr>{cells}</tr>")
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


_HEAD = ("saved", "shape", "largest difference", "where", "cosine")


def _row(each: Difference) -> tuple[str, ...]:
    if each.refused:
        return each.name, each.shape, each.refused
    where = f"[{', '.join(map(str, each.where))}]"
    cosine = "–" if each.cosine != each.cosine else f"{each.cosine:.6f}"
    return each.name, each.shape, f"{each.largest:.3g}", where, cosine


def differences(run: Run, other: Run) -> Differences:
    """Compare what `run` saved with what `other` saved under the same names.

    Raises:
        NotSaved: they share no name.
        ShapeMismatch: all that they share has another shape in each.
    """
    first, second = (dict(_tensors(each)) for each in (run, other))
    shared = [name for name in first if name in second]
    if not shared:
        raise NotSaved(
            f"The runs share no saved name: one has {_listed(first)}, the other {_listed(second)}.",
            hint="Save both under one name.",
        )
    found = [_compared(name, first[name], second[name]) for name in shared]
    if all(each.refused for each in found):
        each = found[0]
        raise ShapeMismatch(
            f"{each.name} is {each.shape} in one run and {describe(second[each.name])} in the"
            " other, so they cannot be compared.",
            hint="Compare prompts of one length, or save a part that both have: logits[:, -1].",
        )
    return Differences(found)


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(list(values)[:6]) or "nothing"


def _tensors(run: Run) -> Iterator[tuple[str, torch.Tensor]]:
    for name in run:
        yield from _in(name, run[name])


def _in(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _in(f"{name}[{key!r}]", item)
    elif isinstance(value, tuple | list):
        for place, item in enumerate(value):
            yield from _in(f"{name}[{place}]", item)


def _compared(name: str, one: torch.Tensor, other: torch.Tensor) -> Difference:
    shape = describe(one)
    if one.shape != other.shape:
        return Difference(name, shape, refused=f"not compared: {describe(other)} in the other run")
    if one.is_meta or other.is_meta or not one.numel():
        return Difference(name, shape, refused="not compared: there are no numbers")
    wide = torch.complex128 if one.is_complex() or other.is_complex() else torch.float64
    a, b = (value.detach().cpu().to(wide) for value in (one, other))
    apart = torch.where(a == b, torch.zeros_like(a), a - b).abs()  # inf - inf is no difference
    apart = torch.where(a.isnan() & b.isnan(), torch.zeros_like(apart), apart)
    apart = apart.nan_to_num(
        nan=float("inf"), posinf=float("inf")
    )  # one has a number and the other none
    place = int(apart.flatten().argmax())
    index = torch.unravel_index(torch.tensor(place), apart.shape)
    return Difference(
        name, shape, float(apart.max()), tuple(map(int, index)), _cosine(a.flatten(), b.flatten())
    )


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    size = float(a.norm() * b.norm())
    return float(torch.vdot(a, b).real) / size if size else float("nan")
