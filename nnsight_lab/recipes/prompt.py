"""What a recipe is given: which model, which row of a batch, its tokens as text, which layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import AddressNotFound, BadInput, NotSupported
from nnsight_lab.ir import Graph
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run

__all__ = [
    "layers_of",
    "model_of",
    "one_prompt",
    "prompt_of",
    "run_on",
    "token_id",
    "tokens_of",
    "word",
]


def model_of(source: Any) -> LanguageModel:
    """The language model of a run, or the model itself.

    Raises:
        NotSupported: it is another kind of model, or one without standard names.
    """
    model = source.model if isinstance(source, Run) else source
    if not isinstance(model, LanguageModel) or not model.card.layers:
        raise NotSupported(
            f"{getattr(model, 'name', model)} has no standard names, so it has no layers to read.",
            hint="Trace it by module path: model.lm_head(model.norm(h)).",
        )
    return model


def prompt_of(source: LanguageModel | Run, prompt: Any, row: int) -> TokenRows:
    """The prompt of a run, or the one given, after a look that it has such a row.

    Raises:
        BadInput: it is no prompt, or has no such row.
    """
    if isinstance(source, Run):
        given: Any = source.inputs
    else:
        given = prompt if isinstance(prompt, TokenRows) else source.tokenize(prompt)
    if not isinstance(given, TokenRows):
        raise NotSupported(
            "This run is a session of several traces; a view shows one.",
            hint="Trace that prompt by itself, and take the view of its run.",
        )
    if row not in range(-given.batch, given.batch):
        raise BadInput(
            f"There is no row {row!r}: the batch has {given.batch}, from 0.",
            hint=f"row=0 to row={given.batch - 1}." if given.batch > 1 else "Leave row out.",
        )
    return given


def run_on(source: LanguageModel | Run, graph: Graph, given: TokenRows) -> Run:
    """Run a recorded graph: after a run's edits, or on the model as it is."""
    return source.then(graph) if isinstance(source, Run) else source.run(graph, given)


def one_prompt(model: LanguageModel, prompt: Any) -> TokenRows:
    """A single prompt as token ids.

    Raises:
        BadInput: it is no prompt, or there are several.
    """
    given = model.tokenize(prompt)
    if given.batch != 1:
        raise BadInput(
            f"{given.batch} prompts were given; this takes one.",
            hint="Give one text, and call it once for each.",
        )
    return given


def token_id(model: LanguageModel, token: str | int) -> int:
    """The id of a token that is given as text, `" Paris"`, or as its id.

    Raises:
        BadInput: there is no such id, or the text is not a single token.
    """
    most = model.card.vocab
    if isinstance(token, int) and not isinstance(token, bool):
        if most and token not in range(most):
            raise BadInput(f"There is no token {token}.", hint=f"Ids are 0 to {most - 1}.")
        return token
    if not isinstance(token, str) or not token:
        raise BadInput(f"{token!r} is no token.", hint='Give its text, " Paris", or its id.')
    if model.tokenizer is None:
        raise BadInput("This model has no tokenizer, so it cannot read text.", hint="Give the id.")
    ids = model.tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        parts = ", ".join(repr(model.token_string(id)) for id in ids) or "nothing"
        near = (
            "" if token.startswith(" ") else f' With a space in front, " {token}", it may be one.'
        )
        raise BadInput(
            f"{token!r} is not one token but {parts}.",
            hint=f"Give a single token, or its id.{near}",
        )
    return int(ids[0])


def layers_of(model: LanguageModel, layers: Iterable[int] | None) -> list[int]:
    """Layers as numbers from 0; None is all of them, negative ones count from the last.

    Raises:
        AddressNotFound: there is no such layer.
    """
    count = model.card.layers
    chosen = list(range(count)) if layers is None else list(layers)
    for layer in chosen:
        if layer not in range(-count, count):
            raise AddressNotFound(
                f"{model.name} has no layer {layer!r}.", hint=f"It has 0 to {count - 1}."
            )
    return [layer % count for layer in chosen]


def tokens_of(model: LanguageModel, given: TokenRows, row: int) -> list[str]:
    """The tokens of a row as text, one string a position."""
    return [word(model, id) for id in given.rows[row]]


def word(model: LanguageModel, id: int) -> str:
    """One token as text; a part of a character as its bytes, `F0 9F`."""
    return model.token_string(id)
