"""PyTorch's modes while a block is recorded: `torch.no_grad()` and `torch.autocast` inside it.

A graph holds operations and no modes. What is computed under `torch.no_grad()` is recorded with
the `detach` that the mode amounts to; what has no such form is refused at its line. A mode around
the whole block is the caller's own, and is left to the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.errors import NotSupported, SourceLine
from nnsight_lab.tracing.parts import Part
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.source import user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["Modes"]

_DEVICES = ("cpu", "cuda")


class Modes(Part):
    """The modes one recording began in, and what was recorded in others."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._written: SourceLine | None = None
        self._going_back = False
        self.start()

    def start(self) -> None:
        """The block begins: the modes of now are those around it."""
        self._follows_gradients = torch.is_grad_enabled()
        self._autocast = _autocast()

    @property
    def without_gradient(self) -> bool:
        """Whether this line stands under a `torch.no_grad()` inside the block."""
        return self._follows_gradients and not torch.is_grad_enabled()

    def check_autocast(self) -> None:
        """Refuse to compute under an autocast that begins or ends inside the block."""
        if _autocast() != self._autocast:
            raise NotSupported(
                "A graph does not hold torch.autocast, so it cannot begin or end inside a block.",
                hint="Cast the values, h.to(torch.bfloat16), or put the autocast around the block.",
            ).at(user_line())

    def given(self, result: Any) -> Any:
        """What an operation gives in the mode of this line: under no_grad, without a gradient."""
        if isinstance(result, Proxy):
            meta = result.now().meta
            whole = isinstance(meta, torch.Tensor) and not meta.is_floating_point()
            detached = whole or isinstance(meta, tuple | list | dict)
            return result if detached else self._recorder.record("Tensor.detach", (result,), {})
        if isinstance(result, tuple | list):
            items = [self.given(item) for item in result]
            return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
        if isinstance(result, dict):
            return {key: self.given(item) for key, item in result.items()}
        return result

    def note_write(self) -> None:
        """A value is written to in place. Under no_grad its gradient would be that of before.

        Raises:
            NotSupported: the block goes back from a loss, which would see the write.
        """
        if self.without_gradient:
            self._written = self._written or user_line()
            self._check()

    def note_backward(self) -> None:
        """The block goes back from a loss. Raises `NotSupported` after a write under no_grad."""
        self._going_back = True
        self._check()

    def _check(self) -> None:
        if self._written is not None and self._going_back:
            raise NotSupported(
                "A write in place under torch.no_grad() has a gradient in a graph, which it has"
                f" not in torch ({self._written}).",
                hint="Write outside no_grad; value.detach() is what has no gradient.",
            ).at(user_line())


def _autocast() -> tuple[Any, ...]:
    return tuple(
        torch.get_autocast_dtype(kind) for kind in _DEVICES if torch.is_autocast_enabled(kind)
    )
