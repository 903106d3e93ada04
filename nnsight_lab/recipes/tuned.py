"""tuned_lens: a logit lens with a learned affine map in front of it, one a layer.

Belrose et al. (2023). Layers write in other bases than the last one; a translator `h + W h + b` for
each takes that out. It is trained so that what the lens reads agrees with the model's output: the
mean Kullback-Leibler divergence from the one to the other. The model itself is not changed: its
stream and its readout are fetched once, and the training happens here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run
from nnsight_lab.recipes.lens import LogitLens, lens_through, stream_names
from nnsight_lab.recipes.prompt import model_of
from nnsight_lab.recipes.readout import Readout, recorded_readout
from nnsight_lab.recipes.result import Result
from nnsight_lab.recipes.streams import streams_of
from nnsight_lab.tracing.source import one_frame

__all__ = ["TunedLens", "readout_of", "tuned_lens"]


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens(Result):
    """A translator for each row of the residual stream but the last.

    layers: rows, `embed`, then `0`, `1`, … weight: `[layer, d_model, d_model]`, bias:
    `[layer, d_model]`: row `l` is read as `h + h @ weight[l].T + bias[l]`.
    plain, tuned: `[layer]`, mean divergence from the output in nats, on held-out prompts, of the
    logit lens and of this. train: `[layer]`, of this, on the prompts it was trained on.
    """

    layers: list[str]
    weight: torch.Tensor
    bias: torch.Tensor
    plain: torch.Tensor
    tuned: torch.Tensor
    train: torch.Tensor

    @one_frame
    def lens(
        self, source: LanguageModel | Run, prompt: Any = None, *, top: int = 5, row: int = 0
    ) -> LogitLens:
        """Read a prompt, or a run with its edits, through the translators.

        Raises:
            BadInput: there is no such row, or there are fewer tokens than `top`.
        """

        def translated(index: int, resid: Any) -> Any:
            if index >= len(self.layers):
                return resid
            moved = resid + resid @ self.weight[index].T.to(resid.dtype)
            return moved + self.bias[index].to(resid.dtype)

        return lens_through(translated, source, prompt, top=top, row=row)


@one_frame
def tuned_lens(
    model: LanguageModel,
    prompts: Sequence[Any],
    *,
    test: float = 0.25,
    steps: int = 200,
    rate: float = 0.01,
    decay: float = 1e-3,
    tokens: int = 64,
    seed: int = 0,
    batch: int = 32,
) -> TunedLens:
    """Train the translators on a few prompts.

    test: the share of prompts that is held out and judged on. steps, rate, decay: of the training
    (AdamW; the rate falls to zero). tokens: how many positions a step takes. seed: of the choice of
    prompts and positions. batch: how many prompts a run has.

    Raises:
        BadInput: there are fewer than two prompts, or none would be held out.
    """
    model = model_of(model)
    if not 0 < test < 1 or len(prompts) < 2 or isinstance(prompts, str):
        raise BadInput(
            "Some prompts must be held out.", hint="Give a list of texts, and test=0.25."
        )
    streams = streams_of(model, prompts, batch)
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(streams), generator=draw).tolist()
    held = min(max(round(test * len(streams)), 1), len(streams) - 1)
    judged, learned = (
        torch.cat([streams[place] for place in part], dim=1)
        for part in (order[:held], order[held:])
    )
    readout = readout_of(model)
    with torch.no_grad():
        wanted, expected = (readout.logits(part[-1]).log_softmax(-1) for part in (learned, judged))
    training = _Training(steps, rate, decay, tokens, seed)
    fits, losses = [], []
    for row in range(len(learned) - 1):
        fit = _trained(readout, learned[row], wanted, training)
        none = (torch.zeros_like(fit[0]), torch.zeros_like(fit[1]))
        before, after = (_divergence(readout, judged[row], expected, each) for each in (none, fit))
        fits.append(fit)
        losses.append([before, after, _divergence(readout, learned[row], wanted, fit)])
    weight, bias = (torch.stack(part) for part in zip(*fits, strict=True))
    return TunedLens(stream_names(model)[:-1], weight, bias, *torch.tensor(losses).T)


def readout_of(model: LanguageModel) -> Readout:
    """The model's final norm and unembedding, fetched."""
    width = _width(model)
    with model.trace([[0]]) as tracer:
        tracer.save(**recorded_readout(model, width))
    run = tracer.run
    tensors = {name: run[name].float() for name in run}
    centred, epsilon = bool(tensors.pop("centred") > 0.5), float(tensors.pop("epsilon"))
    return Readout(centred=centred, epsilon=max(epsilon, 0.0), **tensors)


def _width(model: LanguageModel) -> int:
    with model.trace([[0]], execute=False):
        return int(model.layers[0].input.shape[-1])


@dataclass(frozen=True)
class _Training:
    steps: int
    rate: float
    decay: float
    tokens: int
    seed: int


def _trained(
    readout: Readout, given: torch.Tensor, wanted: torch.Tensor, training: _Training
) -> tuple[torch.Tensor, torch.Tensor]:
    """`weight` and `bias` of one translator.

    given: `[token, d_model]`. wanted: `[token, d_vocab]`, the model's log-probabilities there.
    """
    draw = torch.Generator().manual_seed(training.seed)
    some_of_them = min(training.tokens, len(given))
    width = given.shape[-1]
    # The stream's size differs between models; the map works on a stream of size 1.
    size = given.square().mean().sqrt()
    weight = torch.zeros(width, width, requires_grad=True)
    bias = torch.zeros(width, requires_grad=True)
    search = torch.optim.AdamW([weight, bias], lr=training.rate, weight_decay=training.decay)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(search, max(training.steps, 1))
    with torch.enable_grad():
        for _ in range(training.steps):
            some = torch.randint(len(given), (some_of_them,), generator=draw)
            search.zero_grad()
            loss = _loss(readout, given[some], wanted[some], (weight, bias * size))
            loss.backward()
            search.step()
            falling.step()
    return weight.detach(), bias.detach() * size


def _loss(
    readout: Readout, given: torch.Tensor, wanted: torch.Tensor, fit: tuple[Any, Any]
) -> torch.Tensor:
    """Mean divergence of what is read from the model's output, in nats."""
    weight, bias = fit
    read = readout.logits(given + given @ weight.T + bias).log_softmax(-1)
    return (wanted.exp() * (wanted - read)).sum(-1).mean()


@torch.no_grad()
def _divergence(
    readout: Readout, given: torch.Tensor, wanted: torch.Tensor, fit: tuple[Any, Any]
) -> float:
    return float(_loss(readout, given, wanted, fit))
