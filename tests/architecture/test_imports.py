"""Laws of importing: it is quick, it is quiet, and it brings no heavy library along."""

from __future__ import annotations

import re

import pytest

from tests.architecture.house import python_files, run

HEAVY = ("torch", "transformers", "IPython", "numpy", "plotly", "websockets", "starlette")
QUICK = 0.25  # seconds, the sum that `-X importtime` gives


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in `sys.modules` after a fresh interpreter ran this statement."""
    asked = run("python", "-c", f"{statement}; import sys; print(*sys.modules)")
    assert asked.returncode == 0, asked.stderr
    return {name.split(".")[0] for name in asked.stdout.split()}


@pytest.mark.parametrize("module", ["nnsight_lab", "nnsight_lab.ir", "nnsight_lab.errors"])
def test_importing_brings_no_heavy_library(module: str) -> None:
    assert loaded_by(f"import {module}").isdisjoint(HEAVY)


def test_a_heavy_import_would_be_seen() -> None:
    assert "numpy" in loaded_by("import numpy.linalg")


@pytest.mark.parametrize("module", ["nnsight_lab", "nnsight_lab.ir", "nnsight_lab_server"])
def test_importing_says_nothing(module: str) -> None:
    imported = run("python", "-W", "default", "-c", f"import {module}")

    assert (imported.returncode, imported.stdout, imported.stderr) == (0, "", "")


def test_importing_is_quick() -> None:
    def seconds() -> float:
        timed = run("python", "-X", "importtime", "-c", "import nnsight_lab")
        rows = re.findall(r"\|\s+(\d+) \| (\s*)(\S+)$", timed.stderr, re.MULTILINE)
        assert "torch" not in {name.split(".")[0] for _, _, name in rows}
        return next(int(total) / 1e6 for total, _, name in rows if name == "nnsight_lab")

    # The best of three: the machine may be busy, the package may not be slow.
    assert min(seconds() for _ in range(3)) < QUICK


def test_nothing_is_patched_by_importing() -> None:
    """Law five: outside a run we are not there."""
    probe = (
        "import sys, builtins, torch; "
        "before = (sys.excepthook, builtins.__import__, torch.Tensor.__getattribute__, "
        "torch.Tensor.backward, torch.nn.Module.__call__, torch.Tensor.__torch_function__); "
        "import nnsight_lab, nnsight_lab.tracing, nnsight_lab.runtime, nnsight_lab.executors; "
        "after = (sys.excepthook, builtins.__import__, torch.Tensor.__getattribute__, "
        "torch.Tensor.backward, torch.nn.Module.__call__, torch.Tensor.__torch_function__); "
        "sys.exit(before != after or hasattr(object, 'save'))"
    )

    assert run("python", "-c", probe).returncode == 0


def test_there_is_something_to_import() -> None:
    assert python_files("nnsight_lab", "server/nnsight_lab_server")
