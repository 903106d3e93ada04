"""Which object is shown how. `%load_ext nnsight_lab` registers it, `%unload_ext` takes it back.

The notebook is told what the HTML of a class is; the classes know nothing of it, and nothing is
patched: `repr` and `print` are those of the object itself. So is `text/plain`, but for a graph,
which is shown as its text form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from nnsight_lab.errors import LabError
from nnsight_lab.ir import Graph, ModuleTree
from nnsight_lab.jupyter.reprs.failed_cells import forget_failed_cells, show_failed_cells
from nnsight_lab.jupyter.reprs.faults import error_html
from nnsight_lab.jupyter.reprs.graphs import graph_html
from nnsight_lab.jupyter.reprs.html import FAINT, Markup, code, tag
from nnsight_lab.jupyter.reprs.labs import experiment_html, lab_html, models_html
from nnsight_lab.jupyter.reprs.runs import (
    cache_html,
    cached_html,
    proxy_html,
    run_html,
    shapes_html,
)
from nnsight_lab.jupyter.reprs.tensors import tensor_html
from nnsight_lab.jupyter.reprs.trees import (
    envoy_html,
    in_words,
    own_names,
    size_in_words,
    tree_html,
)
from nnsight_lab.models.experiment import Experiment
from nnsight_lab.models.lab import Lab, LabModel, LabModels
from nnsight_lab.models.run import Run
from nnsight_lab.models.scans import Shapes
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.tracing import Proxy, Tracer
from nnsight_lab.tracing.caches import Cache, CachedModule
from nnsight_lab.tracing.envoy import Envoy, path_of

__all__ = ["html_of", "register_reprs", "unregister_reprs"]

_HTML = "text/html"
_PLAIN = "text/plain"


class _Reprs:
    """The displays of one notebook; it knows the names of the notebook's variables."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def named(self, value: Any, default: str) -> str:
        """The variable that holds a value, to write code with."""
        space = dict(self._shell.user_ns)
        names = (name for name, held in space.items() if held is value and name[:1] != "_")
        return next(names, default)

    def model(self, model: TracedModel) -> Markup:
        """A model: what it is, then its tree."""
        card = model.card
        size = f"{size_in_words(card.parameters)} parameters" if card.parameters else ""
        layers = in_words(card.layers, "layer") if card.layers else ""
        context = f"up to {card.context:,} positions" if card.context else ""
        edits = in_words(len(model.edits), "stored edit") if model.edits else ""
        where = f"{card.dtype} on {card.capabilities.device} ({card.capabilities.engine})"
        told = " · ".join(filter(None, (card.architecture, layers, size, where, context, edits)))
        head = tag("div", tag("b", card.name), " ", tag("span", told, style=FAINT))
        tree, name = model.tree, self.named(model, "model")
        own = _own(model, tree, name, tree.paths)
        return tree_html("model", tree, name, head, own=own, buffers=_buffers(model))

    def envoy(self, envoy: Envoy) -> Markup:
        """A module of a model."""
        tree = object.__getattribute__(envoy, "_tree")()
        path, name = path_of(envoy), self._model_of(envoy)
        return envoy_html(tree, path, name, _own(envoy, tree, name, (path,)))

    def _model_of(self, envoy: Envoy) -> str:
        models = [name for name, held in dict(self._shell.user_ns).items()
                  if isinstance(held, TracedModel) and name[:1] != "_"]  # fmt: skip
        return models[0] if len(models) == 1 else "model"

    def lab(self, lab: Lab) -> Markup:
        """A lab's server."""
        return lab_html(lab, self.named(lab, "lab"))

    def models(self, models: LabModels) -> Markup:
        """What a server serves."""
        return models_html(models, self._lab())

    def _lab(self) -> str:
        held = dict(self._shell.user_ns).items()
        return next((name for name, value in held if isinstance(value, Lab)), "lab")

    def table(self) -> dict[type[Any], Callable[[Any], Markup | None]]:
        """What is shown how. Subclasses are shown as their nearest class here."""
        return {
            TracedModel: self.model,
            Envoy: self.envoy,
            Graph: graph_html,
            Tracer: lambda tracer: graph_html(tracer.graph),
            Run: run_html,
            Shapes: shapes_html,
            Cache: cache_html,
            CachedModule: cached_html,
            Proxy: proxy_html,
            torch.Tensor: tensor_html,
            Lab: self.lab,
            LabModels: self.models,
            LabModel: lambda model: models_html([model], self._lab()),
            Experiment: experiment_html,
            LabError: error_html,
        }


def _buffers(model: TracedModel) -> frozenset[str] | None:
    """Paths of the buffers of a model's modules; None of a model whose modules are not here."""
    module = getattr(model.executor, "module", None)
    return None if module is None else frozenset(name for name, _ in module.named_buffers())


def _own(holder: Any, tree: ModuleTree, name: str, paths: Iterable[str]) -> list[Markup]:
    """The names that the user gave, and the modules that the user attached."""
    aliases, attached = (object.__getattribute__(holder, of) for of in ("_aliases", "_attached"))
    return own_names(tree, name, paths, aliases, attached)


def _or_text(draw: Callable[[Any], Markup | None]) -> Callable[[Any], str | None]:
    """The same, but for values it cannot draw: those have their plain text, and the cell goes on."""

    def drawn(value: Any) -> str | None:
        try:
            html = draw(value)
        except LabError as exc:
            html = tag("div", code(str(exc)))
        except Exception:  # noqa: BLE001 - a seam: a strange value must not break the cell it ends
            return None
        return None if html is None else str(html)

    return drawn


def html_of(value: Any, shell: Any) -> str | None:
    """How a value is shown in a notebook; None where its plain text is all."""
    table = _Reprs(shell).table()
    draw = next((table[kind] for kind in type(value).__mro__ if kind in table), None)
    return None if draw is None else _or_text(draw)(value)


def _graph_as_text(graph: Graph, printer: Any, cycle: bool) -> None:
    """A graph that is shown, not printed, is its text form, where that is no wall of text."""
    short = len(graph) <= _TEXT_LINES and not cycle
    printer.text(str(graph) if short else f"{graph!r}; print(graph) says it all")


_TEXT_LINES = 60
_IN_USE = "_nnsight_lab_reprs"


def register_reprs(shell: Any) -> None:
    """Show our objects, and tensors, as HTML in a notebook; again after a reload."""
    unregister_reprs(shell)
    reprs, html = _Reprs(shell), shell.display_formatter.formatters[_HTML]
    before = {kind: html.for_type(kind, _or_text(draw)) for kind, draw in reprs.table().items()}
    shell.display_formatter.formatters[_PLAIN].for_type(Graph, _graph_as_text)
    show_failed_cells(shell)
    setattr(shell, _IN_USE, before)


def unregister_reprs(shell: Any) -> None:
    """Leave the notebook as it was: whatever showed tensors before shows them again."""
    before = getattr(shell, _IN_USE, None)
    if before is None:
        return
    html = shell.display_formatter.formatters[_HTML]
    for kind, draw in before.items():
        html.pop(kind, None)
        if draw is not None:
            html.for_type(kind, draw)
    shell.display_formatter.formatters[_PLAIN].pop(Graph, None)
    forget_failed_cells(shell)
    delattr(shell, _IN_USE)
