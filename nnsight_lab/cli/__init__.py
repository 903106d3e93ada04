"""The command line: `nnsight-lab serve`, `check`, `lab`, `demo`, `version`.

    arguments.py   what may be typed; imports nothing heavy, so `--help` is quick
    serve.py       a server in this process
    check.py       a model in vLLM, compared with Hugging Face's
    child.py       a server in a process of its own, for `lab` and `demo`
    lab.py         a server and JupyterLab at the quickstart
    demo.py        the quickstart here and on a server, and how far apart they are
    version.py     the versions of what is installed
    notebooks.py   where the notebooks are

The only room that prints. Errors of ours end a command with one message and status 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from nnsight_lab.cli.arguments import parser
from nnsight_lab.errors import LabError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    arguments = parser().parse_args(argv)
    command = import_module(f"nnsight_lab.cli.{arguments.command}")
    try:
        return int(command.run(arguments))
    except LabError as exc:
        print(f"nnsight-lab: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
