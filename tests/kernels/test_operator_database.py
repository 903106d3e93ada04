"""Every pure operator of PyTorch computes in a trace what it computes outside.

The list is PyTorch's own, with its own sample inputs; `operator_walk.py` says how each is tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.operator_database import NOT_PURE_AND_DENSE, NOT_YET, left_out

pytest.importorskip("expecttest", reason="PyTorch's operator database needs it")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHARE = 0.98


@pytest.fixture(scope="module")
def walk() -> Any:
    """Names of all operators, and what is wrong with each that was walked."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "server"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.operator_walk"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return json.loads(done.stdout)


def test_nearly_all_pure_and_dense_operators_pass(walk: Any) -> None:
    """Recorded, to bytes, from bytes, run: the result PyTorch gives, in kind, shape and numbers."""
    passed = [name for name, wrong in walk["wrong"].items() if not wrong]
    assert len(passed) >= SHARE * len(walk["wrong"])
    assert len(walk["wrong"]) > 550


def test_the_others_are_listed_with_a_reason(walk: Any) -> None:
    """A newly failing operator is noticed, and so is one that has come to pass."""
    failing = {name: wrong for name, wrong in walk["wrong"].items() if wrong}
    unlisted = {name: wrong for name, wrong in failing.items() if name not in NOT_YET}
    assert unlisted == {}
    assert sorted(failing) == sorted(NOT_YET)
    assert all(len(reason.split()) >= 4 for reason in NOT_YET.values())


def test_what_is_left_out_is_in_the_database(walk: Any) -> None:
    named = [name for names in NOT_PURE_AND_DENSE.values() for name in names.split()]
    assert len(named) == len(set(named))
    operators = {name for name in named if not name.startswith("Tensor.")}
    assert operators <= set(walk["names"])
    assert not any(left_out(name) for name in NOT_YET)
