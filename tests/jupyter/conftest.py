"""A real IPython shell with the extension loaded, one for the folder, emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import nnsight_lab as nl


@dataclass
class Cell:
    """What running one cell gave: what it printed, what it displayed, what it raised."""

    text: str
    shown: list[Any]
    error: BaseException | None


class Notebook:
    """Runs cells as a person would, with history and numbered cells."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell

    @property
    def names(self) -> dict[str, Any]:
        """The notebook's variables."""
        found: dict[str, Any] = self.shell.user_ns
        return found

    def cell(self, text: str) -> Cell:
        """Run one cell."""
        with capture_output() as captured:
            result = self.shell.run_cell(text, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        return Cell(captured.stdout, captured.outputs, error)

    def ran(self, text: str) -> Cell:
        """Run one cell that must not fail."""
        cell = self.cell(text)
        assert cell.error is None, f"{cell.error!r}\n{cell.text}"
        return cell


@pytest.fixture(scope="session")
def tiny() -> nl.LanguageModel:
    """The bundled model."""
    return nl.LanguageModel("tiny")


@pytest.fixture
def notebook(tiny: nl.LanguageModel) -> Iterator[Notebook]:
    """A notebook with the extension loaded and the bundled model as `lm`."""
    shell: Any = InteractiveShell.instance()
    shell.reset(new_session=True)
    shell.run_line_magic("load_ext", "nnsight_lab")
    shell.extension_manager.reload_extension("nnsight_lab")
    shell.colors = "nocolor"
    shell.user_ns["lm"] = tiny
    yield Notebook(shell)
    shell.reset(new_session=True)
