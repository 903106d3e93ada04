"""`ModelReader`: takes a run's rows out of what vLLM's modules hold, and puts others in.

Most addresses are columns of a tensor that is there (`forms.py`). Two are not: the logits of every
position are made when they are asked for, from the rows that vLLM makes its own from; and attention
patterns are made anew, from queries and keys that are kept while the run goes on (`attention.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from nnsight_lab_server.vllm.forms import Form, Point
from nnsight_lab_server.vllm.rows import Piece

__all__ = ["ModelReader", "flat_rows"]


def flat_rows(pieces: Sequence[Piece], device: torch.device) -> torch.Tensor:
    """Which flat rows of the step these are, one piece after another."""
    found = [torch.arange(piece.start, piece.start + piece.count) for piece in pieces]
    return (found[0] if len(found) == 1 else torch.cat(found)).to(device)


class ModelReader:
    """Reads one run's rows. logits_of: the model's logits of final hidden states."""

    def __init__(self, logits_of: Callable[[torch.Tensor], torch.Tensor], model: Any) -> None:
        self._logits_of = logits_of
        self._model = model

    def see(self, point: Point, held: Any, pieces: Sequence[Piece]) -> None:
        """Rows are at a point; note what patterns will be made of."""

    def take(self, form: Form, held: Any, pieces: list[Piece]) -> torch.Tensor:
        """The value of the pieces' rows: memory of its own."""
        if form.kind == "logits":
            rows = flat_rows(pieces, held.device)
            return self._logits_of(held[rows])
        value = form.take(held)
        return value[flat_rows(pieces, value.device)]

    def put(self, form: Form, held: Any, pieces: list[Piece], new: torch.Tensor) -> Any:
        """What is held instead. The logits of vLLM's own sampling are put in where they are made."""
        if form.kind == "logits":
            return held
        return form.put(held, flat_rows(pieces, new.device), new)
