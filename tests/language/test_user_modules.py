"""Your own modules in a trace: an SAE, a probe, any module whose forward is torch.

    lm.layers[2].sae = sae
    with lm.trace(prompt):
        features = lm.layers[2].sae.encoder(lm.layers[2].output)

The oracle is the module itself, called on what the plain model computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import nnsight_lab as nl
from nnsight_lab.errors import (
    AddressNotFound,
    GraphError,
)
from nnsight_lab.ir import Constant
from tests.server.lab_server import Serving
from tests.support.fixtures import IDS
from tests.support.hooks import hooked, outputs_seen, tensor_of
from tests.support.lines import assert_at
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_differs, assert_exactly, assert_same
from tests.support.three_ways import assert_three_ways

PROMPT = "The capital of France is"


class SAE(nn.Module):
    """A sparse autoencoder with tied weights, a bias before, and a buffer."""

    def __init__(self, d_model: int = 32, features: int = 48) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(d_model, features)
        self.W_dec = nn.Parameter(torch.randn(features, d_model) * 0.2)
        self.b_dec = nn.Parameter(torch.randn(d_model) * 0.1)
        self.threshold = nn.Buffer(torch.tensor(0.05))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = functional.relu(self.encoder(x - self.b_dec) + x @ self.W_dec.T)
        features = torch.where(features > self.threshold, features, torch.zeros_like(features))
        out: torch.Tensor = features @ self.W_dec + self.b_dec
        return out


class Gate(nn.Module):
    """Parameters in a list, a loop, keyword arguments, and two results."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList([torch.randn(32) * 0.5 for _ in range(3)])

    def forward(
        self, x: torch.Tensor, *, scale: float = 1.0
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        for part in self.parts:
            x = torch.sigmoid(part) * x
        return x * scale, {"norm": x.norm(dim=-1)}


def _batch_norm() -> nn.Module:
    """As after training: with statistics of its own."""
    module = nn.BatchNorm1d(6)
    module(torch.randn(64, 6, 32, generator=torch.Generator().manual_seed(1)) * 3 + 1)
    return module


MODULES: dict[str, Callable[[], nn.Module]] = {
    "sae": SAE,
    "sequential": lambda: nn.Sequential(nn.Linear(32, 8), nn.GELU(), nn.Linear(8, 32)),
    "norm": lambda: nn.LayerNorm(32),
    "dropout": lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 32)),
    "batch norm": _batch_norm,
    "convolution": lambda: nn.Conv1d(6, 6, 3, padding=1),
    "attention": lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(32, 32)),
}


def block_output(family: SmallModel, index: int = 1) -> torch.Tensor:
    path = family.at(family.block, index)
    found: torch.Tensor = tensor_of(outputs_seen(family.module, IDS, path)[path])
    return found


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("attached", [False, True])
def test_a_module_called_in_a_trace_gives_what_it_gives(
    lm: nl.LanguageModel, family: SmallModel, name: str, attached: bool
) -> None:
    module = MODULES[name]().eval()
    lm.layers[1].mine = module
    with lm.trace(IDS) as tracer:
        h = lm.layers[1].output
        out = (lm.layers[1].mine if attached else module)(h).save()
    del lm.layers[1].mine

    given = block_output(family)
    assert_same(out, module(given).detach(), atol=1e-5)
    assert_differs(out, given)
    again = lm.run(nl.Graph.from_bytes(tracer.graph.to_bytes()), IDS)
    assert_exactly(again["out"], out)
    assert not module._forward_hooks
    assert all(isinstance(weight, nn.Parameter) for weight in module.parameters())


def test_what_it_gives_may_be_put_in_the_models_place(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    sae = SAE().eval()
    with lm.trace(IDS):
        lm.layers[1].output = sae(lm.layers[1].output)
        logits = lm.logits.save()

    path = family.at(family.block, 1)
    by_hand = hooked(family.module, IDS, after={path: lambda h: sae(h).detach()})
    assert_same(logits, by_hand["logits"], atol=1e-5)
    assert_differs(logits, hooked(family.module, IDS)["logits"])


def test_arguments_and_results_are_what_python_says(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    gate = Gate()
    with lm.trace(IDS):
        out, more = gate(lm.layers[1].output, scale=2.0)
        norm = more["norm"].save()
        out = out.save()

    expected, beside = gate(block_output(family), scale=2.0)
    assert_same(out, expected.detach())
    assert_same(norm, beside["norm"].detach())


def test_each_weight_is_one_constant(lm: nl.LanguageModel) -> None:
    """However often the module is called, and where a weight is turned each time anew."""
    sae = SAE().eval()
    lm.sae = sae
    with lm.trace(IDS, execute=False) as bare:
        for layer in lm.layers:
            sae(layer.output).save()
    with lm.trace(IDS, execute=False) as attached:
        for layer in lm.layers:
            lm.sae(layer.output).save()
    del lm.sae

    weights = len(list(sae.parameters())) + len(list(sae.buffers()))
    constants = [
        [node.value for node in tracer.graph if isinstance(node, Constant)]
        for tracer in (bare, attached)
    ]
    assert len(constants[1]) == weights
    assert len(constants[0]) == weights + 1  # and `W_dec.T`, which is a tensor of its own there
    assert len(set(constants[0])) == len(constants[0])


def test_the_three_ways(tiny: nl.LanguageModel, lab: Serving) -> None:
    sae = SAE(128, 64).eval()
    tiny.layers[2].sae = sae
    with tiny.trace(PROMPT) as tracer:
        h = tiny.layers[2].output.save()
        features = tiny.layers[2].sae.encoder(h).save()
        tiny.layers[2].output = tiny.layers[2].sae(h)
        logits = tiny.logits.save()
    del tiny.layers[2].sae

    assert_same(features, sae.encoder(h).detach(), atol=1e-4)
    ids = [list(row) for row in tiny.tokenize(PROMPT).rows]
    after = {"model.layers.2": lambda h: sae(h).detach()}
    assert_same(logits, hooked(tiny.module, ids, after=after)["logits"], atol=1e-3)
    assert_three_ways(tiny, tracer, lab)


# Attached


def test_an_attached_module_is_seen_and_taken_off_again(lm: nl.LanguageModel) -> None:
    block = lm.layers[1]
    before = dict(vars(lm.module)), [name for name, _ in lm.module.named_modules()]
    block.sae = SAE()
    assert "sae" in dir(lm.layers[1])
    assert ".sae: yours, SAE" in repr(lm.layers[1])
    assert "SAE" in repr(lm.layers[1].sae)
    assert isinstance(lm.layers[1].sae.module, SAE)
    assert lm.layers[1].sae.b_dec.shape == (32,)  # outside a trace it is the tensor
    after = dict(vars(lm.module)), [name for name, _ in lm.module.named_modules()]
    assert before == after

    del lm.layers[1].sae
    assert "sae" not in dir(lm.layers[1])
    with pytest.raises(AddressNotFound):
        lm.layers[1].sae  # noqa: B018
    with pytest.raises(AddressNotFound):
        del lm.layers[1].sae


def test_it_hangs_on_a_module_whatever_that_is_called(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    path = family.at(family.block, 1)
    lm.get(path).probe = nn.Linear(32, 2)
    try:
        with lm.trace(IDS):
            out = lm.layers[1].probe(lm.layers[1].output).save()
        assert out.shape == (1, 6, 2)
        with pytest.raises(AddressNotFound):
            lm.layers[0].probe  # noqa: B018
    finally:
        del lm.layers[1].probe


def test_what_its_parts_gave_can_be_read(lm: nl.LanguageModel, family: SmallModel) -> None:
    sae = SAE().eval()
    lm.layers[1].sae = sae
    try:
        with lm.trace(IDS):
            out = lm.layers[1].sae(lm.layers[1].output).save()
            inner = lm.layers[1].sae.encoder.output.save()
            own = lm.layers[1].sae.output.save()
        with pytest.raises(GraphError) as caught, lm.trace(IDS):
            lm.layers[1].sae.encoder.output.save()  # not called
    finally:
        del lm.layers[1].sae

    given = block_output(family)
    assert_same(inner, sae.encoder(given - sae.b_dec).detach(), atol=1e-5)
    assert_exactly(own, out)
    assert_at(caught.value, "not called")


def test_outside_a_trace_it_is_the_module(lm: nl.LanguageModel) -> None:
    lm.probe = nn.Linear(32, 2)
    try:
        x = torch.randn(3, 32)
        assert_exactly(lm.probe(x).detach(), lm.probe.module(x).detach())
    finally:
        del lm.probe


def test_a_probe_is_trained_by_the_gradients_of_a_trace(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """The loss is recorded; its gradients come back, and an optimiser of torch's takes the step."""
    probe = nn.Linear(32, 3)
    target = torch.tensor([[0, 1, 2, 0, 1, 2]])
    lm.layers[1].probe = probe
    try:
        with lm.trace(IDS):
            scores = lm.layers[1].probe(lm.layers[1].output)
            loss: Any = functional.cross_entropy(scores.flatten(0, 1), target.flatten())
            with loss.backward():
                weight = lm.layers[1].probe.weight.grad.save()
                bias = lm.layers[1].probe.bias.grad.save()
            loss = loss.save()
    finally:
        del lm.layers[1].probe

    expected = functional.cross_entropy(probe(block_output(family)).flatten(0, 1), target.flatten())
    theirs = torch.autograd.grad(expected, [probe.weight, probe.bias])
    assert_same(loss, expected.detach())
    assert_same(weight, theirs[0])
    assert_same(bias, theirs[1])
    assert_differs(weight, torch.zeros_like(weight))
    assert probe.weight.grad is None


def test_two_equal_weights_have_gradients_of_their_own(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    pair = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    with torch.no_grad():
        for part in pair:
            assert isinstance(part, nn.Linear)
            part.bias.zero_()
    lm.pair = pair
    try:
        with lm.trace(IDS), lm.pair(lm.layers[1].output).pow(2).sum().backward():
            first, second = (lm.pair[index].bias.grad.save() for index in range(2))
    finally:
        del lm.pair

    loss = pair(block_output(family)).pow(2).sum()
    biases = [part.bias for part in pair if isinstance(part, nn.Linear)]
    for ours, theirs in zip((first, second), torch.autograd.grad(loss, biases), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert_differs(first, second)


def test_a_gradient_goes_through_a_turned_weight(lm: nl.LanguageModel, family: SmallModel) -> None:
    sae = SAE().eval()
    lm.sae = sae
    try:
        with lm.trace(IDS), lm.sae(lm.layers[1].output).pow(2).sum().backward():
            gradient = lm.sae.W_dec.grad.save()
    finally:
        del lm.sae

    (expected,) = torch.autograd.grad(sae(block_output(family)).pow(2).sum(), sae.W_dec)
    torch.testing.assert_close(gradient, expected)
