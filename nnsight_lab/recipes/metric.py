"""What patching measures: a number for each prompt, recorded in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from nnsight_lab.errors import BadInput, ShapeMismatch
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.recipes.prompt import token_id

__all__ = ["Measure", "Metric", "measure_of"]

Measure: TypeAlias = Callable[[Any], Any]
"""Recorded logits `[batch, pos, d_vocab]` to a recorded number for each prompt, `[batch]`."""

Metric: TypeAlias = tuple[str | int, str | int] | Measure
"""Two tokens, `(" Mary", " John")`: the logit of the first minus that of the second, at the last
position. Or a function, which is recorded: it is given the logits of a `Measure`."""


def measure_of(model: LanguageModel, metric: Metric) -> tuple[Measure, str]:
    """What to record for a metric, and its name in words.

    Raises:
        BadInput: it is neither two tokens nor a function.
    """
    if callable(metric):
        return _checked(metric), getattr(metric, "__name__", "metric").strip("<>")
    pair: Any = metric  # the type says two tokens; a notebook may say anything
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise BadInput(
            f"{metric!r} is no metric.",
            hint='Two tokens, (" Mary", " John"), or a function of the logits [batch, pos, d_vocab].',
        )
    answer, wrong = (token_id(model, token) for token in pair)

    def logit_difference(logits: Any) -> Any:
        last = logits[:, -1]
        return last[:, answer] - last[:, wrong]

    name = f"logit of {model.token_string(answer)} minus {model.token_string(wrong)}"
    return logit_difference, name


def _checked(metric: Measure) -> Measure:
    def measured(logits: Any) -> Any:
        found = metric(logits)
        shape = tuple(getattr(found, "shape", ()))
        if shape != tuple(logits.shape[:1]):
            raise ShapeMismatch(
                f"The metric gives shape {list(shape)}; there are {logits.shape[0]} prompts.",
                hint="Give one number a prompt: logits[:, -1, answer] - logits[:, -1, wrong].",
            )
        return found

    return measured
