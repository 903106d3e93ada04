"""vLLM in this process, holding one of the models of `vllm_models.py`.

vLLM's Transformers backend changes classes of `transformers` for good; what it changed is put back
when an engine stops, so that other tests find them as they were.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.vllm_models import vllm_model

__all__ = ["RunningModel", "vllm_running"]

_QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class RunningModel:
    """A model of vLLM's, the Hugging Face module it was made from, and its checkpoint."""

    llm: Any
    model: Any
    hf: Any
    folder: Path

    def generate(self, tokens: Sequence[int], new: int) -> list[int]:
        """The tokens that vLLM, always taking the likeliest, adds to a prompt."""
        from vllm import SamplingParams

        options = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        prompt = {"prompt_token_ids": list(tokens)}
        found = self.llm.generate([prompt], options, use_tqdm=False)
        return list(found[0].outputs[0].token_ids)


@contextmanager
def vllm_running(name: str, **options: Any) -> Iterator[RunningModel]:
    """One of `VLLM_NAMES` in vLLM while the block runs; a step takes 16 tokens at most."""
    os.environ.update(_QUIET)
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    hf, folder = vllm_model(name)
    settings: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 128,
        "max_num_batched_tokens": 16,
        "max_num_seqs": 4,
        "kv_cache_memory_bytes": 64 << 20,
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        **options,
    }
    with _classes_put_back(hf):
        llm: Any = LLM(model=str(folder), **settings)
        engine = llm.llm_engine.engine_core
        worker = engine.engine_core.model_executor.driver_worker.worker
        try:
            yield RunningModel(llm, worker.model_runner.model, hf, folder)
        finally:
            # By name, and not when the last reference goes: that could be after the next one starts.
            engine.shutdown()
            del llm, engine, worker
            cleanup_dist_env_and_memory()
            gc.collect()


@contextmanager
def _classes_put_back(hf: Any) -> Iterator[None]:
    kind = type(hf.base_model)
    bases, own = kind.__bases__, dict(kind.__dict__)
    try:
        yield
    finally:
        kind.__bases__ = bases
        for name in set(kind.__dict__) - set(own):
            delattr(kind, name)
        for name in ("__init__", "__call__", "forward"):
            if name in own:
                setattr(kind, name, own[name])
