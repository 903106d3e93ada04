"""Sliders: constants of a graph that have a name and limits, and may be given another value.

A slider is a `Constant` of one number that also says what it may be. Whoever knows nothing of
sliders runs it as that constant, so every engine takes it. Moving one makes another graph, which
differs in that number only: what was found out about how to run the first holds for the second.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nnsight_lab.errors import BadSlider
from nnsight_lab.ir.literals import TensorData
from nnsight_lab.ir.nodes import Constant, Node, SliderRange

__all__ = ["Slider", "checked", "moved", "slider_data", "slider_value", "sliders_of"]

_FORMATS = {"float32": "<f", "int64": "<q"}
"""A whole step makes whole numbers, which may be an index; all others are float32."""


@dataclass(frozen=True, slots=True)
class Slider:
    """A slider as a run has it: its limits, and where it stands."""

    name: str
    low: float
    high: float
    step: float | None
    value: float

    def __str__(self) -> str:
        by = "" if self.step is None else f", by {self.step:g}"
        return f"{self.name} = {self.value:g} ({self.low:g} to {self.high:g}{by})"


def slider_data(limits: SliderRange, value: Any) -> TensorData:
    """A slider's position as the tensor the graph holds.

    Raises:
        BadSlider: the range is none, or the value is no number within it.
    """
    _check_range(limits)
    whole = limits.whole
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadSlider(
            f"Slider {limits.name!r} cannot stand at {value!r}.",
            hint=f"Give a number from {limits.low:g} to {limits.high:g}.",
        )
    if whole and value != int(value):
        raise BadSlider(
            f"Slider {limits.name!r} takes whole numbers, and {value!r} is none.",
            hint="Give it a step that is no whole number, such as 0.1, to have others.",
        )
    if not limits.low <= value <= limits.high:
        raise BadSlider(
            f"Slider {limits.name!r} goes from {limits.low:g} to {limits.high:g}, not to {value:g}.",
            hint="Give a number within its limits, or other limits where it is declared.",
        )
    if whole:
        return TensorData("int64", (), struct.pack("<q", int(value)))
    return TensorData("float32", (), struct.pack("<f", value))


def _check_range(limits: SliderRange) -> None:
    if not limits.name.isidentifier():
        raise BadSlider(
            f"{limits.name!r} is no name for a slider.",
            hint='Give a Python name: nl.slider("strength", 0, 8).',
        )
    steps = () if limits.step is None else (limits.step,)
    numbers = (limits.low, limits.high, *steps)
    if not all(math.isfinite(number) and abs(number) < _LARGEST for number in numbers):
        raise BadSlider(
            f"The limits of slider {limits.name!r} are not finite.",
            hint="Give two numbers, the lower one first.",
        )
    if limits.low >= limits.high or any(step <= 0 for step in steps):
        raise BadSlider(
            f"Slider {limits.name!r} cannot go from {limits.low:g} to {limits.high:g}"
            + (f" by {limits.step:g}." if limits.step is not None else "."),
            hint="Give the lower limit first, and a step above zero.",
        )


_LARGEST = 2.0**62


def slider_value(constant: Constant) -> float:
    """Where a slider stands."""
    data = constant.value
    number = struct.unpack(_FORMATS[data.dtype], data.data)[0]
    if data.dtype == "int64":
        return int(number)
    for digits in range(1, 9):  # the shortest number that is the same float32, as it was written
        short = float(f"{number:.{digits}g}")
        if struct.pack("<f", short) == data.data:
            return short
    return float(number)


def checked(limits: SliderRange, data: TensorData) -> Constant:
    """A slider that came from somebody, as the node 0. Raises `BadSlider`."""
    expected = "int64" if limits.whole else "float32"
    if data.shape != () or data.dtype != expected:
        raise BadSlider(
            f"Slider {limits.name!r} holds {data.dtype}{list(data.shape)}, not one {expected}.",
            hint="nl.slider makes sliders; these bytes may have been changed.",
        )
    node = Constant(id=0, value=data, slider=limits)
    slider_data(limits, slider_value(node))
    return node


def sliders_of(nodes: Iterable[Node]) -> dict[str, Slider]:
    """The sliders among nodes, by name, in the order they were declared.

    Raises:
        BadSlider: two of one name have other limits, or stand elsewhere.
    """
    found: dict[str, Slider] = {}
    for node in nodes:
        if isinstance(node, Constant) and node.slider is not None:
            limits = node.slider
            one = Slider(limits.name, limits.low, limits.high, limits.step, slider_value(node))
            if found.setdefault(limits.name, one) != one:
                raise BadSlider(
                    f"There are two sliders {limits.name!r}: {found[limits.name]}, and {one}.",
                    hint="Give them different names, or the same limits and value.",
                    where=node.where,
                )
    return found


def moved(nodes: tuple[Node, ...], values: Mapping[str, Any]) -> tuple[Node, ...]:
    """The same nodes, with sliders at other values.

    Raises:
        BadSlider: there is no slider of a name, or it does not go there.
    """
    known = sliders_of(nodes)
    for name in values:
        if name not in known:
            has = f"It has {', '.join(known)}." if known else "It has none; nl.slider makes one."
            raise BadSlider(f"The experiment has no slider {name!r}.", hint=has)
    return tuple(_moved(node, values) for node in nodes)


def _moved(node: Node, values: Mapping[str, Any]) -> Node:
    if isinstance(node, Constant) and node.slider is not None and node.slider.name in values:
        return replace(node, value=slider_data(node.slider, values[node.slider.name]))
    return node
