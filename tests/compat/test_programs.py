"""Ordinary nnsight programs, unchanged, under `import nnsight_lab.compat as nnsight`.

Each file in `programs/` is a program as its author would write it, and ends with its `results`.
They are held against hooks on the plain model (`by_hand.py`), and, where nnsight itself is
installed, against what the very same text gives there.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nnsight_lab.compat
from tests.architecture.house import ROOT
from tests.compat.by_hand import EXPECTED
from tests.compat.run_program import results_of

FOLDER = Path(__file__).parent / "programs"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))
NNSIGHT = importlib.util.find_spec("nnsight") is not None


def differences(found: Any, expected: Any, where: str) -> list[str]:
    """Where two results part."""
    if isinstance(expected, torch.Tensor):
        if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
            return [f"{where}: {found!r}"]
        if found.dtype != expected.dtype:
            return [f"{where}: {found.dtype}, not {expected.dtype}"]
        close = torch.allclose(found.double(), expected.double(), atol=1e-4, rtol=1e-4)
        return [] if close else [f"{where}: other numbers"]
    if isinstance(expected, dict):
        if not isinstance(found, dict) or not expected.keys() <= found.keys():
            return [f"{where}: {found!r}"]
        return [part for key in expected for part in differences(found[key], expected[key], key)]
    if isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            return [f"{where}: {found!r}"]
        pairs = enumerate(zip(found, expected, strict=True))
        return [part for place, pair in pairs for part in differences(*pair, f"{where}[{place}]")]
    if isinstance(expected, float):
        return [] if abs(found - expected) < 1e-4 else [f"{where}: {found}, not {expected}"]
    return [] if found == expected else [f"{where}: {found!r}, not {expected!r}"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_what_hooks_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nnsight", nnsight_lab.compat)

    found = results_of(FOLDER / f"{name}.py")

    expected = EXPECTED[name]()
    assert expected
    assert differences(found, expected, name) == []


def test_a_difference_is_seen() -> None:
    one = {"a": [torch.ones(2)], "b": 1.0}

    assert differences({"a": [torch.ones(2)], "b": 1.0}, one, "") == []
    assert differences({"a": [torch.zeros(2)], "b": 1.0}, one, "") == ["a[0]: other numbers"]
    assert differences({"a": [torch.ones(2)]}, one, "") != []


@pytest.mark.skipif(not NNSIGHT, reason="nnsight itself is not installed")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_what_nnsight_gives(name: str, tmp_path: Path) -> None:
    given: list[Any] = []
    for mine in ([], ["lab"]):
        out = tmp_path / f"{len(given)}.pt"
        program = [str(Path(__file__).with_name("run_program.py")), str(FOLDER / f"{name}.py")]
        command = [sys.executable, "-W", "ignore", *program, str(out), *mine]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        given.append(torch.load(out, weights_only=False))

    assert differences(given[1], given[0], name) == []
