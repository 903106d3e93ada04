"""The explorer: one widget to look at a prompt from every side, and get code back from a click.

    explorer.py  Explorer: the widget's Python half, between tabs and views
    subject.py   what is looked at: a prompt on a model, with a run's edits or without
    view.py      View: a tab's questions and answers as plain data
    tokens.py    the prompt's tokens, coloured
    lens.py      what each layer would say
    attention.py every head as a small picture, and one in full
    norms.py     how long the stream is, where it points, its main plane
    steering.py  a direction, a strength, two texts side by side
    space.py     the notebook's variables
    patching.py  what a place of another prompt does in this one
    patching_code.py  the same as a cell
    alignment.py which token of one prompt belongs to which of another
    features.py  what a sparse autoencoder sees
    work.py      one job a tab, on a thread of its own; a newer cancels the older
    pictures.py, pictures_stream.py  figures that no recipe draws
    still.py     what is seen without a kernel: the tab that was open last
    still_tabs.py, still_attention.py, still_parts.py  how each tab is drawn there, and of what
    bundle.py    the JavaScript and style; js/ holds them

Views know no widget, and the widget knows no model: `Explorer` stands between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from nnsight_lab.errors import BadInput
from nnsight_lab.jupyter.explorer.explorer import VIEWS, Explorer
from nnsight_lab.jupyter.explorer.subject import Autoencoder, Subject
from nnsight_lab.jupyter.explorer.view import Sheet, Tell, View, Wanted
from nnsight_lab.recipes.features import coders_of
from nnsight_lab.recipes.prompt import layers_of, model_of
from nnsight_lab.tracing.source import one_frame

if TYPE_CHECKING:
    from nnsight_lab.models.language_model import LanguageModel
    from nnsight_lab.models.run import Run

__all__ = [
    "VIEWS",
    "Autoencoder",
    "Explorer",
    "Sheet",
    "Subject",
    "Tell",
    "View",
    "Wanted",
    "explore",
    "explorer_of",
]


@one_frame
def explore(
    source: LanguageModel | Run,
    prompt: Any = None,
    *,
    row: int = 0,
    sae: Any = None,
    layer: int | None = None,
) -> Explorer:
    """Explore a prompt on a model, or a run with its edits: display what this returns.

    source: a model, with a `prompt`; or a run. row: which prompt of a batch.
    sae, layer: a sparse autoencoder, as `recipes.sae_features` takes it, and the layer whose
    output it reads; they open the Features tab.

    Raises:
        BadInput: it is no prompt, or has no such row; this is no autoencoder.
        NotSupported: the model has no standard names.
    """
    found = None if sae is None else _autoencoder(source, sae, layer)
    name, run_name = _name_of(source), _named(source) or "run"
    return Explorer(Subject(source, prompt, row=row, name=name, sae=found, run_name=run_name))


def explorer_of(run: Run) -> Callable[[], Explorer]:
    """What `run.explore` is: a function that explores this run."""
    return partial(explore, run)


def _autoencoder(source: LanguageModel | Run, sae: Any, layer: int | None) -> Autoencoder:
    coders_of(sae)
    if layer is None:
        raise BadInput(
            "An autoencoder reads one layer, and none is said.",
            hint="explore(…, sae=sae, layer=3).",
        )
    (layer,) = layers_of(model_of(source), [layer])
    return Autoencoder(sae, layer, _named(sae) or "sae")


def _name_of(source: Any) -> str:
    """What the model is called in this notebook; `lm` where it has no name."""
    from nnsight_lab.models.run import Run

    return _named(source.model if isinstance(source, Run) else source) or "lm"


def _named(wanted: Any) -> str:
    """The variable of this notebook that holds it, or nothing."""
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    space = shell.user_ns if shell is not None else {}
    names = [name for name, value in space.items() if value is wanted and name[0] != "_"]
    return names[0] if names else ""
