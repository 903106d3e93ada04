"""`nnsight-lab check`: a model in vLLM compared with Hugging Face's, place by place."""

from __future__ import annotations

import argparse
import json
from typing import Any

from nnsight_lab.errors import NotSupported
from nnsight_lab.settings import Settings

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; status 1 when the model as a whole says something else on vLLM."""
    try:
        from nnsight_lab_server.checking import check_model, rows_of
        from nnsight_lab_server.vllm.certificate import certificate_to_plain
    except ImportError as exc:
        raise NotSupported(
            f"Checking a model needs a package that is not installed: {exc.name}.",
            hint='pip install "nnsight-lab[server,vllm]"',
        ) from exc
    certificate = check_model(
        arguments.model,
        Settings.from_environment(),
        file=arguments.engine_config,
        say=lambda line: print(line, flush=True),
    )
    print()
    _print_table(rows_of(certificate, standard=not arguments.all))
    print()
    print(f"{certificate.model}: {certificate}")
    if arguments.json is not None:
        text = json.dumps(certificate_to_plain(certificate), indent=1)
        arguments.json.write_text(text, encoding="utf-8")
    if not certificate.same_logits:
        print(f"vLLM computes another model: its logits differ by {certificate.logits:.0e}.")
        return 1
    return 0


def _print_table(rows: list[Any]) -> None:
    head = ("place", "read", "edit", "")
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        print("  ".join([*cells, line[3]]).rstrip())
