"""`%nnl runs`: the runs of this notebook that have not ended, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from nnsight_lab.models.run import Run
from nnsight_lab.models.under_way import RunUnderWay

__all__ = ["RunTable"]

_HEAD = ("id", "name", "model", "prompt", "for", "state")
_LONGEST = 40


class RunTable(list[RunUnderWay]):
    """Runs under way, oldest first. `names`: variables that hold a run in the background."""

    def __init__(self, runs: Sequence[RunUnderWay], names: dict[str, Any]) -> None:
        super().__init__(runs)
        waiting = {
            name: run for name, run in names.items() if isinstance(run, Run) and not run.done
        }
        self._rows = [_row(run, waiting) for run in runs]
        going = {id(run.graph) for run in runs}
        self._rows += [
            ("–", name, run.model.name, _prompt(run.prompt), "–", "not begun")
            for name, run in waiting.items()
            if id(run.graph) not in going
        ]

    def __repr__(self) -> str:
        if not self._rows:
            return "no run is under way"
        rows = [_HEAD, *self._rows]
        widths = [max(len(row[place]) for row in rows) for place in range(len(_HEAD))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def _repr_html_(self) -> str | None:
        if not self._rows:
            return None
        head = "".join(f'<th scope="col">{cell}</th>' for cell in _HEAD)
        rows = (
            "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row)
            for row in self._rows
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(run: RunUnderWay, waiting: dict[str, Run]) -> tuple[str, ...]:
    names = [name for name, other in waiting.items() if other.graph is run.graph]
    name, took = names[0] if names else "–", f"{run.progress.seconds:.1f} s"
    return run.id[:8], name, run.model.name, _prompt(run.prompt), took, run.progress.text


def _prompt(prompt: Any) -> str:
    text = prompt if isinstance(prompt, str) else repr(prompt)
    text = text.replace("\n", "↵")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
