"""Every cell on the page about the magic runs, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "magic.md"


def test_the_cells_of_the_page_run(notebook: Any) -> None:
    blocks = re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    cells = [block for block in blocks if "[MODEL]" not in block and "load_ext" not in block]
    assert len(cells) >= 6
    shown = [notebook.ran(cell.removesuffix("\n")).shown for cell in cells]

    assert "recorded" not in str([data.data.get("text/plain") for cell in shown for data in cell])
    assert "image/svg+xml" in shown[0][-1].data
    assert isinstance(notebook.names["last"], torch.Tensor)
    assert list(notebook.names["run"]) == ["last"]
    assert notebook.names["last"].shape[0] == 2
