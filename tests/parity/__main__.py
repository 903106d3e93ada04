"""Every method on every family and engine, against hand-written hooks: `make parity`.

    make parity
    make parity ARGS="--families llama gpt2 --engines local transformers --methods lens steering"
    make parity ARGS=--resume        only what is not yet SUPPORTED or REFUSED

Prints the grid; ends with 1 when a cell is WRONG or more than 3 % are REFUSED. The whole grid also
writes `docs/reference/parity.md`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path

import transformers

from tests.parity.case import FAMILIES, case
from tests.parity.engines import ENGINES, NotBuilt
from tests.parity.judge import NOT_BUILT, REFUSED, SUPPORTED, WRONG, Cell, judged
from tests.parity.method import Expected, Method
from tests.parity.methods import METHODS
from tests.parity.page import PAGE, shares, table, written
from tests.parity.results import Results

__all__ = ["chosen", "column", "passes"]

MAY_BE_REFUSED = 0.03
RESULTS = Path(".parity.json")


def main() -> int:
    """Make the grid, or the part of it that was asked for."""
    asked = _options()
    transformers.utils.logging.disable_progress_bar()
    families, engines, methods = (
        chosen(FAMILIES, asked.families), list(asked.engines or ENGINES),
        chosen(dict.fromkeys(METHODS, ""), asked.methods),
    )  # fmt: skip
    results = Results(RESULTS)
    if asked.resume:
        results.read()
    for family in families:
        expected: dict[str, Expected] = {}
        for engine in engines:
            there = {
                cell.method
                for cell in results.of(methods, [family], [engine])
                if cell.verdict in (SUPPORTED, REFUSED)
            }
            wanted = [METHODS[name] for name in methods if name not in there]
            if wanted:
                results.keep(_timed_column(family, engine, wanted, expected))
                results.write()
    cells = results.of(methods, families, engines)
    print(f"\n{table(cells)}\n\n{shares(cells)}")
    if len(results.of(list(METHODS), list(FAMILIES), list(ENGINES))) == len(cells) == _whole():
        PAGE.write_text(written(cells), encoding="utf-8")
        print(f"written: {PAGE}")
    return 0 if passes(cells) else 1


def _whole() -> int:
    return len(METHODS) * len(FAMILIES) * len(ENGINES)


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--families", nargs="+", default=[], metavar="NAME")
    options.add_argument("--engines", nargs="+", default=[], choices=list(ENGINES))
    options.add_argument("--methods", nargs="+", default=[], metavar="WORD")
    options.add_argument("--resume", action="store_true")
    return options.parse_args()


def chosen(names: dict[str, str], words: list[str]) -> list[str]:
    """Those whose name, or other name, is one of the words, or else holds one; all without words."""
    found: dict[str, None] = {}
    for word in words or [""]:
        low = word.lower()
        exact = [name for name, other in names.items() if low in (name.lower(), other)]
        near = [name for name in names if low in name.lower()]
        if not (exact or near):
            raise SystemExit(f"There is no {word!r}; there are: {', '.join(names)}.")
        found |= dict.fromkeys(exact or near)
    return [name for name in names if name in found]


def _timed_column(
    family: str, engine: str, methods: list[Method], expected: dict[str, Expected]
) -> list[Cell]:
    began = time.monotonic()
    cells = column(family, engine, methods, expected)
    print(f"{family:<10} {engine:<12} {time.monotonic() - began:5.1f} s  {shares(cells)}")
    told: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.verdict in (REFUSED, WRONG):
            told.setdefault((cell.verdict, cell.why), []).append(cell.method)
    for (verdict, why), names in told.items():
        print(f"    {verdict} {', '.join(names)}: {why}")
    sys.stdout.flush()
    return cells


def column(
    family: str, engine: str, methods: list[Method], expected: dict[str, Expected]
) -> list[Cell]:
    """One family on one engine. expected: what hooks gave, filled as it is needed."""
    made = case(family)
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(ENGINES[engine](made))
        except NotBuilt as exc:
            return [Cell(m.name, family, engine, NOT_BUILT, why=str(exc)) for m in methods]
        except Exception as exc:  # noqa: BLE001 - every cell of an engine that does not start
            traceback.print_exc()
            why = f"the engine did not start: {exc!r}"
            return [Cell(m.name, family, engine, WRONG, why=why) for m in methods]
        cells = []
        for method in methods:
            if method.name not in expected:
                expected[method.name] = method.by_hand(made)
            cells.append(judged(method, made, engine, opened, expected[method.name]))
        return cells


def passes(cells: list[Cell]) -> bool:
    """Nothing is wrong, and little refused."""
    built = [cell for cell in cells if cell.verdict != NOT_BUILT]
    refused = sum(cell.verdict == REFUSED for cell in built)
    return (
        bool(cells)
        and all(cell.verdict != WRONG for cell in built)
        and refused <= MAY_BE_REFUSED * len(built)
    )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    sys.exit(main())
