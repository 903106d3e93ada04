"""What a finished run looks like in a live view, when nobody says how it should."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from nnsight_lab.jupyter.live.view import LiveView
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run
from nnsight_lab.models.traced import TracedModel

__all__ = ["Picture", "chips_of", "draw", "texts_of"]

Picture: TypeAlias = Callable[[Run], Any]
"""What to draw of a run: a number, a vector, labels with numbers, or several of them by name."""

_TOP = 8
_CURVE = 4096


def chips_of(model: TracedModel, ids: Iterable[int]) -> list[str]:
    """Tokens one by one, as text that can be seen."""
    return [model.token_string(id) if isinstance(model, LanguageModel) else str(id) for id in ids]


def texts_of(model: TracedModel, steps: Sequence[Sequence[int]]) -> list[str]:
    """What was sampled, row by row, as it reads. steps: an id for each row, step by step."""
    tokenizer = model.tokenizer if isinstance(model, LanguageModel) else None
    rows = [list(row) for row in zip(*steps, strict=False)]
    if tokenizer is None:
        return [" ".join(map(str, row)) for row in rows]
    return [str(tokenizer.decode(row)) for row in rows]


def draw(view: LiveView, run: Run, picture: Picture | None = None) -> None:
    """Draw a run: its tokens, and what `picture` gives of it, or else what it saved."""
    if run.tokens:
        view.tokens([chips_of(run.model, row) for row in zip(*run.tokens, strict=True)])
        view.written(texts_of(run.model, run.tokens))
    found = {name: run[name] for name in run} if picture is None else picture(run)
    if not isinstance(found, Mapping):
        found = {getattr(picture, "__name__", "picture").strip("<>"): found}
    elif found and all(isinstance(value, int | float) for value in found.values()):
        found = {"picture": found}
    for name, value in found.items():
        _draw_one(view, run, name, value)


def _draw_one(view: LiveView, run: Run, name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        view.bars(name, [(_seen(str(label)), float(number)) for label, number in value.items()])
    elif isinstance(value, torch.Tensor) and _is_logits(value, run):
        view.bars(f"{name}: next token", _likeliest(value, run))
    elif isinstance(value, torch.Tensor) and value.numel() == 1:
        view.value(name, f"{value.item():.4g}")
    elif (
        isinstance(value, torch.Tensor) and value.squeeze().dim() == 1 and value.numel() <= _CURVE
    ) or (isinstance(value, list | tuple) and all(isinstance(n, int | float) for n in value)):
        view.line(name, value)
    elif isinstance(value, torch.Tensor):
        view.value(name, f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}")
    else:
        view.value(name, f"{value:.4g}" if isinstance(value, float) else str(value)[:80])


def _is_logits(value: torch.Tensor, run: Run) -> bool:
    return value.dim() > 0 and value.is_floating_point() and value.shape[-1] == run.model.card.vocab


def _seen(label: str) -> str:
    """A label with its whitespace visible, as tokens have it."""
    return label.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")


def _likeliest(logits: torch.Tensor, run: Run) -> list[tuple[str, float]]:
    """The most probable tokens after the last position of the last row; several may look alike."""
    top = logits.detach().reshape(-1, logits.shape[-1])[-1].float().softmax(-1).topk(_TOP)
    return list(zip(chips_of(run.model, top.indices.tolist()), top.values.tolist(), strict=True))
