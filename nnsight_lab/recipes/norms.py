"""norms_and_directions: how long the residual stream is, and where it points.

Norms, cosines to directions of yours, and the two main axes of each layer, computed where the model
is: a few numbers a place travel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nnsight_lab.errors import BadInput, ShapeMismatch
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run
from nnsight_lab.recipes.lens import stream_names
from nnsight_lab.recipes.prompt import model_of, prompt_of, run_on, tokens_of
from nnsight_lab.recipes.result import Result
from nnsight_lab.tracing.source import one_frame

__all__ = ["StreamGeometry", "norms_and_directions"]


@dataclass(frozen=True, eq=False, repr=False)
class StreamGeometry(Result):
    """Lengths and directions of the residual stream of one prompt.

    tokens: the prompt. layers: rows, `embed` (before block 0), then `0`, `1`, … (after each block).
    norms: `[layer, pos]`. directions: names. cosines: `[direction, layer, pos]`.
    points: `[layer, pos, 2]`, positions on the two main axes of each layer's stream, around their
    mean. explained: `[layer, 2]`, the share of the variance on each axis.
    skipped: how many positions from the front are not in the axes; their points are NaN.
    Options of the figure: `kind`, `"norms"` (default), `"cosine"` with `direction=name`, or `"pca"`
    with `layer=n`.
    """

    tokens: list[str]
    layers: list[str]
    norms: torch.Tensor
    directions: list[str]
    cosines: torch.Tensor
    points: torch.Tensor
    explained: torch.Tensor
    skipped: int


@one_frame
def norms_and_directions(
    source: LanguageModel | Run,
    prompt: Any = None,
    *,
    directions: Mapping[str, torch.Tensor] | None = None,
    skip: int = 0,
    row: int = 0,
) -> StreamGeometry:
    """Norms, cosines and main axes of the stream, at each layer and position.

    source: a model, with a `prompt`; or a run, whose prompt and edits are used.
    directions: vectors `[d_model]` by name, of any length.
    skip: leave so many positions at the front out of the axes: a begin token may dwarf the others.
    row: which prompt of a batch.

    Raises:
        BadInput: there is no such row, or fewer than three positions are left for the axes.
        ShapeMismatch: a direction has another width than the stream.
    """
    model = model_of(source)
    given = prompt_of(source, prompt, row)
    tokens = tokens_of(model, given, row)
    if skip < 0 or len(tokens) - skip < 3:
        raise BadInput(
            f"Of {len(tokens)} positions, {skip} skipped: two axes need three.",
            hint="Give a longer prompt, or skip=0.",
        )
    named = dict(directions or {})
    with model.trace(given, execute=False) as tracer:
        tracer.save(**_recorded(model, row, len(tokens), skip, named))
    run = run_on(source, tracer.graph, given)
    points = _signed(run["points"])
    front = torch.full((len(points), skip, 2), torch.nan)
    cosines = run["cosines"] if named else torch.zeros(0, *run["norms"].shape)
    return StreamGeometry(
        tokens, stream_names(model), run["norms"], list(named), cosines,
        torch.cat([front, points], dim=1), run["explained"], skip,
    )  # fmt: skip


def _recorded(
    model: LanguageModel, row: int, count: int, skip: int, directions: dict[str, torch.Tensor]
) -> dict[str, Any]:
    blocks = [model.layers[0].input, *(layer.output for layer in model.layers)]
    stream = torch.stack([resid[row, -count:].float() for resid in blocks])
    found: dict[str, Any] = {"norms": stream.norm(dim=-1)}
    if directions:
        units = torch.stack([_unit(name, v, stream.shape[-1]) for name, v in directions.items()])
        found["cosines"] = ((stream @ units.T) / found["norms"][..., None]).permute(2, 0, 1)
    rest = stream[:, skip:]
    centred = rest - rest.mean(1, keepdim=True)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    found["points"] = left[..., :2] * sizes[:, None, :2]
    found["explained"] = sizes[:, :2].square() / sizes.square().sum(-1, keepdim=True)
    return found


def _unit(name: str, direction: Any, width: int) -> torch.Tensor:
    vector = torch.as_tensor(direction).detach().float()
    if vector.shape != (width,):
        raise ShapeMismatch(
            f"Direction {name!r} has shape {list(vector.shape)}; the stream has d_model {width}.",
            hint=f"Give a vector of {width} numbers.",
        )
    if not vector.norm() > 0:
        raise BadInput(f"Direction {name!r} has no length.", hint="Give one that is not zero.")
    unit: torch.Tensor = vector / vector.norm()
    return unit


def _signed(points: torch.Tensor) -> torch.Tensor:
    """An axis has no sign of its own: the position farthest out is on the positive side."""
    farthest = points.abs().argmax(1, keepdim=True)
    return points * points.gather(1, farthest).sign()
