"""Edits of the operations inside a module's forward, and what is left of them: nothing.

The oracle is a forward written anew, or the function mode by hand of
`tests/support/forward_calls.py`. Reading is in `test_source.py`.

The page: `docs/reference/module-source.md`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack

import nnsight_lab as nl
from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import (
    LabError,
    WriteTooEarly,
)
from nnsight_lab.ir import Graph
from tests.support.family_models import family_model
from tests.support.forward_calls import forward_calls

PROMPT = "Anna met Bob in the"
IDS = [[5, 3, 9, 2, 7, 11], [4, 8, 1, 0, 6, 2]]
ROWS = TokenRows(tuple(map(tuple, IDS)))


def ids_of(lm: nl.LanguageModel) -> list[list[int]]:
    return [list(row) for row in lm.tokenize(PROMPT).rows]


# ---------------------------------------------------------------- editing


def test_an_edit_is_what_a_forward_written_by_hand_does(
    tiny: nl.LanguageModel, served: nl.LanguageModel
) -> None:
    mlp: Any = tiny.module.get_submodule(dict(tiny.tree.standard)["layers.2.mlp"])

    def forward(x: torch.Tensor) -> torch.Tensor:
        product = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
        product[:, -1] = 3 * product[:, -1].relu()
        found: torch.Tensor = mlp.down_proj(product)
        return found

    ids = torch.tensor(ids_of(tiny))
    with torch.no_grad():
        clean = tiny.module(ids).logits
        mlp.forward = forward
        try:
            wanted = tiny.module(ids).logits
        finally:
            del mlp.forward

    for lm in (tiny, served):
        with lm.trace(PROMPT) as tracer:
            product = lm.layers[2].mlp.source.mul_0.output
            product[:, -1] = 3 * product[:, -1].relu()
            logits = lm.logits.save()
        assert torch.allclose(logits, wanted, atol=1e-5)
        assert not torch.allclose(logits, clean, atol=1e-2)

        again = lm.run(Graph.from_bytes(tracer.graph.to_bytes()), PROMPT)
        assert torch.equal(again["logits"], logits)


@pytest.mark.parametrize(
    ("family", "path", "name"),
    [
        ("gpt2", "transformer.h.0.attn", "reshape_0"),
        ("gpt2", "transformer.h.0.mlp.act", "tanh_0"),
        ("gemma2", "model.layers.0.self_attn", "softmax_0"),
        ("gemma2", "model.layers.0.input_layernorm", "mul_0"),
        ("mixtral", "model.layers.0.mlp", "reshape_0"),
        ("mixtral", "model.layers.0.mlp.gate", "linear_0"),
        ("llama", "model.layers.0.self_attn", "add_1"),
    ],
)
def test_an_edit_goes_where_the_hand_written_one_goes(family: str, path: str, name: str) -> None:
    model = family_model(family).module
    clean = forward_calls(model, IDS, path).result.logits
    wanted = forward_calls(model, IDS, path, {name: lambda value: value.roll(1, -1)}).result.logits

    lm = nl.LanguageModel(model)
    with lm.trace(ROWS):
        lm.get(path).source[name].output = lm.get(path).source[name].output.roll(1, -1)
        logits = lm.logits.save()

    assert torch.allclose(logits, wanted, atol=1e-5)
    assert not torch.allclose(logits, clean, atol=1e-3)


def test_what_an_operation_is_given_can_be_edited(tiny: nl.LanguageModel) -> None:
    """Doubling the second factor of a product doubles the product; so does doubling the first."""
    with tiny.trace(PROMPT):
        tiny.layers[0].mlp.source.mul_0.output *= 2
        wanted = tiny.logits.save()
    with tiny.trace(PROMPT):
        tiny.layers[0].mlp.source.mul_0.input *= 2
        first = tiny.logits.save()
    with tiny.trace(PROMPT):
        tiny.layers[0].mlp.source.mul_0.inputs[0][1][:] *= 2
        second = tiny.logits.save()
    with tiny.trace(PROMPT):
        clean = tiny.logits.save()

    assert torch.allclose(first, wanted, atol=1e-5)
    assert torch.allclose(second, wanted, atol=1e-5)
    assert not torch.allclose(wanted, clean, atol=1e-2)


def test_a_later_operation_sees_the_edit_of_an_earlier_one(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT):
        source = tiny.layers[0].attn.source
        source.contiguous_0.output[:] = 1.0
        after = source.contiguous_1.output.save()
        z = tiny.layers[0].attn.z.save()

    assert torch.equal(after, torch.ones_like(after))
    assert torch.equal(z, torch.ones_like(z))


def test_places_inside_attention_and_operations_keep_their_order(tiny: nl.LanguageModel) -> None:
    """`q` is handed over between the rotary operations and attention; what we compute is not listed."""
    with tiny.trace(PROMPT):
        q = tiny.layers[0].attn.q.save()
        tiny.layers[0].attn.q[:] *= 2
        source = tiny.layers[0].attn.source
        query = source.scaled_dot_product_attention_0.inputs[0][0].save()
        rotated = source.add_0.output.save()
        key = source.add_1.output.save()
        k = tiny.layers[0].attn.k.save()

    assert torch.equal(query, 2 * q.transpose(1, 2))
    assert torch.equal(rotated, q.transpose(1, 2))
    assert torch.equal(key, k.transpose(1, 2))


def test_an_edit_from_a_later_operation_is_refused(tiny: nl.LanguageModel) -> None:
    with pytest.raises(WriteTooEarly), tiny.trace(PROMPT):
        source = tiny.layers[0].attn.source
        source.transpose_0.output[:] = source.scaled_dot_product_attention_0.output
    with pytest.raises(WriteTooEarly), tiny.trace(PROMPT):
        after = tiny.layers[0].attn.source.scaled_dot_product_attention_0.output
        tiny.layers[0].attn.q[:] = after.transpose(1, 2)


class InPlace(torch.nn.Module):
    """Writes into tensors that other names hold as well."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.proj(x)
        kept = hidden
        hidden.mul_(2)
        hidden += 1
        hidden[:, 0] = 5
        parts = torch.topk(kept, 2)
        total: torch.Tensor = kept + parts.values.sum()
        return total


def test_an_operation_that_writes_in_place_holds_what_it_wrote() -> None:
    torch.manual_seed(0)
    module, x = InPlace(), torch.randn(3, 4)
    net = nl.wrap(module)
    with torch.no_grad():
        hidden = module.proj(x)

    with net.trace(x):
        doubled = net.source.mul__0.output.save()
        added = net.source.add__0.output.save()
        written = net.source.setitem_0.output.save()
        values = net.source.topk_0.output[0].save()

    assert torch.allclose(doubled, hidden * 2)
    assert torch.allclose(added, hidden * 2 + 1)
    assert torch.equal(written[:, 0], torch.full((3,), 5.0))
    assert torch.equal(values, torch.topk(written, 2).values)


@pytest.mark.parametrize("name", ["mul__0", "add__0", "setitem_0"])
def test_an_edit_of_one_is_seen_by_whoever_holds_the_tensor(name: str) -> None:
    torch.manual_seed(0)
    module, x = InPlace(), torch.randn(3, 4)
    net = nl.wrap(module)

    with net.trace(x):
        net.source[name].output[:, 1:] = 7.0
        last = net.source.topk_0.input.save()

    seven = {"mul__0": 8.0, "add__0": 7.0, "setitem_0": 7.0}[name]
    assert torch.equal(last[:, 1:], torch.full((3, 3), seven))
    assert torch.equal(last[:, 0], torch.full((3,), 5.0))


def test_gradients_flow_through_an_operation(tiny: nl.LanguageModel) -> None:
    mlp: Any = tiny.module.get_submodule(dict(tiny.tree.standard)["layers.1.mlp"])
    seen: list[torch.Tensor] = []

    def keep(_: Any, args: Any) -> tuple[torch.Tensor]:
        seen.append(args[0].detach().requires_grad_())
        return (seen[0],)

    handle = mlp.down_proj.register_forward_pre_hook(keep)
    try:
        loss = tiny.module(torch.tensor(ids_of(tiny))).logits[0, -1, 7]
    finally:
        handle.remove()
    (wanted,) = torch.autograd.grad(loss, seen)

    with tiny.trace(PROMPT):
        product = tiny.layers[1].mlp.source.mul_0.output
        tiny.logits[0, -1, 7].backward()
        gradient = product.grad.save()

    assert torch.allclose(gradient, wanted, atol=1e-6)
    assert gradient.abs().sum() > 0


# ---------------------------------------------------------------- nothing is left behind


class Stops(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.sin()
        if x.device.type != "meta" and x.sum() > 100:
            raise RuntimeError("too large")
        return x.cos()


def test_nothing_is_left_behind_after_an_exception() -> None:
    module = Stops()
    net = nl.wrap(module)
    with net.trace(torch.ones(2)) as tracer:
        _ = net.source.sin_0.output.save()
        net.source.sin_0.output[:] = 1000.0
    assert "forward" not in vars(module)

    with pytest.raises(LabError, match="too large"), net.trace(torch.ones(2)):
        net.source.sin_0.output[:] = 1000.0
        _ = net.output.save()

    assert tracer.graph is not None
    assert "forward" not in vars(module)
    assert _get_current_function_mode_stack() == []
    assert torch.equal(module(torch.ones(2)), torch.ones(2).sin().cos())


def test_no_mode_stands_unless_an_operation_is_named(tiny: nl.LanguageModel) -> None:
    mlp: Any = tiny.module.get_submodule(dict(tiny.tree.standard)["layers.0.mlp"])
    seen: list[tuple[int, bool]] = []

    def look(*_: Any) -> None:
        seen.append((len(_get_current_function_mode_stack()), "forward" in vars(mlp)))

    handle = mlp.act_fn.register_forward_hook(look)
    try:
        with tiny.trace(PROMPT):
            _ = tiny.logits.save()
        with tiny.trace(PROMPT):
            _ = tiny.layers[0].mlp.source.mul_0.output.save()
            _ = tiny.logits.save()
    finally:
        handle.remove()

    assert seen[0] == (0, False)
    assert seen[-1] == (1, True)
    assert "forward" not in vars(mlp)
