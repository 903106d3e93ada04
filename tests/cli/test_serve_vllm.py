"""`nnsight-lab serve --engine vllm`, stopped while it starts: gone within seconds, with all it began."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import started

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(300)]

SOON_S = 12.0


def family(pid: int) -> list[Any]:
    """The processes of vLLM's below this one; others come and go, or count shared memory."""
    psutil = import_module("psutil")
    found = []
    for each in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if re.search(r"spawn_main|VLLM::", " ".join(each.cmdline())):
                found.append(each)
    return found


def lives(process: Any) -> bool:
    psutil = import_module("psutil")
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def wait_until(true: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("begun", "everybody"), [(1, True), (2, False)], ids=["scheduler-ctrl-c", "worker-kill"]
)
def test_a_server_that_is_stopped_while_vllm_starts_is_gone_soon(
    begun: int, everybody: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """begun: so many processes have been started. everybody: the signal reaches them too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "vllm.toml"
    file.write_text("context = 64\nbatch_tokens = 64\nkv_cache_gib = 0.02\n")
    command = ("serve", "tiny", "--engine", "vllm", "--engine-config", str(file), "--port", "0")
    with started(*command, start_new_session=True) as server:
        wait_until(lambda: len(family(server.pid)) >= begun)
        below = family(server.pid)
        (os.killpg if everybody else os.kill)(server.pid, signal.SIGINT)
        asked = time.monotonic()
        said, _ = server.communicate(timeout=100)
        took = time.monotonic() - asked

    assert took < SOON_S
    assert server.returncode == 0
    assert said.rstrip().endswith("Stopped.")
    assert not [process for process in below if lives(process)]
