"""Which model a `%%trace` cell uses, and the tracer that its line asks for."""

from __future__ import annotations

from typing import Any

from nnsight_lab.errors import MagicUsage
from nnsight_lab.jupyter.body import Body
from nnsight_lab.jupyter.line import TraceLine
from nnsight_lab.models.lab import Lab
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run
from nnsight_lab.models.scans import scanned
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.tracing import Tracer

__all__ = ["chosen_model", "evaluated", "tracer_for"]


def chosen_model(space: dict[str, Any], said: TraceLine, used: TracedModel | None) -> TracedModel:
    """The model that the line names, else the one in use, else the only one there is.

    space: the user's variables. used: what `%nnl use` chose.

    Raises:
        MagicUsage: there is no such model, or no such lab, or more than one could be meant.
    """
    model = _named(space, said.model) if said.model else _default(space, used)
    return _placed(space, model, said.on) if said.on else model


def _named(space: dict[str, Any], expression: str) -> TracedModel:
    found = evaluated(space, expression)
    if not isinstance(found, TracedModel):
        raise MagicUsage(
            f"{expression} is a {type(found).__name__}, not a model.",
            hint="Load one: lm = nl.LanguageModel('tiny'), or put the prompt in quotes.",
        )
    return found


def _default(space: dict[str, Any], used: TracedModel | None) -> TracedModel:
    if used is not None:
        return used
    found = {id(value): value for value in space.values() if isinstance(value, TracedModel)}
    if len(found) == 1:
        return next(iter(found.values()))
    names = [name for name, value in space.items() if isinstance(value, TracedModel)]
    raise MagicUsage(
        f"Which model? There are {', '.join(names)}." if names else "There is no model yet.",
        hint="Name it, %%trace lm …, or choose one with %nnl use NAME.",
    )


def _placed(space: dict[str, Any], model: TracedModel, on: str) -> TracedModel:
    if on == "local":
        return model if hasattr(model.executor, "module") else LanguageModel(model.name)
    lab = space.get(on)
    if not isinstance(lab, Lab):
        raise MagicUsage(
            f"--on {on}: no connected lab has that name.",
            hint="lab = nl.connect(url, token=…), then --on lab; or --on local.",
        )
    return lab.model(model.name)


def evaluated(space: dict[str, Any], expression: str) -> Any:
    """What an expression of the user's line is. Raises `MagicUsage` for an unknown name."""
    try:
        return eval(expression, space)  # the user's own line, own kernel
    except NameError as exc:
        raise MagicUsage(
            f"{expression}: {exc}.", hint="Define it first, or put text in quotes."
        ) from None


def _after(space: dict[str, Any], model: TracedModel, said: TraceLine) -> Tracer[Any]:
    """The tracer of `--then`."""
    run = evaluated(space, said.then)
    if not isinstance(run, Run):
        raise MagicUsage(
            f"--then {said.then} is a {type(run).__name__}, not a run.",
            hint="Name the variable of an earlier run: --then run.",
        )
    others = {"a prompt": said.prompts, "-g": said.generation, "--bg": said.background}
    others |= {"--scan": said.scan, "--explain": said.explain}
    for other in (name for name, value in others.items() if value):
        raise MagicUsage(
            f"--then {said.then} has the prompt of that run, so {other} does not go with it.",
            hint="Leave one of them out.",
        )
    if run.model is not model and run.model.executor is not model.executor:
        raise MagicUsage(
            f"--then {said.then} is a run of another model, {run.model.name}.",
            hint="Name the model of that run, or leave the model out.",
        )
    return run.trace()


def tracer_for(
    space: dict[str, Any], model: TracedModel, said: TraceLine, body: Body
) -> Tracer[Any]:
    """The tracer that a cell records with, not begun yet. Raises `MagicUsage`, `BadInput`."""
    if said.then:
        return _after(space, model, said)
    given = [evaluated(space, prompt) for prompt in said.prompts]
    if not given and not body.invokes:
        raise MagicUsage("There is no prompt.", hint='%%trace lm "The capital of France is"')
    generating = dict(said.generation)
    if generating and not isinstance(model, LanguageModel):
        raise MagicUsage(
            f"{model.name} is no language model; it generates nothing.", hint="Leave out -g."
        )
    options: dict[str, Any] = {"peek": not (said.no_peek or said.scan or said.explain)}
    if said.explain:
        options["execute"] = False
    prompt = given
    if isinstance(model, LanguageModel):
        prompt = [given[0] if len(given) == 1 else given] if given else []
    begin: Any = model.generate if generating else model.trace
    tracer: Tracer[Any] = begin(*prompt, **options, **generating)
    if said.scan:
        return scanned(tracer)
    return tracer.in_background() if said.background else tracer
