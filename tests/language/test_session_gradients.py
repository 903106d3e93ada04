"""Gradients in a session with a generation: they go back through values, step by step too.

A loss and the places its gradient is taken at belong to traces; the text between them may be
steered by one and read by the other. The oracle feeds the tokens by hand, with a cache.

The page: `docs/reference/sessions.md`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

import nnsight_lab as nl
from nnsight_lab.contract import Generation, Several, TokenRows
from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import Address, Call, Gradient, Graph, Output, Read, Ref
from tests.language.test_together import DIRECTION, ONE, TOKEN, TWO, block, gradients
from tests.support.tensors import assert_differs, assert_same

OPTIONS: dict[str, Any] = {"max_new_tokens": 2, "eos_token_id": []}


def test_a_gradient_goes_back_through_a_generation_between_two_traces(
    anywhere: Any, tiny: Any
) -> None:
    lm = anywhere
    with lm.session():
        with lm.trace(ONE):
            h = lm.layers[1].output
        with lm.generate(TWO, **OPTIONS) as tracer:
            lm.layers[2].output[:, -1] = h[:, -1]
            for step in tracer.iter[:]:
                if step == 1:
                    late = lm.layers[4].output[:, -1]
            ids = tracer.result.save()
        with lm.trace(ONE):
            lm.layers[4].output[:, -1] = late
            with lm.logits[0, -1, TOKEN].backward():
                gradient = h.grad.save()

    kept: dict[str, torch.Tensor] = {}
    hooks: dict[str, Any] = {}

    def run(rows: torch.Tensor, cache: Any = None) -> torch.Tensor:
        handles = [
            tiny.module.get_submodule(path).register_forward_hook(hook)
            for path, hook in hooks.items()
        ]
        logits: torch.Tensor = tiny.module(
            rows, past_key_values=cache, use_cache=cache is not None
        ).logits
        for handle in handles:
            handle.remove()
        return logits

    def keep(name: str) -> Any:
        return lambda _, __, output: kept.update({name: output})

    def put(name: str) -> Any:
        return lambda _, __, output: torch.cat([output[:, :-1], kept[name][:, -1:]], dim=1)

    hooks = {block(1): keep("h")}
    run(torch.tensor(ONE))
    cache = DynamicCache()
    hooks = {block(2): put("h")}
    first = run(torch.tensor(TWO), cache)[:, -1].argmax(-1, keepdim=True)
    hooks = {block(4): keep("late")}
    run(first, cache)
    hooks = {block(4): put("late")}
    loss = run(torch.tensor(ONE))[0, -1, TOKEN]
    (by_hand,) = torch.autograd.grad(loss, kept["h"])

    assert int(ids[0, len(TWO[0])]) == int(first)
    assert_same(gradient, by_hand, atol=1e-5)
    assert float(gradient.abs().max()) > 1e-4


@pytest.mark.one_way
def test_a_generation_beside_gradients_keeps_nothing_to_go_back(tiny: nl.LanguageModel) -> None:
    """Autograd follows the traces a loss comes from, and no others."""
    lm, followed = tiny, []
    assert lm.card.decode is not None  # measured now, and not while we listen
    handle = lm.module.register_forward_pre_hook(
        lambda *_: followed.append(torch.is_grad_enabled())
    )
    try:
        with lm.session():
            with lm.trace(TWO):
                lm.logits[0, -1].save()
            with lm.trace(ONE):
                h = lm.layers[1].output
                with lm.logits[0, -1, TOKEN].backward():
                    gradient = h.grad.save()
            with lm.generate(TWO, **OPTIONS) as tracer:
                for _step in tracer.iter[:]:
                    lm.layers[2].output[:, -1] += DIRECTION * gradient[:, -1].norm()
                tracer.result.save()
    finally:
        handle.remove()
    assert followed == [False, True, False, False]
    assert torch.is_grad_enabled()
    (by_hand,) = gradients(tiny.module, ONE, block(1))
    assert_same(gradient, by_hand, atol=1e-5)
    assert_differs(gradient, torch.zeros_like(gradient), by=1e-5)


def test_a_gradient_of_what_is_generated_is_refused_from_anybody(anywhere: Any) -> None:
    """The recorder refuses it at its line; a graph from elsewhere is refused before it runs."""
    generated = TokenRows(((1, 2, 3),), Generation(2))
    nodes = (
        Read(id=0, address=Address("layers.1", "output"), step=0),
        Call(id=1, op="Tensor.sum", args=(Ref(0),)),
        Gradient(id=2, of=1, at=0),
    )
    graph = Graph(nodes, (Output("gradient", 2),))
    with pytest.raises(NotSupported, match="no gradients in a generation"):
        anywhere.run(graph, generated)
    session = Several((generated, TokenRows(((1, 2),))))
    with pytest.raises(NotSupported, match="no gradients in a generation"):
        anywhere.run(graph, session)
