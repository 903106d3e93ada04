"""Norms, directions and features of the stream: the numbers of hooks, and of a run with an edit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab import errors
from nnsight_lab.recipes import norms_and_directions, sae_features
from tests.recipes.by_hand import CLEAN, ids_of, part_of, stream
from tests.support.tensors import assert_differs

DRAW = torch.Generator().manual_seed(7)
DIRECTIONS = {name: torch.randn(128, generator=DRAW) for name in ("one", "other")}
WEIGHTS = {
    "W_enc": torch.randn(128, 200, generator=DRAW) / 12,
    "b_enc": torch.randn(200, generator=DRAW),
    "b_dec": torch.randn(128, generator=DRAW),
    "W_dec": torch.randn(200, 128, generator=DRAW) / 20,
}


def test_norms_and_cosines_are_those_of_the_hooked_stream(
    either: nl.LanguageModel, tiny: nl.LanguageModel
) -> None:
    found = norms_and_directions(either, CLEAN, directions=DIRECTIONS)
    h = stream(tiny.module, ids_of(tiny, CLEAN))

    torch.testing.assert_close(found.norms, h.norm(dim=-1), rtol=1e-4, atol=1e-4)
    for place, direction in enumerate(DIRECTIONS.values()):
        expected = torch.cosine_similarity(h, direction.expand_as(h), dim=-1)
        torch.testing.assert_close(found.cosines[place], expected, rtol=1e-3, atol=1e-5)
    assert found.directions == ["one", "other"]
    assert found.layers == ["embed", *"012345"]


def test_the_axes_are_those_of_the_covariance(
    either: nl.LanguageModel, tiny: nl.LanguageModel
) -> None:
    found = norms_and_directions(either, CLEAN, skip=1)
    h = stream(tiny.module, ids_of(tiny, CLEAN)).double()[:, 1:]
    for row in range(7):
        centred = h[row] - h[row].mean(0)
        sizes, axes = torch.linalg.eigh(centred.T @ centred)
        points = (centred @ axes[:, -2:]).flip(-1)
        got = found.points[row, 1:].double()
        signs = (points * got).sum(0).sign()
        torch.testing.assert_close(got, points * signs, rtol=1e-3, atol=1e-2)
        shares = sizes.flip(0)[:2] / sizes.sum()
        torch.testing.assert_close(found.explained[row].double(), shares, rtol=1e-3, atol=1e-4)
    assert found.points[:, 0].isnan().all()
    farthest = found.points[:, 1:].abs().argmax(1)
    assert found.points[:, 1:].gather(1, farthest[:, None]).min() > 0


def test_a_run_keeps_its_edits_and_a_row_its_padding_out(tiny: nl.LanguageModel) -> None:
    with tiny.trace([CLEAN, "The capital of France is"]) as tracer:
        tiny.layers[2].output[:] *= 2.0
        tiny.logits.save()
    edited = norms_and_directions(tracer.run, row=1)
    before = norms_and_directions(tiny, "The capital of France is")

    torch.testing.assert_close(edited.norms[:3], before.norms[:3], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(edited.norms[3], 2 * before.norms[3], rtol=1e-4, atol=1e-3)
    assert edited.tokens == before.tokens


class Encoder(nn.Module):
    """An autoencoder as users bring them, with an activation of its own."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        acts: torch.Tensor = torch.relu(x @ WEIGHTS["W_enc"] - 5.0)
        return acts


@pytest.mark.parametrize("part", ["resid", "attn", "mlp"])
def test_features_are_the_encoding_of_the_hooked_activation(
    either: nl.LanguageModel, tiny: nl.LanguageModel, part: str
) -> None:
    found = sae_features(either, WEIGHTS, 3, CLEAN, part=part, top=4)
    x = part_of(tiny.module, ids_of(tiny, CLEAN), part, 3)
    acts = torch.relu((x - WEIGHTS["b_dec"]) @ WEIGHTS["W_enc"] + WEIGHTS["b_enc"])
    rebuilt = acts @ WEIGHTS["W_dec"] + WEIGHTS["b_dec"]
    error = (x - rebuilt).square().sum(-1) / (x - x.mean(0)).square().sum(-1)

    assert found.ids == acts.amax(0).topk(4).indices.tolist()
    torch.testing.assert_close(found.activations, acts[:, found.ids].T, rtol=1e-4, atol=1e-3)
    assert found.active.tolist() == (acts > 0).sum(-1).tolist()
    torch.testing.assert_close(found.unexplained, error, rtol=1e-3, atol=1e-3)


def test_a_module_with_encode_is_taken_at_its_word(tiny: nl.LanguageModel) -> None:
    found = sae_features(tiny, Encoder(), -3, CLEAN)
    expected = Encoder().encode(part_of(tiny.module, ids_of(tiny, CLEAN), "resid", 3))

    assert (found.layer, found.unexplained) == (3, None)
    torch.testing.assert_close(found.activations, expected[:, found.ids].T, rtol=1e-4, atol=1e-3)
    other = sae_features(tiny, WEIGHTS, 3, CLEAN)
    assert_differs(found.activations, other.activations)


@pytest.mark.parametrize(
    ("sae", "layer", "more", "kind"),
    [
        (nn.Linear(2, 2), 3, {}, errors.BadInput),
        ({"W_enc": torch.ones(64, 9), "b_enc": torch.zeros(9)}, 3, {}, errors.ShapeMismatch),
        (WEIGHTS, 6, {}, errors.AddressNotFound),
        (WEIGHTS, 3, {"part": "heads"}, errors.BadInput),
        (WEIGHTS, 3, {"row": 1}, errors.BadInput),
        (WEIGHTS, 3, {"top": 0}, errors.BadInput),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny: nl.LanguageModel, sae: Any, layer: int, more: dict[str, Any], kind: type[errors.LabError]
) -> None:
    with pytest.raises(kind) as caught:
        sae_features(tiny, sae, layer, CLEAN, **more)

    assert caught.value.hint


@pytest.mark.parametrize(
    "wrong", [{"skip": 14}, {"directions": {"x": torch.ones(5)}}, {"directions": {"x": torch.zeros(128)}}]
)  # fmt: skip
def test_directions_that_are_none_are_refused(tiny: nl.LanguageModel, wrong: Any) -> None:
    with pytest.raises(errors.LabError) as caught:
        norms_and_directions(tiny, CLEAN, **wrong)

    assert caught.value.hint
