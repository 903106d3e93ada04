"""One cell: run a program, compare it with hooks, and say SUPPORTED, REFUSED or WRONG."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nnsight_lab.errors import GraphError, LabError, LimitExceeded, NotSupported
from tests.parity.case import Case
from tests.parity.engines import Begun
from tests.parity.method import Expected, Method, Values

__all__ = ["NOT_BUILT", "REFUSED", "SUPPORTED", "WRONG", "Cell", "compared", "judged"]

SUPPORTED, REFUSED, WRONG, NOT_BUILT = "SUPPORTED", "REFUSED", "WRONG", "NOT BUILT"

CLOSE = 1e-4
"""The largest difference, relative to the largest number where that is above 1."""
EFFECT = 1e-2
"""How much an edit must change: a hundred times what may differ."""


@dataclass(frozen=True)
class Cell:
    """What one method on one family and engine came to.

    difference: the largest, as `CLOSE` counts it. why: of a refusal, or of what is wrong.
    by: the engine that ran it, where a server has several and it was not the one of the column.
    """

    method: str
    family: str
    engine: str
    verdict: str
    difference: float = math.nan
    why: str = ""
    by: str = ""

    def plain(self) -> dict[str, Any]:
        """For the file of results."""
        found = asdict(self)
        return found if math.isfinite(self.difference) else {**found, "difference": None}


def judged(
    method: Method, case: Case, engine: str, opened: tuple[Any, Begun], expected: Expected
) -> Cell:
    """Run and compare. Whatever a program raises is an answer too."""
    lm, begun = opened
    failed = begun.failed
    begun.engines.clear()
    at = (method.name, case.name, engine)
    try:
        difference, why = compared(method.program(lm, case), expected)
    except (GraphError, NotSupported, LimitExceeded) as exc:
        if begun.failed == failed:
            return Cell(*at, REFUSED, why=_first_line(exc))
        return Cell(*at, WRONG, why=f"refused after it was queued: {_first_line(exc)}")
    except Exception as exc:  # noqa: BLE001 - the grid goes on, and says so
        return Cell(*at, WRONG, why=f"{type(exc).__name__}: {_first_line(exc)}")
    by = ", ".join(sorted(begun.engines - {engine}))
    return Cell(*at, WRONG if why else SUPPORTED, difference, why, by)


def _first_line(exc: Exception) -> str:
    text = exc.message if isinstance(exc, LabError) else str(exc)
    return [*text.splitlines(), ""][0]


def compared(values: Values, expected: Expected) -> tuple[float, str]:
    """The largest difference, and what is wrong; an empty text when nothing is."""
    if set(values) != set(expected.values):
        return math.nan, f"saved {sorted(values)}, not {sorted(expected.values)}"
    worst, wrong = 0.0, []
    for name, should in expected.values.items():
        value = values[name]
        if value.shape != should.shape:
            return math.nan, f"{name} is {tuple(value.shape)}, not {tuple(should.shape)}"
        apart = _apart(value, should)
        worst = max(worst, apart)
        if not apart <= CLOSE:
            wrong.append(f"{name} differs by {apart:.1e}")
        elif name.endswith("logits") and not torch.equal(value.argmax(-1), should.argmax(-1)):
            wrong.append(f"{name}: another token is the likeliest")
        elif name == "ids" and not torch.equal(value, should):
            wrong.append("other tokens were generated")
    for name, plain in expected.before.items():
        if not _apart(values[name], plain) >= EFFECT:
            wrong.append(f"the edit changed nothing in {name}")
    return worst, "; ".join(wrong)


def _apart(value: torch.Tensor, should: torch.Tensor) -> float:
    one, other = value.detach().double(), should.detach().double()
    found = float((one - other).abs().max() / other.abs().max().clamp(min=1.0))
    return math.inf if math.isnan(found) else found
