"""The options of `lm.generate`, read: what is asked for, as data."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, TypeVar

import torch

from nnsight_lab.contract import Generation, Several, TokenRows
from nnsight_lab.errors import BadInput

__all__ = ["OPTIONS", "draws_anew", "generation_of", "with_generation", "with_its_seed"]

InputsT = TypeVar("InputsT", bound=TokenRows | Several)

OPTIONS = (
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "eos_token_id",
)
"""The options there are, with the names that `transformers` gives them."""

_DEFAULT_TOKENS = 20


def generation_of(options: Mapping[str, Any]) -> Generation:
    """The generation that some options ask for.

    The likeliest token is taken, unless `do_sample`, `temperature`, `top_k` or `top_p` is given.

    Raises:
        BadInput: there is no such option, or two of them contradict each other.
    """
    for name in options:
        if name not in OPTIONS:
            near = get_close_matches(name, OPTIONS, 1, 0.5)
            hint = f"Did you mean {near[0]}?" if near else f"Options: {', '.join(OPTIONS)}."
            raise BadInput(f"lm.generate has no option {name!r}.", hint=hint)
    given = {name: value for name, value in options.items() if value is not None}
    cuts = [name for name in ("temperature", "top_k", "top_p") if name in given]
    sample, temperature = given.get("do_sample"), given.get("temperature", 1.0)
    if sample is not None and not isinstance(sample, bool):
        raise BadInput(f"do_sample cannot be {sample!r}.", hint="It is True or False.")
    if (sample is False and cuts and cuts != ["temperature"]) or (
        sample is False and temperature not in (0, 1.0)
    ):
        raise BadInput(
            f"do_sample=False takes the likeliest token, so {cuts[0]} has no effect.",
            hint="Leave one of them out.",
        )
    if sample is True and temperature == 0:
        raise BadInput(
            "temperature=0 takes the likeliest token, which is not sampling.",
            hint="Leave out do_sample, or give a temperature over 0.",
        )
    if sample is None:
        sample = bool(cuts)
    return Generation(
        max_new_tokens=given.get("max_new_tokens", _DEFAULT_TOKENS),
        temperature=temperature if sample else 0.0,
        top_k=given.get("top_k") or None,  # 0 is no limit, as for `transformers`
        top_p=given.get("top_p"),
        seed=given.get("seed"),
        stop_ids=_ids(given.get("eos_token_id")),
    )


def with_generation(inputs: InputsT, options: Mapping[str, Any]) -> InputsT:
    """Prompts to go on from with these options, as for `generate`; without any, as they are.

    Raises:
        BadInput: there is no such option, or the prompts are those of several traces.
    """
    if not options:
        return inputs
    if isinstance(inputs, Several):
        raise BadInput(
            "The options of a generation are for one prompt, not for a session.",
            hint="Give them to each: lm.tokenize(prompt, max_new_tokens=5).",
        )
    return replace(inputs, generation=generation_of(options))


def draws_anew(options: Generation | None) -> bool:
    """Whether every run draws other tokens: it samples, and has no seed."""
    return options is not None and options.temperature != 0 and options.seed is None


def with_its_seed(inputs: TokenRows) -> TokenRows:
    """A sampled text of one prompt, with a seed drawn now: a peek sees what the run will give.

    Several rows draw each their own, which one seed cannot say; they stay as they are.
    """
    options = inputs.generation
    if options is None or not draws_anew(options) or inputs.batch > 1:
        return inputs
    return replace(inputs, generation=replace(options, seed=secrets.randbits(62)))


def _ids(value: Any) -> tuple[int, ...] | None:
    """Ids that end a text: one, or several; an empty list for none."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    several = isinstance(value, Iterable) and not isinstance(value, str)
    return tuple(value) if several else (value,)
