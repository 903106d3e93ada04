"""A tab of the explorer: what is asked of it, and how it tells.

A view is pure: what the browser wants goes in as plain data, numbers go out as arrays. It holds no
widget, so a test calls it without one. To write your own, subclass `View` and hand it to
`Explorer(subject, views=[*VIEWS, Own])`: it has `explorer.figure` and `explorer.code`. Only views of
the package have a tab in the browser, drawn by the JavaScript file of the same name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.jupyter.explorer.subject import Subject

if TYPE_CHECKING:
    from nnsight_lab.jupyter.figures import LabFigure

__all__ = ["Sheet", "Tell", "View", "Wanted", "floats"]

Wanted: TypeAlias = Mapping[str, Any]
"""What a tab wants to see, as its controls stand: plain data from the browser."""


@dataclass(frozen=True)
class Sheet:
    """What a view has found: plain data, and arrays beside it.

    part: whether more of it follows.
    topic: which part of the tab it is about. It takes the place of what was told before of the same
        topic, and of nothing else; without one, of all that was told.
    """

    plain: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    part: bool = False
    topic: str = ""

    def packed(self) -> tuple[dict[str, Any], list[bytes]]:
        """As a message: the plain data with a list of the arrays, and their bytes."""
        listed = [
            {"name": name, "kind": str(array.dtype), "shape": list(array.shape)}
            for name, array in self.arrays.items()
        ]
        content = {**self.plain, "arrays": listed, "more": self.part, "topic": self.topic}
        return content, [np.ascontiguousarray(array).tobytes() for array in self.arrays.values()]


Tell: TypeAlias = Callable[[Sheet], None]


class View(ABC):
    """One tab. `name` is also that of the JavaScript file that draws it, where there is one."""

    name: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    @property
    def missing(self) -> str:
        """Why this tab is not for this subject; empty where it is."""
        return ""

    def check(self, wanted: Wanted) -> None:
        """Raise where there is nothing to draw or to write as code; runs nothing."""
        if self.missing:
            raise BadInput(f"There is no {self.title} of this.", hint=self.missing)

    @abstractmethod
    def ask(self, wanted: Wanted, tell: Tell) -> None:
        """Find what is wanted and tell it, in parts where it takes long.

        Called on a thread of its own; what it runs is cancelled when something else is wanted.
        """

    @abstractmethod
    def code(self, wanted: Wanted) -> str:
        """A `%%trace` cell that gives the same numbers."""

    @abstractmethod
    def figure(self, wanted: Wanted) -> LabFigure:
        """The same picture as a Plotly figure."""

    def _cell(self, body: str, *options: str) -> str:
        """A `%%trace` cell on the subject's prompt."""
        subject = self.subject
        prompt = ["--then", subject.run_name] if subject.edited else [subject.said]
        line = " ".join(["%%trace", subject.name, *prompt, *options])
        needs = "import torch\n" if "torch." in body else ""
        return f"{line}\n{needs}{body}"


def floats(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A tensor as float32 numbers for the browser."""
    found: np.ndarray[Any, Any] = tensor.detach().float().cpu().numpy()
    return found
