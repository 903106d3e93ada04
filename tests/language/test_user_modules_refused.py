"""Modules of yours that cannot be part of a graph, each refused at the line that says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab.errors import (
    AddressNotFound,
    GraphError,
    NotSupported,
    OpNotAllowed,
    ShapeMismatch,
    ValueNotKnown,
)
from tests.support.fixtures import IDS
from tests.support.lines import assert_at, frames_of_ours


class Chooses(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # a number at once
            return x
        return -x


class Draws(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)  # at random


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Any = nn.Buffer(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += x.mean()  # changes itself
        return x


class Raises(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("bad luck")


@pytest.mark.parametrize(
    ("module", "error", "marker"),
    [
        (Chooses(), ValueNotKnown, "a number at once"),
        (Draws(), OpNotAllowed, "at random"),
        (Counts(), OpNotAllowed, "changes itself"),
    ],
    ids=["number", "random", "counter"],
)
@pytest.mark.parametrize("attached", [False, True])
def test_a_module_that_cannot_be_recorded_says_so_at_its_own_line(
    lm: nl.LanguageModel,
    module: nn.Module,
    error: type[nl.errors.LabError],
    marker: str,
    attached: bool,
) -> None:
    lm.mine = module
    try:
        with pytest.raises(error) as caught, lm.trace(IDS, peek=False):
            (lm.mine if attached else module)(lm.layers[0].output).save()
    finally:
        del lm.mine
    assert_at(caught.value, marker)
    assert frames_of_ours(caught.value) <= 1
    assert all(isinstance(buffer, torch.Tensor) for buffer in module.buffers())


def test_a_module_in_training_mode_is_refused(lm: nl.LanguageModel) -> None:
    lm.mine = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.5))
    try:
        with pytest.raises(NotSupported) as caught, lm.trace(IDS):
            lm.mine(lm.layers[0].output)  # drops
        assert_at(caught.value, "drops")
        assert "eval()" in caught.value.hint
        with pytest.raises(OpNotAllowed, match="at random"), lm.trace(IDS):
            lm.mine.module(lm.layers[0].output)
    finally:
        del lm.mine


def test_an_error_of_its_own_is_kept(lm: nl.LanguageModel) -> None:
    module = Raises()
    with pytest.raises(ValueError, match="bad luck"), lm.trace(IDS):
        module(lm.layers[0].output)
    lm.mine = nn.Sequential(nn.Linear(32, 32), module)
    try:
        with pytest.raises(GraphError) as caught, lm.trace(IDS):
            lm.mine(lm.layers[0].output)  # unlucky
        assert_at(caught.value, "unlucky")
        assert isinstance(caught.value.__cause__, ValueError)
        first = lm.mine.module[0]
        assert isinstance(first.weight, nn.Parameter)
        assert not first._forward_hooks
    finally:
        del lm.mine


def test_a_module_of_another_size_is_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(ShapeMismatch), lm.trace(IDS):
        nn.Linear(8, 8)(lm.layers[0].output)


def test_the_models_own_names_are_not_taken(lm: nl.LanguageModel) -> None:
    for name in ("output", "attn", "skip"):
        with pytest.raises(OpNotAllowed):
            setattr(lm.layers[0], name, nn.Linear(2, 2))
    with pytest.raises(OpNotAllowed):
        lm.layers = nn.Linear(2, 2)
    with pytest.raises(AddressNotFound):
        lm.layers[0].anything = 3.0
