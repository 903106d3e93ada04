"""`nl.slider("strength", 0, 8)`: a number of an experiment that may be moved without recording again.

    with lm.trace(prompt) as tracer:
        strength = nl.slider("strength", 0, 8, value=4)
        lm.layers[2].output[:, -1] += strength * direction
        logits = lm.logits.save()
    tracer.run.at(strength=6)["logits"]        # the same graph with another number

In the graph it is a constant that has a name and limits (`ir/sliders.py`). A slider that is made
before a block means, in each block, that block's own.
"""

from __future__ import annotations

from typing import Any

import torch

from nnsight_lab.errors import BadSlider
from nnsight_lab.ir import Constant, SliderRange
from nnsight_lab.ir.sliders import slider_data
from nnsight_lab.passes.schedule import BEFORE
from nnsight_lab.tracing.cells import Cell, Value
from nnsight_lab.tracing.openings import open_recordings
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.source import one_frame, user_line

__all__ = ["SliderBefore", "slider"]


@one_frame
def slider(
    name: str, low: float, high: float, *, value: float | None = None, step: float | None = None
) -> Any:
    """A number that may be moved after the run: a recorded value of no axes.

    name: a Python name, under which `run.at(name=…)` moves it. low, high: its limits, both within.
    value: where it stands when it is recorded; by default the lower limit.
    step: by how much a widget moves it. With a whole step and whole limits it is a whole number,
        and may be an index; else it is a float32.

    Declared twice under one name, it is one slider.

    Raises:
        BadSlider: the limits are none, the value is not within them, or another slider of this
            block has the name.
    """
    may_be = SliderRange(name, low, high, step)
    _check_types(may_be)
    data = slider_data(may_be, low if value is None else value)
    before = SliderBefore(may_be, Constant(id=0, value=data, slider=may_be))
    opened = open_recordings()
    return Proxy(opened[0][1], before.cell_in(opened[0][1])) if opened else before


def _check_types(may_be: SliderRange) -> None:
    name: Any = may_be.name
    numbers: list[Any] = [may_be.low, may_be.high, *([] if may_be.step is None else [may_be.step])]
    plain = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if not isinstance(name, str) or not plain:
        raise BadSlider(
            "A slider is made of a name and two numbers.",
            hint='nl.slider("strength", 0, 8, value=4, step=0.1)',
        )


class SliderBefore(Proxy):
    """A slider that was made outside any block. In a block it is that block's recorded value."""

    __slots__ = ("_node", "_range")

    def __init__(self, may_be: SliderRange, node: Constant) -> None:
        self._range = may_be
        self._node = node
        self._steps = ()
        self._seen = -1
        self._value = self._pin = self._saved = None

    @property
    def recorder(self) -> Any:  # type: ignore[override]
        """The recording that is open now, or what stands for none."""
        opened = open_recordings()
        return opened[0][1] if opened else _NoRecording(self._range.name)

    @property
    def _cell(self) -> Cell:  # type: ignore[override]
        return self.cell_in(self.recorder)

    def cell_in(self, recorder: Recorder) -> Cell:
        """What it is in a recording, where a slider of one name is one node."""
        name = self._range.name
        known = recorder.sliders.get(name)
        if known is None:
            known = recorder.sliders[name] = (self._node, _recorded(recorder, self._node))
        elif known[0] != self._node:
            raise BadSlider(
                f"There is another slider {name!r} in this block, with other limits or value.",
                hint="Give them different names, or declare it once and use it twice.",
            ).at(user_line())
        fixed = f"Slider {name!r} is moved from outside; a trace does not edit it."
        return Cell(known[1], fixed=fixed)

    @property
    def value(self) -> Any:
        """It has none: only a run of it has. Raises `BadSlider`."""
        raise _only_in_a_trace(self._range.name)

    def save(self) -> Proxy:
        """Ask for its value back, as any recorded value."""
        recorder = self.recorder
        return Proxy(recorder, self.cell_in(recorder)).save()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and not open_recordings():
            raise AttributeError(name)
        return super().__getattr__(name)

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        may_be = self._range
        return f"<slider {may_be.name}: {may_be.low:g} to {may_be.high:g}>"


class _NoRecording:
    """What a slider finds where no block is open."""

    open = False

    def __init__(self, name: str) -> None:
        self.results: dict[int, Any] = {}
        self.missing: set[int] = set()
        self._name = name

    def __getattr__(self, name: str) -> Any:
        raise _only_in_a_trace(self._name)


def _only_in_a_trace(name: str) -> BadSlider:
    return BadSlider(
        f"Slider {name!r} has a value only in a trace.",
        hint="Use it inside the block: with lm.trace(prompt): ... strength * direction.",
    ).at(user_line())


def _recorded(recorder: Recorder, node: Constant) -> Value:
    meta = torch.empty((), dtype=getattr(torch, node.value.dtype), device="meta")
    at_line = Constant(id=recorder.next_id, value=node.value, slider=node.slider, where=user_line())
    return recorder.add(at_line, meta, BEFORE)
