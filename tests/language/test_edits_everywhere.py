"""Stored edits in a generation and in a session: at every step, in every trace."""

from __future__ import annotations

from typing import Any

import torch

import nnsight_lab as nl
from tests.support.tensors import assert_same

PROMPT, OTHER = [[3, 10, 40, 7, 21]], [[8, 2, 9]]


def _steered(module: torch.nn.Module, direction: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    layer = module.get_submodule("model.layers.2")
    handle = layer.register_forward_hook(lambda _, __, out: out + direction)
    try:
        with torch.no_grad():
            found: torch.Tensor = module(ids).logits
    finally:
        handle.remove()
    return found


def test_a_stored_edit_holds_at_every_step_of_a_generation(tiny: nl.LanguageModel) -> None:
    direction = 20 * torch.arange(float(tiny.module.config.hidden_size)).sin()
    with tiny.edit() as steered:
        steered.layers[2].output += direction
    with steered.generate(PROMPT, max_new_tokens=5, eos_token_id=[]) as tracer:
        ids = tracer.result.save()
    with tiny.generate(PROMPT, max_new_tokens=5, eos_token_id=[]) as tracer:
        plain = tracer.result.save()

    expected = torch.tensor(PROMPT)
    for _ in range(5):
        new = _steered(tiny.module, direction, expected)[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat([expected, new], -1)
    assert torch.equal(ids, expected)
    assert not torch.equal(ids, plain)


def test_a_stored_edit_holds_in_every_trace_of_a_session(tiny: nl.LanguageModel) -> None:
    direction = 20 * torch.arange(float(tiny.module.config.hidden_size)).sin()
    with tiny.edit() as steered:
        steered.layers[2].output += direction
    with steered.session():
        with steered.trace(PROMPT):
            one = steered.logits.save()
        with steered.trace() as tracer:
            with tracer.invoke(OTHER):
                two = steered.logits.save()
            with tracer.invoke(PROMPT):
                three = steered.logits.save()

    assert_same(one, _steered(tiny.module, direction, torch.tensor(PROMPT)), atol=1e-4)
    assert_same(two, _steered(tiny.module, direction, torch.tensor(OTHER)), atol=1e-4)
    assert_same(three, one, atol=1e-4)


def test_a_cache_in_a_step_is_of_that_step(tiny: nl.LanguageModel) -> None:
    caches: list[Any] = []
    with tiny.generate(PROMPT, max_new_tokens=3, eos_token_id=[]) as tracer:
        caches += [tracer.cache(modules=[tiny.layers[1]]) for _ in tracer.iter[:]]
        hs = [tiny.layers[1].output.save() for _ in tracer.iter[:]]
    for cache, h in zip(caches, hs, strict=True):
        assert_same(cache["layers.1"].output, h.value if hasattr(h, "value") else h)
    assert caches[0]["layers.1"].output.shape[1] == 5
    assert caches[2]["layers.1"].output.shape[1] == 1


def test_a_cache_in_a_trace_of_a_session_is_of_that_trace(tiny: nl.LanguageModel) -> None:
    with tiny.session():
        with tiny.trace(PROMPT) as first:
            one = first.cache(modules=["layers.0"])
        with tiny.trace(OTHER) as second:
            tiny.layers[0].output *= 2
            two = second.cache(modules=["layers.0"])
    with tiny.trace(OTHER):
        plain = tiny.layers[0].output.save()
    assert one["layers.0"].output.shape[1] == 5
    assert_same(two["layers.0"].output, plain * 2)


def test_python_may_peek_in_a_session(tiny: nl.LanguageModel) -> None:
    with tiny.session() as session:
        with tiny.trace(PROMPT):
            best = int(tiny.logits[0, -1].argmax())
            h = tiny.layers[1].output
        with tiny.trace(OTHER):
            tiny.layers[1].output[:, -1] = h[:, -1]
            ahead = float(tiny.logits[0, -1, best])
            logits = tiny.logits.save()
    assert session.run.peeks.count == 2
    assert ahead == float(logits[0, -1, best])
