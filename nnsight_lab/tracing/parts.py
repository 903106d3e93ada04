"""Parts of a recording that look back at it without keeping it alive.

What a block saved then goes as soon as the last name of it does, not when the garbage collector
next comes by: for activations on a GPU that is the difference between fitting and not.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["Part"]


class Part:
    """Something a recorder owns, and that records through it."""

    def __init__(self, recorder: Recorder) -> None:
        self._whole = weakref.ref(recorder)

    @property
    def _recorder(self) -> Recorder:
        found = self._whole()
        assert found is not None, "a part is used through its recorder"
        return found
