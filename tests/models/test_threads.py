"""Several threads may trace one model at once; each gets its own values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch

import nnsight_lab as nl
from tests.support.hooks import hooked
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_same

WORKERS, ROUNDS = 4, 6


def test_threads_get_their_own_results(lm: nl.LanguageModel, family: SmallModel) -> None:
    """Different prompts, different edits, blocks open at the same time."""
    together = Barrier(WORKERS)

    def work(number: int) -> list[tuple[list[list[int]], float, torch.Tensor]]:
        done = []
        for turn in range(ROUNDS):
            ids = [[number + 1, turn + 2, 7 * number + turn]]
            scale = 1.0 + number + turn
            together.wait(timeout=60)
            with lm.trace(ids):
                h = lm.layers[number % 3].output
                together.wait(timeout=60)
                h *= scale
                q = lm.layers[0].attn.q.save()
                logits = lm.logits.save()
            assert q.shape == (1, 3, 4, 8)
            done.append((ids, scale, logits))
        return done

    with ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(work, range(WORKERS)))
    for number, done in enumerate(results):
        path = family.at(family.block, number % 3)
        for ids, scale, logits in done:

            def change(h: torch.Tensor, scale: float = scale) -> torch.Tensor:
                return h * scale

            expected = hooked(family.module, ids, after={path: change})["logits"]
            assert_same(logits, expected, atol=1e-5)


def test_two_models_may_be_traced_in_one_block(llama: SmallModel, gpt2: SmallModel) -> None:
    one, two = nl.LanguageModel(llama.module), nl.LanguageModel(gpt2.module)
    with one.trace([[1, 2]]), two.trace([[1, 2]]):
        a = one.logits.save()
        b = two.logits.save()
    assert type(a) is type(b) is torch.Tensor
    assert not torch.equal(a, b)
