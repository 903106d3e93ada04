"""nnsight_lab: look inside language models, from a notebook, on models you could never load.

    import nnsight_lab as nl

    lm = nl.LanguageModel("tiny")
    with lm.trace("The capital of France is"):
        h = lm.layers[2].output            # residual stream: [batch, pos, d_model]
        h[:, -1] += direction              # an edit of the model's own activation
        logits = lm.logits.save()          # [batch, pos, d_vocab]
    logits.argmax(-1)                      # a torch.Tensor from here on

The front door: every public name, imported when first used, so that `import nnsight_lab` loads
neither torch nor IPython. The rooms behind it are described in `docs/explanation/`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsight_lab import errors as errors
    from nnsight_lab import ir as ir
    from nnsight_lab import recipes as recipes
    from nnsight_lab.ir.graph import Graph as Graph
    from nnsight_lab.jupyter.explorer import explore as explore
    from nnsight_lab.models.experiment import Experiment as Experiment
    from nnsight_lab.models.experiment import load as load
    from nnsight_lab.models.lab import Lab as Lab
    from nnsight_lab.models.lab import connect as connect
    from nnsight_lab.models.language_model import LanguageModel as LanguageModel
    from nnsight_lab.models.run import Run as Run
    from nnsight_lab.models.wrap import wrap as wrap
    from nnsight_lab.settings import Settings as Settings
    from nnsight_lab.tracing.control import cond as cond
    from nnsight_lab.tracing.control import foreach as foreach
    from nnsight_lab.tracing.control import while_ as while_
    from nnsight_lab.tracing.local_calls import local_fn as local_fn
    from nnsight_lab.tracing.saving import save as save
    from nnsight_lab.tracing.show import live_plot as live_plot
    from nnsight_lab.tracing.show import show as show
    from nnsight_lab.tracing.sliders import slider as slider

__all__ = [
    "Experiment",
    "Graph",
    "Lab",
    "LanguageModel",
    "Run",
    "Settings",
    "cond",
    "connect",
    "errors",
    "explore",
    "foreach",
    "ir",
    "live_plot",
    "load",
    "local_fn",
    "recipes",
    "save",
    "show",
    "slider",
    "while_",
    "wrap",
]

__version__ = "0.1.0"

_HOMES = {
    "Experiment": "nnsight_lab.models.experiment",
    "load": "nnsight_lab.models.experiment",
    "Graph": "nnsight_lab.ir.graph",
    "Lab": "nnsight_lab.models.lab",
    "LanguageModel": "nnsight_lab.models.language_model",
    "Run": "nnsight_lab.models.run",
    "Settings": "nnsight_lab.settings",
    "cond": "nnsight_lab.tracing.control",
    "explore": "nnsight_lab.jupyter.explorer",
    "local_fn": "nnsight_lab.tracing.local_calls",
    "connect": "nnsight_lab.models.lab",
    "foreach": "nnsight_lab.tracing.control",
    "while_": "nnsight_lab.tracing.control",
    "save": "nnsight_lab.tracing.saving",
    "live_plot": "nnsight_lab.tracing.show",
    "show": "nnsight_lab.tracing.show",
    "slider": "nnsight_lab.tracing.sliders",
    "wrap": "nnsight_lab.models.wrap",
}
_ROOMS = ("errors", "ir", "recipes")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"nnsight_lab.{name}")
    raise AttributeError(f"module 'nnsight_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__", "load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext nnsight_lab`: adds `%%trace` and `%nnl`, and shows values as HTML."""
    import_module("nnsight_lab.jupyter.magics").register(shell)
    import_module("nnsight_lab.jupyter.reprs").register_reprs(shell)
    import_module("nnsight_lab.jupyter.sidebar").register_sidebar(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext nnsight_lab`: values are shown as they were before it was loaded."""
    import_module("nnsight_lab.jupyter.reprs").unregister_reprs(shell)
