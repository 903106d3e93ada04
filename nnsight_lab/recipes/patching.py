"""activation_patching: which activation carries the answer from one prompt into another.

Vig et al. (2020), Meng et al. (2022). Each place of the clean run is written into the corrupt run
by itself. One run makes a layer: the corrupt prompt is given once for each column, and row `i` is
patched in column `i`; nothing but the metric comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.recipes.cancelling import Cancel, cancelled_by
from nnsight_lab.recipes.metric import Measure, Metric, measure_of
from nnsight_lab.recipes.places import Part, Places, Positions, places_of
from nnsight_lab.recipes.prompt import model_of
from nnsight_lab.recipes.result import Result
from nnsight_lab.tracing.source import one_frame

__all__ = ["PatchedRow", "Patching", "activation_patching", "patching_rows"]


@dataclass(frozen=True, eq=False, repr=False)
class Patching(Result):
    """What patching each place does to a metric.

    part: what was patched, `resid`, `attn`, `mlp` or `heads`. metric: its name.
    layers: rows, from 0. columns: tokens of the corrupt prompt, or heads.
    effect: `[layer, column]`, the metric of the patched run minus that of the corrupt run.
    clean, corrupt: the metric of the two runs. estimated: whether from gradients.
    Options of the figure: `recovered=True` (default) draws the share, False the effect.
    """

    part: str
    metric: str
    layers: list[int]
    columns: list[str]
    effect: torch.Tensor
    clean: float
    corrupt: float
    estimated: bool = False

    @cached_property
    def patched(self) -> torch.Tensor:
        """`[layer, column]`: the metric of each patched run."""
        return self.corrupt + self.effect

    @cached_property
    def recovered(self) -> torch.Tensor:
        """`[layer, column]`: 0 where nothing changed, 1 where the clean metric is back."""
        return self.effect / (self.clean - self.corrupt)


@dataclass(frozen=True, eq=False)
class PatchedRow:
    """One layer of a map, as soon as it is there.

    layer: from 0. patched: `[column]`, the metric. clean, corrupt: the metric of the two runs.
    """

    layer: int
    patched: torch.Tensor
    clean: float
    corrupt: float


@one_frame
def activation_patching(
    model: LanguageModel,
    clean: Any,
    corrupt: Any,
    metric: Metric,
    *,
    part: Part = "resid",
    layers: Sequence[int] | None = None,
    positions: Positions | None = None,
    batch: int = 64,
    on_row: Callable[[PatchedRow], None] | None = None,
    cancel: Cancel | None = None,
) -> Patching:
    """Write one activation of the clean run at a time into the corrupt run, and measure.

    clean, corrupt: two prompts. metric: two tokens, `(" Mary", " John")`, for the difference of
        their logits at the last position, or a function of the logits `[batch, pos, d_vocab]`
        that gives `[batch]`; it is recorded.
    part: `resid`, `attn`, `mlp` for a map of layers by positions, `heads` for layers by heads.
    layers, positions: all, if left out. Prompts that differ in length need positions as pairs
        `(clean, corrupt)`. A head is patched at all of them together.
    batch: how many prompts a run has at most.
    on_row: called with each layer as it arrives. cancel: ends it from another thread.

    Raises:
        BadInput: no such metric, part or position; the prompts differ in length.
        AddressNotFound: there is no such layer.
        Cancelled: `cancel.cancel()` was called.
    """
    plan = _plan(model, clean, corrupt, metric, part, layers, positions, batch)
    rows = []
    for row in _rows(plan, cancel):
        rows.append(row)
        if on_row is not None:
            on_row(row)
    before = rows[0].corrupt
    effect = torch.stack([row.patched for row in rows]) - before
    return Patching(
        part, plan.name, plan.places.layers, plan.columns, effect, rows[0].clean, before
    )


@one_frame
def patching_rows(
    model: LanguageModel,
    clean: Any,
    corrupt: Any,
    metric: Metric,
    *,
    part: Part = "resid",
    layers: Sequence[int] | None = None,
    positions: Positions | None = None,
    batch: int = 64,
    cancel: Cancel | None = None,
) -> Iterator[PatchedRow]:
    """The rows of `activation_patching`, one layer after another; each is run when asked for.

    A loop that ends early runs nothing further. The arguments are those of `activation_patching`.

    Raises:
        BadInput: as there, and so `AddressNotFound` and `Cancelled`.
    """
    return _rows(_plan(model, clean, corrupt, metric, part, layers, positions, batch), cancel)


@dataclass(frozen=True)
class _Plan:
    places: Places
    measure: Measure
    name: str
    columns: list[str]
    batch: int


def _plan(
    model: LanguageModel, clean: Any, corrupt: Any, metric: Metric, part: Part,
    layers: Sequence[int] | None, positions: Positions | None, batch: int,
) -> _Plan:  # fmt: skip
    model = model_of(model)
    if batch < 1:
        raise BadInput(f"A run cannot have {batch} prompts.", hint="batch=64, say.")
    measure, name = measure_of(model, metric)
    places = places_of(model, (clean, corrupt), part, layers, positions)
    if not places.layers:
        raise BadInput("There are no layers to patch.", hint="Leave layers out for all.")
    return _Plan(places, measure, name, places.columns, batch)


def _rows(plan: _Plan, cancel: Cancel | None) -> Iterator[PatchedRow]:
    count = len(plan.columns)
    for layer in plan.places.layers:
        parts = []
        for start in range(0, count, plan.batch):
            chosen = list(range(start, min(start + plan.batch, count)))
            with cancelled_by(cancel):
                clean, found = _measured(plan, layer, chosen)
            parts.append(found[1:])
        yield PatchedRow(layer, torch.cat(parts), float(clean), float(found[0]))


def _measured(plan: _Plan, layer: int, columns: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The metric of the clean run; of the corrupt run unpatched, then patched in each column."""
    places, model = plan.places, plan.places.model
    rows = places.corrupt.rows * (len(columns) + 1)
    with model.trace() as tracer:
        with tracer.invoke(places.clean):
            source = places.taken(places.read(layer), places.clean_pos)
            clean = plan.measure(model.logits)
        with tracer.invoke([list(row) for row in rows]):
            places.put(places.read(layer), columns, source)
            patched = plan.measure(model.logits)
        tracer.save(clean=clean[0].float(), patched=patched.float())
    run = tracer.run
    return run["clean"], run["patched"]
