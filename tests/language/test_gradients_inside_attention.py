"""Gradients at q, k, v, z and the pattern, against attention written out by hand.

No hook stands at these places, so the oracle computes them itself: from the model's own weights, in
double precision, with autograd. Finite differences are in tests/models/test_gradients.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from tests.support.fixtures import IDS
from tests.support.small_models import SmallModel, small_gpt2, small_llama
from tests.support.tensors import assert_differs

PORTS = ("q", "k", "v", "z", "pattern")
LAYER, TOKEN = 1, 7
HEADS, D_HEAD = 4, 8


def _half_turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def _projected(attn: Any, hidden: torch.Tensor, model: Any) -> tuple[torch.Tensor, ...]:
    """q, k and v, `[batch, pos, head, d_head]`, rotated where the family does."""
    if hasattr(attn, "c_attn"):
        fused = hidden @ attn.c_attn.weight + attn.c_attn.bias
        q, k, v = (part.unflatten(-1, (HEADS, D_HEAD)) for part in fused.chunk(3, -1))
        return q, k, v
    q, k, v = (
        (hidden @ part.weight.T + part.bias).unflatten(-1, (-1, D_HEAD))
        for part in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    theta = model.config.rope_parameters["rope_theta"]
    speeds = theta ** (-torch.arange(0, D_HEAD, 2, dtype=torch.float64) / D_HEAD)
    angles = torch.arange(hidden.shape[1], dtype=torch.float64)[:, None] * speeds
    angles = torch.cat((angles, angles), -1)[:, None]
    turned = [x * angles.cos() + _half_turned(x) * angles.sin() for x in (q, k)]
    return turned[0], turned[1], v


def _attend(kept: dict[str, torch.Tensor], attn: Any) -> torch.Tensor:
    """From q, k and v to what the attention gives; the pattern and z are kept on the way."""
    groups = kept["q"].shape[2] // kept["k"].shape[2]
    k, v = (kept[name].repeat_interleave(groups, dim=2) for name in ("k", "v"))
    scores = torch.einsum("bqhd,bkhd->bhqk", kept["q"], k) / D_HEAD**0.5
    length = scores.shape[-1]
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    kept["pattern"] = scores.softmax(-1)
    kept["z"] = torch.einsum("bhqk,bkhd->bqhd", kept["pattern"], v)
    flat = kept["z"].flatten(-2)
    out = attn.c_proj if hasattr(attn, "c_proj") else attn.o_proj
    weight = out.weight if hasattr(attn, "c_proj") else out.weight.T
    found: torch.Tensor = flat @ weight + out.bias
    return found


@contextmanager
def written_out(family: SmallModel, model: Any) -> Iterator[dict[str, torch.Tensor]]:
    """One layer's attention is ours while the block runs."""
    kept: dict[str, torch.Tensor] = {}
    attn = model.get_submodule(family.at(family.attn, LAYER))

    def forward(hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        names = ("q", "k", "v")
        kept.update(zip(names, _projected(attn, hidden_states, model), strict=True))
        return _attend(kept, attn), None

    attn.forward = forward
    try:
        yield kept
    finally:
        del attn.forward


@pytest.fixture(scope="module", params=[small_llama, small_gpt2], ids=["llama", "gpt2"])
def exact(request: pytest.FixtureRequest) -> tuple[SmallModel, Any]:
    """A family's model in double precision."""
    family: SmallModel = request.param()
    model = copy.deepcopy(family.module).double()
    return family, model


def by_hand(family: SmallModel, model: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Value and gradient at each port."""
    with written_out(family, model) as kept:
        logits = model(torch.tensor(IDS), use_cache=False).logits
    places = [kept[port] for port in PORTS]
    gradients = torch.autograd.grad(logits[0, -1, TOKEN], places)
    return {port: (kept[port].detach(), g) for port, g in zip(PORTS, gradients, strict=True)}


def test_the_attention_written_out_is_the_models_own(exact: tuple[SmallModel, Any]) -> None:
    family, model = exact
    plain = model(torch.tensor(IDS), use_cache=False).logits
    with written_out(family, model):
        ours = model(torch.tensor(IDS), use_cache=False).logits
    # The rotary tables of the model are in single precision.
    torch.testing.assert_close(ours, plain, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("port", PORTS)
def test_the_gradient_at_a_place_inside_attention(exact: tuple[SmallModel, Any], port: str) -> None:
    family, model = exact
    lm = nl.LanguageModel(model)
    with lm.trace(IDS):
        place = getattr(lm.layers[LAYER].attn, port)
        value = place.save()
        with lm.logits[0, -1, TOKEN].backward():
            gradient = place.grad.save()

    expected, theirs = by_hand(family, model)[port]
    assert gradient.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(gradient, theirs, rtol=0.0, atol=1e-6)
    assert_differs(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("port", PORTS)
def test_a_gradient_edited_there_flows_on_from_there(
    exact: tuple[SmallModel, Any], port: str
) -> None:
    """Only what comes through that place changes; the other ways back stay."""
    family, model = exact
    lm = nl.LanguageModel(model)
    with lm.trace(IDS):
        place = getattr(lm.layers[LAYER].attn, port)
        h = lm.layers[LAYER - 1].output
        loss = lm.logits[0, -1, TOKEN]
        with loss.backward():
            plain = h.grad.save()
        with loss.backward():
            place.grad *= -2.0
            gradient = h.grad.save()

    kept_stream: list[torch.Tensor] = []
    block = model.get_submodule(family.at(family.block, LAYER - 1))

    def keep(_: Any, __: Any, output: Any) -> None:
        kept_stream.append(output[0] if isinstance(output, tuple) else output)

    handle = block.register_forward_hook(keep)
    with written_out(family, model) as kept:
        logits = model(torch.tensor(IDS), use_cache=False).logits
    handle.remove()
    kept[port].register_hook(lambda g: g * -2.0)
    (expected,) = torch.autograd.grad(logits[0, -1, TOKEN], kept_stream)
    torch.testing.assert_close(gradient, expected, rtol=0.0, atol=1e-6)
    assert_differs(gradient, plain)
