"""`nnsight-lab lab`: a server with the bundled model, and JupyterLab at the quickstart.

Notebooks find the server through the environment, so `nl.connect()` needs no arguments. Both
stop when this command is stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from nnsight_lab.cli.child import ChildServer, stopped, stopping_on_signals
from nnsight_lab.cli.notebooks import QUICKSTART, working_folder
from nnsight_lab.errors import NotSupported, ServerError

__all__ = ["run"]

_STARTING_S = 120.0
_PAUSE_S = 0.2
_LABEXTENSION = Path(__file__).parents[1] / "labextension"


def run(arguments: argparse.Namespace) -> int:
    """Start both, print the URL, wait; the exit status of JupyterLab."""
    if find_spec("jupyterlab") is None:
        raise NotSupported(
            "JupyterLab is not installed.", hint="pip install 'nnsight-lab[lab,server]'"
        )
    folder = working_folder(Path.cwd())
    print("Starting the server …", flush=True)
    with stopping_on_signals(), ChildServer() as server:
        server.wait_ready(lambda line: print(line, flush=True))
        jupyter = subprocess.Popen(  # noqa: S603 - our own command
            _command(arguments, folder),
            env=dict(server.environment),
            text=True,
            start_new_session=True,
        )
        try:
            print(f"Server:     {server.url}  (notebooks find it by themselves)")
            print(f"JupyterLab: {_url(jupyter)}\nStop both with Ctrl-C.", flush=True)
            return jupyter.wait()
        except KeyboardInterrupt:
            print("\nStopping …", flush=True)
            return 0
        finally:
            stopped(jupyter)


def _command(arguments: argparse.Namespace, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "jupyterlab", "--log-level=WARN"]
    command += [f"--ServerApp.root_dir={folder}", f"--LabApp.default_url=/lab/tree/{QUICKSTART}"]
    if _LABEXTENSION.is_dir():
        # The sidebar as it is in this checkout, where an older one may be installed.
        command.append(f"--LabApp.extra_labextensions_path={_LABEXTENSION}")
    if arguments.no_browser:
        command.append("--no-browser")
    if arguments.port is not None:
        command.append(f"--ServerApp.port={arguments.port}")
    # Reachable from this machine only and with a token, which is what the rule is there for.
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    return command + list(arguments.jupyter)


def _url(jupyter: subprocess.Popen[str]) -> str:
    """Where JupyterLab is, from the file it writes when it listens."""
    from jupyter_core.paths import jupyter_runtime_dir

    about = Path(jupyter_runtime_dir()) / f"jpserver-{jupyter.pid}.json"
    deadline = time.monotonic() + _STARTING_S
    while jupyter.poll() is None and time.monotonic() < deadline:
        try:
            known = json.loads(about.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            time.sleep(_PAUSE_S)
        else:
            return f"{known['url']}lab/tree/{QUICKSTART}?token={known['token']}"
    raise ServerError("JupyterLab did not start.", hint="Its own words are above.")
