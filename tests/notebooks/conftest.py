"""A lab server in its own process, for notebooks that connect to one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def server_environment() -> Iterator[dict[str, str]]:
    """The environment of a notebook whose lab has a server: its address and token."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "nnsight_lab.cli", "serve", "tiny", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            found = re.search(r'nl\.connect\("(.+?)", token="(.+?)"\)', line)
            if found:
                url, token = found.groups()
                break
        else:
            pytest.fail("the server ended without printing the line to connect with")
        yield {**environment, "NNSIGHT_LAB_SERVER": url, "NNSIGHT_LAB_TOKEN": token}
    finally:
        process.terminate()
        process.wait(timeout=20)
