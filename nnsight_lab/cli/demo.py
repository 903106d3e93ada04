"""`nnsight-lab demo`: the quickstart executed against a fresh server, and one line that says how
far apart the local and the remote run were.

The number is what the notebook itself prints in its cell tagged `difference`:
`largest difference: 1.2e-07`. No such cell, an error, or more than 1e-5 is a failure.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nnsight_lab.cli.child import ChildServer, stopping_on_signals
from nnsight_lab.cli.notebooks import QUICKSTART, find_notebooks
from nnsight_lab.errors import LabError, NotSupported, ServerError

__all__ = ["difference_in", "run"]

_LARGEST = 1e-5
_CELL_S = 600
_TAG = "difference"
_LINE = re.compile(r"largest difference:\s*(\S+)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 if the last line says `demo: ok`."""
    try:
        difference = _demo(arguments.output, lambda line: print(line, flush=True))
    except LabError as exc:
        reason = " ".join(str(exc).split())
        print(f"demo: failed: {reason}", flush=True)
        return 1
    print(
        f"demo: ok, largest difference between the local and the remote run: {difference:.1e}"
        f" (notebook: {arguments.output})",
        flush=True,
    )
    return 0


def _demo(output: Path, say: Callable[[str], None]) -> float:
    folder = find_notebooks()
    say("Starting a server on a free port …")
    with stopping_on_signals(), ChildServer() as server:
        server.wait_ready(say)
        say(f"The server is ready at {server.url}")
        notebook, failure = _executed(folder / QUICKSTART, server.environment, say)
    _write_html(notebook, output)
    say(f"Wrote {output}")
    if failure:
        raise ServerError(f"{QUICKSTART} stopped: {failure}", hint=f"See {output}.")
    difference = difference_in(notebook)
    if not difference <= _LARGEST:
        raise ServerError(
            f"Local and remote run are {difference:.1e} apart.", hint=f"See {output}."
        )
    return difference


def _executed(
    path: Path, environment: Mapping[str, str], say: Callable[[str], None]
) -> tuple[Any, str]:
    """The executed notebook, and in one line what stopped it, if anything did."""
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellControlSignal, DeadKernelError
    except ImportError as exc:
        raise NotSupported(
            "The demo needs Jupyter.", hint="pip install 'nnsight-lab[lab,server]'"
        ) from exc
    notebook = nbformat.read(path, as_version=4)
    count = len(notebook.cells)

    def started(cell: Any, cell_index: int) -> None:
        if cell.cell_type == "code":
            say(f"{path.name}: cell {cell_index + 1} of {count}")

    client = NotebookClient(
        notebook,
        timeout=_CELL_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=started,
    )
    try:
        client.execute(env={**os.environ, **environment})
    except (CellControlSignal, DeadKernelError, RuntimeError) as exc:
        lines = [line for line in str(exc).splitlines() if line.strip()]
        return notebook, lines[-1] if lines else type(exc).__name__
    return notebook, ""


def difference_in(notebook: Any) -> float:
    """What the notebook's cells tagged `difference` print; the largest if several.

    Raises:
        ServerError: none prints it.
    """
    found = [
        float(number)
        for cell in notebook.cells
        if _TAG in cell.get("metadata", {}).get("tags", [])
        for output in cell.get("outputs", [])
        for number in _LINE.findall(_text(output))
    ]
    if not found:
        raise ServerError(
            f"{QUICKSTART} does not say how far apart the runs are.",
            hint=f"Its cell tagged `{_TAG}` prints `largest difference: …`.",
        )
    # max() would pass over a NaN that is not the first.
    return max(found, key=lambda number: (number != number, number))  # noqa: PLR0124


def _text(output: Any) -> str:
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return "".join(text)


def _write_html(notebook: Any, output: Path) -> None:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter()
    body, _ = exporter.from_notebook_node(notebook)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(body, encoding="utf-8")
