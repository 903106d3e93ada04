"""attribution_patching: patching of every place at once, to first order (Nanda, 2023).

The gradient of the metric on the corrupt run, times what patching would change: one forward and
one backward pass for a whole map, in place of a forward pass for each cell. An estimate: it is
good where the metric is nearly linear, and worst for large changes of the early residual stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.recipes.metric import Metric, measure_of
from nnsight_lab.recipes.patching import Patching
from nnsight_lab.recipes.places import Part, Positions, places_of
from nnsight_lab.recipes.prompt import model_of
from nnsight_lab.tracing.source import one_frame

__all__ = ["attribution_patching"]


@one_frame
def attribution_patching(
    model: LanguageModel,
    clean: Any,
    corrupt: Any,
    metric: Metric,
    *,
    part: Part = "resid",
    layers: Sequence[int] | None = None,
    positions: Positions | None = None,
) -> Patching:
    """Estimate what `activation_patching` would give, from one gradient.

    The arguments are those of `activation_patching`, and so is the result.

    Raises:
        BadInput: as there, and so `AddressNotFound`.
        NotSupported: the engine computes no gradients.
    """
    model = model_of(model)
    measure, name = measure_of(model, metric)
    places = places_of(model, (clean, corrupt), part, layers, positions)
    if not places.layers:
        raise BadInput("There are no layers to patch.", hint="Leave layers out for all.")
    with model.trace() as tracer:
        with tracer.invoke(places.clean):
            sources = [
                places.taken(places.read(layer), places.clean_pos) for layer in places.layers
            ]
            before = measure(model.logits)[0]
        with tracer.invoke(places.corrupt):
            held = [places.read(layer) for layer in places.layers]
            metric_here = measure(model.logits)[0]
            with metric_here.backward():
                rows = []
                for source, value in zip(sources, held, strict=True):
                    change = source - places.taken(value, places.corrupt_pos)
                    effect = change * places.taken(value.grad, places.corrupt_pos)
                    rows.append(effect.float().flatten(1).sum(-1))
        tracer.save(effect=torch.stack(rows), clean=before.float(), corrupt=metric_here.float())
    run = tracer.run
    found = (run["effect"], float(run["clean"]), float(run["corrupt"]))
    return Patching(part, name, places.layers, places.columns, *found, estimated=True)
