"""A lab's server and its models, and experiments. A lab says where it is and asks it nothing."""

from __future__ import annotations

from collections.abc import Sequence

from nnsight_lab.jupyter.reprs.html import COPY, FAINT, Markup, code, copied, page, table, tag
from nnsight_lab.jupyter.reprs.trees import size_in_words
from nnsight_lab.models.experiment import Experiment
from nnsight_lab.models.lab import Lab, LabModel

__all__ = ["experiment_html", "lab_html", "models_html"]


def lab_html(lab: Lab, name: str) -> Markup:
    """Where a lab is, and what to do with it. name: the variable that holds it."""
    asked, loaded = (
        copied(code(text), text) for text in (f"{name}.models()", f'{name}.model("…")')
    )
    head = tag("div", tag("b", "Lab"), " at ", code(lab.url))
    said = tag("div", asked, " what it serves · ", loaded, " a model to trace with", style=FAINT)
    return page("lab", head, said, onclick=COPY)


def models_html(models: Sequence[LabModel], name: str) -> Markup:
    """The models of a lab; a click on a name copies what makes it a model here."""
    if not models:
        return page("models", tag("div", "The lab serves no models."))
    heads = ["model", "architecture", "layers", "parameters", "dtype", "engine", "device"]
    rows = [_row(model, name) for model in models]
    compared = [model.certificate for model in models]
    states = ["" if model.state == "ready" else model.state for model in models]
    queues = [model.queue for model in models]
    for head, column in (("compared", compared), ("state", states), ("runs", queues)):
        if any(column):  # most labs have nothing to say there
            heads.append(head)
            rows = [[*row, text] for row, text in zip(rows, column, strict=True)]
    return page("models", table(heads, rows), onclick=COPY)


def _row(model: LabModel, name: str) -> list[str]:
    made = f"lm = {name}.model({model.name!r})"
    cell = copied(code(model.name, "font-weight: 600"), made)
    known = bool(model.architecture)  # else it has not loaded yet
    size = size_in_words(model.parameters) if known else ""
    cells = [cell, model.architecture, str(model.layers) if known else "", size]
    return [*cells, model.dtype, model.engine, model.device]


def experiment_html(experiment: Experiment) -> Markup:
    """An experiment: the lines of its plain text as a table."""
    head, *lines = repr(experiment).splitlines()
    rows = [line.strip().partition(": ")[::2] for line in lines]
    made = [(tag("b", name), value) for name, value in rows]
    return page("experiment", tag("div", tag("b", head.strip("<>"))), table((), made))
