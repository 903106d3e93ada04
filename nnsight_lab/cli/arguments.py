"""What may be typed after `nnsight-lab`. Plain argparse, nothing imported that takes time."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnsight_lab.settings import Settings

__all__ = ["parser"]

_DEMO = "nnsight-lab-demo.html"


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `arguments.command` names the module that runs it."""
    main = argparse.ArgumentParser(
        prog="nnsight-lab", description="An interpretability workbench, and a server for your lab."
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _serve(commands.add_parser("serve", help="serve models to the notebooks of your lab"))
    _lab(commands.add_parser("lab", help="start a server and JupyterLab at the quickstart"))
    _demo(commands.add_parser("demo", help="run the quickstart here and on a server"))
    _check(commands.add_parser("check", help="compare a model in vLLM with Hugging Face's"))
    commands.add_parser("version", help="print the version")
    return main


def _serve(serve: argparse.ArgumentParser) -> None:
    settings = Settings.from_environment()
    serve.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a bundled name (tiny), a folder, a Hugging Face id, or NAME=any of these",
    )
    serve.add_argument(
        "--engine",
        choices=["transformers", "vllm", "auto"],
        default="transformers",
        help="vllm serves many at once; auto sends what vllm cannot do to transformers",
    )
    serve.add_argument(
        "--engine-config",
        type=Path,
        metavar="FILE",
        help="how vLLM is started: parallel, memory, context (TOML)",
    )
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    serve.add_argument(
        "--port", type=_port, default=settings.port, metavar="N", help="0 takes any free one"
    )
    serve.add_argument(
        "--token",
        default=settings.token,
        metavar="T",
        help="default: NNSIGHT_LAB_TOKEN, or a new one; others can see this option in `ps`",
    )


def _check(check: argparse.ArgumentParser) -> None:
    check.add_argument("model", metavar="MODEL", help="a bundled name, a folder, a Hugging Face id")
    check.add_argument(
        "--engine-config", type=Path, metavar="FILE", help="how vLLM is started (TOML)"
    )
    check.add_argument(
        "--all", action="store_true", help="every module path, not standard names only"
    )
    check.add_argument(
        "--json", type=Path, metavar="FILE", help="write the whole certificate there"
    )


def _lab(lab: argparse.ArgumentParser) -> None:
    lab.add_argument("--no-browser", action="store_true", help="only print the URL")
    lab.add_argument("--port", type=_port, metavar="N", help="port of JupyterLab")
    lab.add_argument(
        "jupyter", nargs="*", metavar="ARGUMENT", help="after `--`: passed on to JupyterLab"
    )


def _demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument(
        "--output",
        type=Path,
        default=Path(_DEMO),
        metavar="FILE",
        help=f"the executed notebook (default: {_DEMO})",
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 2**16:
        raise argparse.ArgumentTypeError(f"{text} is no port; ports are 0 to 65535")
    return port
