"""The bundled model on a vLLM engine behind a real server, and at home to compare with."""

from __future__ import annotations

from collections.abc import Callable

from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.base import Engine
from nnsight_lab_server.engines.vllm_engine import load_vllm
from nnsight_lab_server.vllm.options import VllmOptions

__all__ = ["SMALL", "vllm_engine"]

SMALL = VllmOptions(batch_tokens=64, context=128, kv_cache_gib=0.1)


def vllm_engine(
    *,
    one_process: bool = True,
    options: VllmOptions = SMALL,
    say: Callable[[str], None] = lambda _: None,
) -> Engine:
    """The bundled model on vLLM."""
    return load_vllm("tiny", "tiny", Settings(), options=options, one_process=one_process, say=say)
