"""A Llama of random weights, large enough that its arithmetic is what counts, and engines of it."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers

from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.vllm_engine import VllmEngine, load_vllm
from nnsight_lab_server.vllm.driver import Request
from nnsight_lab_server.vllm.options import VllmOptions

__all__ = ["LAYERS", "NAME", "VOCAB", "Stock", "engine", "llama"]

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
def engine(*, one_process: bool, concurrency: int = 16) -> Iterator[VllmEngine]:
    """The engine that serves it, eager as vLLM is on a CPU; in this process, or in vLLM's own."""
    options = VllmOptions(context=256, batch_tokens=512, kv_cache_gib=0.5, concurrency=concurrency)
    module = llama()
    with tempfile.TemporaryDirectory(prefix="vllm-bench-") as folder:
        module.save_pretrained(folder)
        made = load_vllm(
            NAME,
            folder,
            Settings(),
            options=options,
            executor=lambda: LocalExecutor(module),
            one_process=one_process,
        )
        assert isinstance(made, VllmEngine)
        try:
            yield made
        finally:
            made.close()


class Stock:
    """Requests straight to vLLM, as it would serve them without the lab."""

    def __init__(self, engine: VllmEngine) -> None:
        self._driver: Any = engine._driver
        self._ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._count = 0
        ears = self._driver._ears
        own, theirs = "stock-", ears.ended

        def ended(id: str, error: BaseException | None) -> None:
            if id.startswith(own):
                self._ended.put(error)
            else:
                theirs(id, error)

        object.__setattr__(ears, "ended", ended)

    def run(self, prompts: Sequence[tuple[int, ...]], tokens: int = 1) -> None:
        """Submit them together, and wait for all."""
        requests = []
        for ids in prompts:
            self._count += 1
            name = f"stock-{self._count}"
            requests.append(Request(name, ids, tokens, salt=name))
        self._driver.submit(requests)
        for _ in requests:
            if (error := self._ended.get()) is not None:
                raise error
