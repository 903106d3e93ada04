"""vLLM in this process, one model at a time, for tests of what its worker sees.

with in_process(folder) as engine: certified(reference, engine)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

__all__ = ["InProcess", "in_process"]

_SALTS = count()


class InProcess:
    """An `LLM` of vLLM as a `SurveyedEngine`."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def call(self, method: str, *args: Any) -> Any:
        return self.llm.collective_rpc(method, args=args)[0]

    def forward(self, prompt: tuple[int, ...], *, times: int = 1, tokens: int = 1) -> None:
        from vllm import SamplingParams, TokensPrompt

        prompts = [
            TokensPrompt(prompt_token_ids=list(prompt), cache_salt=f"survey {next(_SALTS)}")
            for _ in range(times)
        ]
        greedy = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        self.llm.generate(prompts, greedy, use_tqdm=False)


@contextmanager
def in_process(folder: Path, **options: Any) -> Iterator[InProcess]:
    """An engine of one process for a saved model; its memory is free again afterwards."""
    pytest.importorskip("vllm")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    llm = LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        max_model_len=64,
        max_num_batched_tokens=256,
        max_num_seqs=32,
        kv_cache_memory_bytes=1 << 24,
        skip_tokenizer_init=True,
        **{"worker_extension_cls": "nnsight_lab_server.vllm.survey.SurveyWorker", **options},
    )
    try:
        yield InProcess(llm)
    finally:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()
