"""linear_probe: can a property of a prompt be read off the residual stream by a linear map?

Alain and Bengio (2016). One logistic regression a layer, on a part of the prompts, judged on the
others. What a probe finds is there; whether the model uses it, patching and steering say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from nnsight_lab.errors import BadInput
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.recipes.lens import stream_names
from nnsight_lab.recipes.prompt import model_of
from nnsight_lab.recipes.result import Result
from nnsight_lab.recipes.streams import stream_at
from nnsight_lab.tracing.source import one_frame

__all__ = ["LinearProbe", "fit_logistic", "linear_probe"]


@dataclass(frozen=True, eq=False, repr=False)
class LinearProbe(Result):
    """One linear classifier for each row of the residual stream.

    layers: rows, `embed` (before block 0), then `0`, `1`, … (after each block).
    classes: the labels, in order. train, test: `[layer]`, share of prompts that are right.
    chance: the share of the most frequent class among the test prompts.
    weight: `[layer, class, d_model]`, bias: `[layer, class]`, for the stream as it is.
    train_prompts, test_prompts: which ones, by their place in what was given.
    """

    layers: list[str]
    classes: list[Any]
    train: torch.Tensor
    test: torch.Tensor
    chance: float
    weight: torch.Tensor
    bias: torch.Tensor
    train_prompts: list[int]
    test_prompts: list[int]

    def direction(self, layer: int) -> torch.Tensor:
        """`[d_model]`, of length 1: for two classes, from the first to the second, after a block.

        Raises:
            BadInput: there are more than two classes, or no such layer.
        """
        if len(self.classes) != 2:
            raise BadInput(
                f"There are {len(self.classes)} classes, so no one direction.",
                hint="probe.weight[1 + layer] has a direction for each class.",
            )
        count = len(self.layers) - 1
        if layer not in range(-count, count):
            raise BadInput(f"There is no layer {layer!r}.", hint=f"0 to {count - 1}.")
        weight = self.weight[1 + layer % count]
        found: torch.Tensor = weight[1] - weight[0]
        unit: torch.Tensor = found / found.norm()
        return unit


@one_frame
def linear_probe(
    model: LanguageModel,
    prompts: Sequence[Any],
    labels: Sequence[Any],
    *,
    position: int = -1,
    test: float = 0.3,
    penalty: float = 1.0,
    seed: int = 0,
    batch: int = 32,
) -> LinearProbe:
    """Learn to tell the labels of prompts from the stream at one position, layer by layer.

    prompts, labels: one label a prompt: numbers, words, booleans.
    position: counted from the end of each prompt. test: the share of prompts that is held out, of
        each class. seed: of that choice. penalty: on the squared weights, of inputs scaled to
        variance 1; larger is simpler. batch: how many prompts a run has.

    Raises:
        BadInput: lengths differ, there is one class, or too few prompts of one to hold any out.
    """
    model = model_of(model)
    if len(prompts) != len(labels):
        raise BadInput(
            f"There are {len(prompts)} prompts and {len(labels)} labels.", hint="One label each."
        )
    classes, target = _numbered(labels)
    held = _held_out(target, test, seed)
    stream = stream_at(model, prompts, position, batch)
    names = stream_names(model)
    fits = [fit_logistic(stream[~held, row], target[~held], penalty) for row in range(len(names))]
    weight, bias = (torch.stack(part) for part in zip(*fits, strict=True))
    scores = torch.einsum("pld,lcd->plc", stream, weight) + bias
    right = (scores.argmax(-1) == target[:, None]).float()
    chance = float(target[held].bincount().max() / held.sum())
    return LinearProbe(
        names, classes, right[~held].mean(0), right[held].mean(0), chance, weight, bias,
        (~held).nonzero().flatten().tolist(), held.nonzero().flatten().tolist(),
    )  # fmt: skip


def _numbered(labels: Sequence[Any]) -> tuple[list[Any], torch.Tensor]:
    plain = [label.item() if isinstance(label, torch.Tensor) else label for label in labels]
    classes = sorted(set(plain), key=lambda label: (str(type(label)), label))
    if len(classes) < 2:
        raise BadInput("There is nothing to tell apart.", hint="Give prompts of two classes.")
    places = {label: place for place, label in enumerate(classes)}
    return classes, torch.tensor([places[label] for label in plain])


def _held_out(target: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """`[prompt]`, true for those to be judged on: the share of each class, at least one."""
    draw = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(target), dtype=torch.bool)
    for kind in target.unique():
        members = (target == kind).nonzero().flatten()
        count = max(round(share * len(members)), 1)
        if not 0 < share < 1 or count >= len(members):
            raise BadInput(
                f"{len(members)} prompts of a class cannot be split, {share:g} of them for the test.",
                hint="Give more prompts of each class, or test=0.3.",
            )
        held[members[torch.randperm(len(members), generator=draw)[:count]]] = True
    return held


def fit_logistic(
    given: torch.Tensor, target: torch.Tensor, penalty: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multinomial logistic regression: `weight` `[class, d]` and `bias` `[class]` for `given`.

    given: `[prompt, d]`. target: `[prompt]`, classes from 0. The loss is the sum of the cross
    entropies plus half the penalty times the squared weights, of inputs scaled to mean 0 and
    variance 1. It is convex: the answer does not depend on where the search starts.
    """
    mean, spread = given.double().mean(0), given.double().std(0, correction=0)
    # Where prompts hardly differ, scaling up would make rounding as large as what is to be learned.
    spread = spread.clamp_min(max(1e-3 * float(spread.square().mean().sqrt()), 1e-6))
    scaled = (given.double() - mean) / spread
    classes = int(target.max()) + 1
    weight = torch.zeros(classes, given.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Any:
        search.zero_grad()
        found = cross_entropy(scaled @ weight.T + bias, target, reduction="sum")
        found = found + penalty / 2 * weight.square().sum()
        found.backward()
        return found

    with torch.enable_grad():
        search.step(loss)
    plain = weight.detach() / spread
    return plain.float(), (bias.detach() - plain @ mean).float()
