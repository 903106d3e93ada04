"""`nnsight-lab serve`: a server in this process, until Ctrl-C."""

from __future__ import annotations

import argparse

from nnsight_lab.errors import NotSupported
from nnsight_lab.settings import Settings

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Serve; prints the line to paste once every model is loaded."""
    try:
        from nnsight_lab_server.serve import ServeOptions, serve
    except ImportError as exc:
        raise NotSupported(
            f"Serving needs a package that is not installed: {exc.name}.",
            hint="pip install 'nnsight-lab[server]'",
        ) from exc
    options = ServeOptions(
        models=tuple(arguments.models),
        engine=arguments.engine,
        engine_config=arguments.engine_config,
        host=arguments.host,
        port=arguments.port,
        token=arguments.token,
        settings=Settings.from_environment(),
    )
    try:
        serve(options, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print("Stopped.")
    return 0
