"""`Form`: where in vLLM's model the value of an address is, as Hugging Face means it.

vLLM computes flat rows: the tokens of all requests of a step, one after another. A form says at
which module they are, which tensors there add up to the value (a block hands on its output and the
residual apart), and which of the columns are meant (q, k and v are made by one matrix). Forms are
data; which one an address has is found by measurement, never read off a class name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from nnsight_lab.ir import Address

__all__ = ["Form", "Point", "Term"]

Term: TypeAlias = tuple[str | int, ...]
"""The way to one tensor in what is held: `(0, 0)` is `args[0]`, `(1, "residual")` a keyword of a
module's call; `(1,)` the second item of an output that is a tuple, `()` an output itself."""


class Point(NamedTuple):
    """Before or after a module of vLLM's own model. `logits`: after the whole model."""

    stage: Literal["before", "after", "logits"]
    path: str


@dataclass(frozen=True, slots=True)
class Form:
    """One address, found in vLLM.

    terms: the tensors which, added, are the value; the first takes an edit, the others become 0.
    columns: those of the last axis that are meant, as `(start, stop)` pieces in order; None for all.
    shape: what one row holds, e.g. `(d_model,)` or `(heads, d_head)`.
    kind: `rows`, a value of each token; `pattern`, made anew from q and k; `logits`.
    """

    address: Address
    point: Point
    terms: tuple[Term, ...] = ((),)
    columns: tuple[tuple[int, int], ...] | None = None
    shape: tuple[int, ...] = ()
    kind: Literal["rows", "pattern", "logits"] = "rows"

    def take(self, held: Any) -> torch.Tensor:
        """The value of every row of the step, `[rows, *shape]`."""
        raise NotImplementedError

    def put(self, held: Any, rows: torch.Tensor, new: torch.Tensor) -> Any:
        """What shall be held instead, with `new` `[len(rows), *shape]` at some of the rows.

        Nothing that was held is changed: other rows, and other readers of it, keep theirs.
        """
        raise NotImplementedError
