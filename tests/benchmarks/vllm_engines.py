"""A Llama of random weights, large enough that its arithmetic is what counts, and engines of it."""

from __future__ import annotations

import gc
import queue
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import torch
import transformers

from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.vllm_engine import VllmEngine, load_vllm
from nnsight_lab_server.vllm.driver import Request
from nnsight_lab_server.vllm.options import VllmOptions

__all__ = ["LAYERS", "NAME", "VOCAB", "Stock", "checkpoint", "engine", "llama"]

NAME = "llama"
LAYERS, VOCAB, D_MODEL = 8, 8192, 512


def llama() -> Any:
    """42 million parameters: 8 layers of 512."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=4 * D_MODEL,
        num_hidden_layers=LAYERS, num_attention_heads=8, num_key_value_heads=4,
        max_position_embeddings=512, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@contextmanager
def checkpoint() -> Iterator[tuple[Any, str]]:
    """The model, and a folder it is saved in while the block lasts."""
    module = llama()
    with tempfile.TemporaryDirectory(prefix="vllm-bench-") as folder:
        module.save_pretrained(folder)
        yield module, folder


def engine(module: Any, folder: str, *, one_process: bool) -> VllmEngine:
    """The engine that serves it, eager as vLLM is on a CPU; in this process, or in vLLM's own."""
    made = load_vllm(
        NAME,
        folder,
        Settings(),
        options=VllmOptions(context=256, batch_tokens=512, kv_cache_gib=0.5, concurrency=16),
        executor=lambda: LocalExecutor(module),
        one_process=one_process,
    )
    assert isinstance(made, VllmEngine)
    return made


class Stock:
    """Requests straight to vLLM, which it serves as it would without the lab."""

    def __init__(self, engine: VllmEngine) -> None:
        driver: Any = engine._driver
        self._driver = driver
        self._engine = engine
        self._ended: dict[str, queue.SimpleQueue[BaseException | None]] = {}
        self._others: Callable[[str, BaseException | None], None] = driver._ears.ended
        driver._ears = replace(driver._ears, ended=self._hear)

    def without_lab(self) -> None:
        """Take the lab off vLLM."""
        self.with_lab()
        self._driver.rpc("lab_remove")
        gc.collect()

    def with_lab(self) -> None:
        """Put the lab on vLLM anew."""
        self._driver.rpc("lab_remove")
        self._engine._install()
        gc.collect()  # of what was made for it, nothing is to be found while time is taken

    def _hear(self, id: str, error: BaseException | None) -> None:
        waiting = self._ended.pop(id, None)
        if waiting is None:
            self._others(id, error)
        else:
            waiting.put(error)

    def run(self, ids: tuple[int, ...], tokens: int = 1) -> None:
        """Submit a request, and wait for its end."""
        name = f"stock-{uuid4().hex}"
        waiting: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._ended[name] = waiting
        self._driver.submit([Request(name, ids, tokens, salt=name)])
        if (error := waiting.get()) is not None:
            raise error
