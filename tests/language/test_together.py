"""Verbs used together: what each does alone it does beside the others.

Every program runs in this process, through bytes and on a server; the oracle is hooks on the plain
model. Generation together with other verbs is in `test_together_in_steps.py`.

The page: `docs/reference/language.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab.errors import NotSupported
from tests.support.hooks import forward, hooked, outputs_seen
from tests.support.lines import assert_at
from tests.support.tensors import assert_differs, assert_same

ONE, TWO = [[3, 10, 40, 7, 21]], [[9, 30, 12]]
TOKEN = 5
DIRECTION = 4 * torch.arange(128.0).sin()

Change = Callable[[torch.Tensor], torch.Tensor | None]


def block(index: int) -> str:
    return f"model.layers.{index}"


def stream(module: Any, ids: list[list[int]], index: int) -> torch.Tensor:
    found: torch.Tensor = outputs_seen(module, ids, block(index))[block(index)]
    return found


def steer(h: torch.Tensor) -> None:
    h[:, -1] += DIRECTION


def gradients(
    module: Any,
    ids: list[list[int]],
    *places: str,
    after: dict[str, Change] | None = None,
    back: dict[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
) -> list[torch.Tensor]:
    """The gradients of one logit, by hand: `after` edits values, `back` edits gradients."""
    kept: dict[str, torch.Tensor] = {}

    def hook(path: str) -> Any:
        def run(_: Any, __: Any, output: Any) -> Any:
            new = (output[0] if isinstance(output, tuple) else output).clone()
            change = (after or {}).get(path)
            if change is not None:
                made = change(new)
                new = new if made is None else made
            kept[path] = new
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return module.get_submodule(path).register_forward_hook(run)

    with ExitStack() as stack:
        for path in {*places, *(after or {}), *(back or {})}:
            stack.callback(hook(path).remove)
        loss = module(torch.tensor(ids), use_cache=False).logits[0, -1, TOKEN]
    for path, change in (back or {}).items():
        kept[path].register_hook(change)
    return list(torch.autograd.grad(loss, [kept[path] for path in places]))


class SAE(nn.Module):
    """As people write them: an encoder, a nonlinearity, a decoder that is not a module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Linear(128, 48)
        self.decoder = nn.Parameter(torch.randn(48, 128) / 7)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.encoder(h)) @ self.decoder


# Stored edits


def test_gradients_go_through_a_stored_edit(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.edit() as steered:
        h = lm.layers[2].output
        h *= 0.5
        h[:, -1] += DIRECTION
    with steered.trace(ONE):
        early, late = steered.layers[1].output, steered.layers[2].output
        with steered.logits[0, -1, TOKEN].backward():
            first, second = early.grad.save(), late.grad.save()

    def change(h: torch.Tensor) -> torch.Tensor:
        h = h * 0.5
        return torch.cat([h[:, :-1], h[:, -1:] + DIRECTION], dim=1)

    by_hand = gradients(tiny.module, ONE, block(1), block(2), after={block(2): change})
    assert_same(first, by_hand[0], atol=1e-5)
    assert_same(second, by_hand[1], atol=1e-5)
    assert_differs(first, gradients(tiny.module, ONE, block(1))[0], by=1e-4)


def test_a_module_of_your_own_is_stored_in_an_edit(anywhere: Any, tiny: Any) -> None:
    """The splice of a sparse autoencoder, in every later trace."""
    lm, sae = anywhere, SAE().eval()
    with lm.edit() as spliced:
        lm.layers[2].output = sae(lm.layers[2].output)
    with spliced.trace(ONE):
        logits = spliced.logits.save()
    with spliced.trace(TWO):
        shorter = spliced.logits.save()
    after: dict[str, Change] = {block(2): lambda h: sae(h).detach()}
    for mine, ids in ((logits, ONE), (shorter, TWO)):
        assert_same(mine, hooked(tiny.module, ids, after=after)["logits"], atol=1e-3)
        assert_differs(mine, forward(tiny.module, ids))


def test_a_choice_cannot_be_stored_and_says_so(anywhere: Any) -> None:
    lm = anywhere
    with pytest.raises(NotSupported) as caught, lm.edit():
        h = lm.layers[2].output
        lm.layers[2].output = nl.cond(h.norm() > 80, lambda: h * 2, lambda: h)  # choose
    assert_at(caught.value, "choose")


def test_an_operation_inside_a_module_is_edited_for_good(anywhere: Any, tiny: Any) -> None:
    """`module.source` in a stored edit."""
    lm = anywhere
    with lm.edit() as edited:
        edited.layers[2].mlp.source.mul_0.output[:, -1] = 0
    with edited.trace(ONE):
        logits = edited.logits.save()

    def zero(h: torch.Tensor) -> None:
        h[:, -1] = 0

    path = f"{block(2)}.mlp.down_proj"
    assert_same(logits, hooked(tiny.module, ONE, before={path: zero})["logits"], atol=1e-5)
    assert_differs(logits, forward(tiny.module, ONE))


# Invokes


def test_a_gradient_edited_in_one_invoke_leaves_the_other(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.trace() as tracer:
        with tracer.invoke(ONE):
            early, late = lm.layers[0].output, lm.layers[2].output
            with lm.logits[0, -1, TOKEN].backward():
                late.grad[:, -1] = 0
                mine = early.grad.save()
        with tracer.invoke(TWO):
            other = lm.layers[0].output
            with lm.logits[0, -1, TOKEN].backward():
                theirs = other.grad.save()

    def zero(grad: torch.Tensor) -> torch.Tensor:
        grad = grad.clone()
        grad[:, -1] = 0
        return grad

    edited = gradients(tiny.module, ONE, block(0), back={block(2): zero})[0]
    assert_same(mine, edited, atol=1e-5)
    assert_same(theirs, gradients(tiny.module, TWO, block(0))[0], atol=1e-5)
    assert_differs(mine, gradients(tiny.module, ONE, block(0))[0], by=1e-4)


def test_caches_of_invokes_hold_their_edits(anywhere: Any, tiny: Any) -> None:
    """On a model with a stored edit, with an edit of one invoke, and a value of the other."""
    lm = anywhere
    with lm.edit() as steered:
        lm.layers[1].output[:, -1] += DIRECTION
    with steered.trace() as tracer:
        with tracer.invoke(ONE):
            first = tracer.cache(modules="layers.3")
            h = steered.layers[2].output[:, -1]
        with tracer.invoke(TWO):
            second = tracer.cache(modules="layers.3")
            steered.layers[2].output[:, -1] = h

    after: dict[str, Change] = {block(1): steer}
    by_hand = hooked(tiny.module, ONE, after=after, see=(block(2), block(3)))
    assert_same(first["layers.3"].output, by_hand[block(3)], atol=1e-4)

    def put(value: torch.Tensor) -> None:
        value[:, -1] = by_hand[block(2)][:, -1]

    patched = hooked(tiny.module, TWO, after={**after, block(2): put}, see=(block(3),))
    assert_same(second["layers.3"].output, patched[block(3)], atol=1e-4)


def test_one_invoke_decides_for_another(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    norms = [float(stream(tiny.module, ids, 1).norm()) for ids in (ONE, TWO)]
    logits = {}
    for limit in (norms[0] - 1, norms[0] + 1):
        with lm.trace() as tracer:
            with tracer.invoke(ONE):
                test = lm.layers[1].output.norm() > limit
            with tracer.invoke(TWO):
                h = lm.layers[2].output
                lm.layers[2].output = nl.cond(test, lambda h=h: h * 0.5, lambda h=h: h)
                logits[limit] = lm.logits.save()
    after: dict[str, Change] = {block(2): lambda h: h * 0.5}
    halved = hooked(tiny.module, TWO, after=after)["logits"]
    assert_same(logits[norms[0] - 1], halved, atol=1e-4)
    assert_same(logits[norms[0] + 1], forward(tiny.module, TWO), atol=1e-4)
    assert_differs(halved, forward(tiny.module, TWO))


def test_a_loop_of_the_graph_in_each_invoke(anywhere: Any, tiny: Any) -> None:
    """As many turns as each prompt has loud positions."""
    lm = anywhere
    totals = []
    with lm.trace() as tracer:
        for ids in (ONE, TWO):
            with tracer.invoke(ids):
                h = lm.layers[1].output
                loud = (h[0, :, 0] > 0).nonzero()[:, 0]

                def turn(at: Any, total: Any, h: Any = h) -> Any:
                    h[0, at] = 0
                    return total + h.sum(), None

                total, _ = nl.foreach(loud, turn, 0.0)
                totals.append((total.save(), lm.logits.save()))
    for (total, logits), ids in zip(totals, (ONE, TWO), strict=True):
        plain = stream(tiny.module, ids, 1)
        expected = torch.tensor(0.0)
        for at in (plain[0, :, 0] > 0).nonzero()[:, 0]:
            plain[0, at] = 0
            expected = expected + plain.sum()
        after: dict[str, Change] = {block(1): lambda _, plain=plain: plain}  # type: ignore[misc]
        assert_same(total, expected, atol=1e-3)
        assert_same(logits, hooked(tiny.module, ids, after=after)["logits"], atol=1e-4)
        assert_differs(logits, forward(tiny.module, ids))


def test_stop_in_an_invoke(anywhere: Any, tiny: Any) -> None:
    """It holds for the whole trace: what comes after may compute, not read."""
    lm = anywhere
    with lm.trace() as tracer:
        with tracer.invoke(ONE):
            h = lm.layers[1].output
        with tracer.invoke(TWO):
            other = lm.layers[1].output
            tracer.stop()
        both = (h[:, -1] - other[:, -1]).norm().save()
    expected = stream(tiny.module, ONE, 1)[:, -1] - stream(tiny.module, TWO, 1)[:, -1]
    assert_same(both, expected.norm(), atol=1e-3)


def test_skipping_is_for_all_rows_and_says_so(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with pytest.raises(NotSupported) as caught, lm.trace() as tracer:
        with tracer.invoke(ONE):
            lm.layers[2].skip(lm.layers[2].input)  # one invoke
    assert_at(caught.value, "one invoke")
    with lm.trace() as tracer:
        with tracer.invoke(ONE):
            first = lm.logits.save()
        with tracer.invoke(TWO):
            second = lm.logits.save()
        with tracer.invoke():
            lm.layers[2].skip(lm.layers[2].input)
    for mine, ids in ((first, ONE), (second, TWO)):
        before = stream(tiny.module, ids, 1)
        after: dict[str, Change] = {block(2): lambda _, before=before: before}  # type: ignore[misc]
        assert_same(mine, hooked(tiny.module, ids, after=after)["logits"], atol=1e-4)


def test_python_decides_in_an_invoke_by_a_gradient(anywhere: Any, tiny: Any) -> None:
    """Peek, gradient, invokes: nothing that was looked at is edited afterwards."""
    lm = anywhere
    with lm.trace() as tracer:
        with tracer.invoke(ONE):
            h = lm.layers[2].output
            with lm.logits[0, -1, TOKEN].backward():
                strength = float(h.grad.norm())
        with tracer.invoke(TWO):
            if strength > 0:
                lm.layers[2].output[:, -1] += DIRECTION
            logits = lm.logits.save()
    (by_hand,) = gradients(tiny.module, ONE, block(2))
    assert strength == pytest.approx(float(by_hand.norm()), rel=1e-3)
    steered = hooked(tiny.module, TWO, after={block(2): steer})["logits"]
    assert_same(logits, steered, atol=1e-4)


# Modules of your own, operations inside modules


def test_gradients_of_your_modules_weights_and_of_the_stream(anywhere: Any, tiny: Any) -> None:
    """The loss is in the features of a spliced autoencoder; its weights are data of the graph."""
    lm, sae = anywhere, SAE().eval()
    lm.layers[2].sae = sae
    try:
        with lm.trace(ONE):
            h = lm.layers[2].output.clone()  # `.output` itself is what is put there
            lm.layers[2].output = lm.layers[2].sae(h)
            with lm.logits[0, -1, TOKEN].backward():
                weight = lm.layers[2].sae.encoder.weight.grad.save()
                back = h.grad.save()
    finally:
        del lm.layers[2].sae

    leaf = stream(tiny.module, ONE, 2).requires_grad_()
    handle = tiny.module.get_submodule(block(2)).register_forward_hook(lambda *_: sae(leaf))
    loss = tiny.module(torch.tensor(ONE), use_cache=False).logits[0, -1, TOKEN]
    handle.remove()
    by_hand = torch.autograd.grad(loss, [sae.encoder.weight, leaf])
    assert_same(weight, by_hand[0], atol=1e-4)
    assert_same(back, by_hand[1], atol=1e-4)
    assert_differs(weight, torch.zeros_like(weight))
    assert sae.encoder.weight.grad is None


def test_source_with_invokes_gradients_and_a_choice(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.trace() as tracer:
        with tracer.invoke(ONE):
            product = lm.layers[1].mlp.source.mul_0.output
            with lm.logits[0, -1, TOKEN].backward():
                gradient = product.grad.save()
        with tracer.invoke(TWO):
            mine = lm.layers[1].mlp.source.mul_0.output
            loud = product[:, -1].norm() > 0
            lm.layers[1].mlp.source.mul_0.output = nl.cond(loud, lambda: mine * 0, lambda: mine)
            logits = lm.logits.save()

    path = f"{block(1)}.mlp.down_proj"
    kept: list[torch.Tensor] = []

    def take(_: Any, args: Any) -> Any:
        kept.append(args[0].clone())
        return (kept[0],)

    handle = tiny.module.get_submodule(path).register_forward_pre_hook(take)
    loss = tiny.module(torch.tensor(ONE), use_cache=False).logits[0, -1, TOKEN]
    handle.remove()
    assert_same(gradient, torch.autograd.grad(loss, kept)[0], atol=1e-5)
    zeroed = hooked(tiny.module, TWO, before={path: torch.zeros_like})["logits"]
    assert_same(logits, zeroed, atol=1e-4)


# Shapes, names


def test_a_scan_knows_the_shapes_of_choices_and_loops(anywhere: Any) -> None:
    lm = anywhere
    with lm.scan(ONE):
        h = lm.layers[1].output
        same = nl.cond(h.norm() > 1, lambda: h * 2, lambda: h).save()
        rows: Any = torch.stack(nl.foreach(h[0], lambda row: row[:4]))
        rows.save()
        small = nl.while_(lambda x: x.norm() > 1, lambda x: x / 2, h).save()
        unknown = nl.cond(h.norm() > 1, lambda: h[:, 0], lambda: h).save()
    with lm.trace(ONE):
        h = lm.layers[1].output
        also_same = nl.cond(h.norm() > 1, lambda: h * 2, lambda: h).save()
        also_rows: Any = torch.stack(nl.foreach(h[0], lambda row: row[:4]))
        also_rows.save()
    assert same.is_meta
    assert (same.shape, rows.shape) == (also_same.shape, also_rows.shape)
    assert small.shape == same.shape
    assert "unknown" in repr(unknown)


@pytest.mark.parametrize("name", ["blocks", "layers"])
def test_a_renamed_model_caches_edits_and_scans_by_either_name(tiny: Any, name: str) -> None:
    lm = nl.LanguageModel("tiny", rename={"layers": "blocks", "mlp": "ff"})
    with lm.edit() as steered:
        lm.blocks[1].output[:, -1] += DIRECTION
    with steered.session():
        with steered.trace(ONE) as tracer:
            cache = tracer.cache(modules=[f"{name}.2"])
            mlp = steered.blocks[2].ff.output.save()
    with lm.scan(ONE):
        shape = lm.blocks[2].ff.output.save()
    by_hand = hooked(tiny.module, ONE, after={block(1): steer}, see=(block(2), f"{block(2)}.mlp"))
    assert_same(cache[f"{name}.2"].output, by_hand[block(2)], atol=1e-4)
    assert_same(mlp, by_hand[f"{block(2)}.mlp"], atol=1e-4)
    assert shape.shape == mlp.shape
