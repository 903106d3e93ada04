"""`module.output = value`: the place gets another value, variables that were read before keep theirs.

The page: `docs/reference/reading-and-editing.md`.
"""

from __future__ import annotations

from typing import Any

import torch

import nnsight_lab as nl
from tests.support.fixtures import IDS
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_differs, assert_same


def _with_hook(module: Any, index: int, hook: Any, *, grad: bool = False) -> torch.Tensor:
    layers = module.transformer.h if hasattr(module, "transformer") else module.model.layers
    handle = layers[index].register_forward_hook(hook)
    try:
        with torch.set_grad_enabled(grad):
            logits: torch.Tensor = module(torch.tensor(IDS)).logits
    finally:
        handle.remove()
    return logits


def test_the_error_of_what_is_spliced_in(lm: nl.LanguageModel, family: SmallModel) -> None:
    """The way sparse autoencoders are put in: the rest is what they leave out."""
    torch.manual_seed(0)
    encoder, decoder = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
    with lm.trace(IDS):
        h = lm.layers[1].output
        made = decoder(torch.relu(encoder(h)))
        lm.layers[1].output = made
        rest = (h - made).save()
        after = lm.layers[1].output.save()
        logits = lm.logits.save()

    seen: list[torch.Tensor] = []

    def splice(_: Any, __: Any, output: Any) -> Any:
        stream = output[0] if isinstance(output, tuple) else output
        new = decoder(torch.relu(encoder(stream)))
        seen.extend((stream - new, new))
        return (new, *output[1:]) if isinstance(output, tuple) else new

    expected = _with_hook(family.module, 1, splice)
    assert_same(rest, seen[0], atol=1e-5)
    assert_same(after, seen[1], atol=1e-5)
    assert_same(logits, expected, atol=1e-4)
    assert rest.norm() > 1


def test_a_variable_from_before_is_no_longer_the_place(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[1].output
        kept = h.save()
        lm.layers[1].output = h * 2
        h += 100  # a value of its own by now
        lm.layers[1].output[:, 0] = 0
        after = lm.layers[1].output.save()
        mine = h.save()
    expected = kept * 2
    expected[:, 0] = 0
    assert_same(after, expected)
    assert_same(mine, kept + 100)


def test_an_edit_in_place_is_seen_by_both(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[1].output
        before = h.save()
        lm.layers[1].output += 1
        after = (h * 1).save()
    assert_same(after, before + 1)


def test_a_gradient_at_what_was_there_before(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[1].output
        lm.layers[1].output = h * 3
        with lm.logits[0, -1].max().backward():
            old = h.grad.save()
            new = lm.layers[1].output.grad.save()

    held: list[torch.Tensor] = []

    def hook(_: Any, __: Any, output: Any) -> Any:
        stream = output[0] if isinstance(output, tuple) else output
        before = stream.detach().requires_grad_()
        after = before * 3
        held.extend((before, after))
        return (after, *output[1:]) if isinstance(output, tuple) else after

    with torch.enable_grad():
        logits = _with_hook(family.module, 1, hook, grad=True)
        expected = torch.autograd.grad(logits[0, -1].max(), held)
    assert_same(old, expected[0], atol=1e-5)
    assert_same(new, expected[1], atol=1e-5)
    assert_differs(old, new, by=1e-6)


def test_each_invoke_replaces_its_own_rows(lm: nl.LanguageModel) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(IDS):
            h = lm.layers[1].output
            lm.layers[1].output = h * 0
            one = lm.logits.save()
        with tracer.invoke(IDS):
            lm.layers[1].output = h + lm.layers[1].output
            two = lm.layers[1].output.save()
            g = h.save()
    assert_same(two, 2 * g, atol=1e-5)
    with lm.trace(IDS):
        lm.layers[1].output *= 0
        zero = lm.logits.save()
    assert_same(one, zero, atol=1e-5)
