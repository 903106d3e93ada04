"""The explorer: one widget to look at a prompt from every side, and get code back from a click.

    explorer.py  Explorer: the widget's Python half, between tabs and views
    subject.py   what is looked at: a prompt on a model, with a run's edits or without
    view.py      View: a tab's questions and answers as plain data
    tokens.py    the prompt's tokens, coloured
    lens.py      what each layer would say
    work.py      one job a tab, on a thread of its own; a newer cancels the older
    pictures.py  figures that no recipe draws
    still.py     what is seen without a kernel
    bundle.py    the JavaScript and style; js/ holds them

Views know no widget, and the widget knows no model: `Explorer` stands between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from nnsight_lab.jupyter.explorer.explorer import VIEWS, Explorer
from nnsight_lab.jupyter.explorer.subject import Subject
from nnsight_lab.jupyter.explorer.view import Sheet, Tell, View, Wanted
from nnsight_lab.tracing.source import one_frame

if TYPE_CHECKING:
    from nnsight_lab.models.language_model import LanguageModel
    from nnsight_lab.models.run import Run

__all__ = [
    "VIEWS",
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
def explore(source: LanguageModel | Run, prompt: Any = None, *, row: int = 0) -> Explorer:
    """Explore a prompt on a model, or a run with its edits: display what this returns.

    source: a model, with a `prompt`; or a run. row: which prompt of a batch.

    Raises:
        BadInput: it is no prompt, or has no such row.
        NotSupported: the model has no standard names.
    """
    return Explorer(Subject(source, prompt, row=row, name=_name_of(source)))


def explorer_of(run: Run) -> Callable[[], Explorer]:
    """What `run.explore` is: a function that explores this run."""
    return partial(explore, run)


def _name_of(source: Any) -> str:
    """What the model is called in this notebook; `lm` where it has no name."""
    from IPython.core.getipython import get_ipython

    from nnsight_lab.models.run import Run

    model = source.model if isinstance(source, Run) else source
    shell: Any = get_ipython()
    space = shell.user_ns if shell is not None else {}
    names = [name for name, value in space.items() if value is model and name[0] != "_"]
    return names[0] if names else "lm"
