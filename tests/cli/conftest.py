"""What every test of the command line shares: children find this checkout, and no server of yours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "server")]))
    monkeypatch.delenv("NNSIGHT_LAB_TOKEN", raising=False)
    monkeypatch.delenv("NNSIGHT_LAB_SERVER", raising=False)
