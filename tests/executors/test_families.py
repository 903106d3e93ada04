"""Standard names of every family: each reads, and edits, what a hand-written hook would."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from tests.support.family_hooks import by_hand, changed_by_hand, names_of
from tests.support.family_models import FAMILY_NAMES, HEADS, LAYERS, family_model
from tests.support.hooks import eager_patterns, forward
from tests.support.tensors import assert_differs, assert_exactly, assert_same

IDS = [[5, 17, 3, 42, 8, 29, 11, 2, 33], [9, 9, 14, 60, 1, 7, 25, 31, 4]]
"""Two prompts, longer than the sliding windows."""
SEVERAL_ROWS = [[5, 17, 3, 42, 8, 29, 11], [9, 14, 60], [1, 7, 25, 31, 4]]
"""Prompts of unequal length, to be padded."""

each_family = pytest.mark.parametrize("name", FAMILY_NAMES)


@cache
def _model(name: str) -> nl.LanguageModel:
    return nl.LanguageModel(family_model(name).module)


def _at(model: nl.LanguageModel, name: str) -> tuple[Any, str]:
    """The envoy and port behind a name such as `layers.1.attn.q`."""
    path, _, port = name.rpartition(".")
    return (model.get(path) if path else model), port


def _read(model: nl.LanguageModel, prompt: list[list[int]], names: list[str]) -> Any:
    with model.trace(prompt):
        values = {name: getattr(*_at(model, name)).save() for name in names}
    return values


def _assert_close(value: Any, expected: torch.Tensor, place: str, within: float = 1e-5) -> None:
    """Equal up to rounding, which grows with the numbers."""
    assert type(value) is torch.Tensor
    torch.testing.assert_close(
        value, expected, rtol=within, atol=within, msg=lambda text: f"{place}: {text}"
    )


def _changed(value: Any) -> Any:
    """Element by element, and no norm takes it back."""
    return value + value.sin()


@each_family
def test_every_name_reads_what_a_hook_sees(name: str) -> None:
    """Exactly, where a module holds it; within rounding inside attention."""
    small = family_model(name)
    values = _read(_model(name), IDS, names_of(small))

    expected = by_hand(small, IDS)
    assert set(values) == set(expected)
    for place, value in values.items():
        _assert_close(value, expected[place], place)


@each_family
def test_reading_a_name_alone_disturbs_nothing(name: str) -> None:
    """What modules hold is read to the bit; so are q, k and v, and the logits beside them."""
    small = family_model(name)
    model = _model(name)
    plain = [place for place in names_of(small) if not place.endswith(".pattern")]
    values = _read(model, IDS, plain)

    assert_exactly(values["logits"], forward(small.module, IDS))
    expected = by_hand(small, IDS)
    for place, value in values.items():
        if place.rpartition(".")[2] not in ("q", "k", "v"):
            assert_exactly(value, expected[place])


@each_family
def test_shapes_of_names(name: str) -> None:
    """Heads and positions stand where the words say."""
    small = family_model(name)
    values = _read(
        _model(name),
        IDS,
        [f"layers.1.attn.{port}" for port in ("q", "k", "v", "z", "pattern")],
    )
    shapes = {place.rpartition(".")[2]: tuple(value.shape) for place, value in values.items()}
    heads, kv_heads = (2, 9, HEADS, small.d_head), (2, 9, small.kv_heads, small.d_head)
    assert shapes == {
        "q": heads, "k": kv_heads, "v": kv_heads, "z": heads, "pattern": (2, HEADS, 9, 9)
    }  # fmt: skip


def _eager_falcon(module: Any) -> list[torch.Tensor]:
    """Falcon chooses its attention when it is made."""
    eager = (
        type(module)._from_config(copy.deepcopy(module.config), attn_implementation="eager").eval()
    )
    eager.load_state_dict(module.state_dict())
    with torch.no_grad():
        return list(eager(torch.tensor(IDS), output_attentions=True, use_cache=False).attentions)


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if family_model(name).eager])
def test_the_pattern_is_what_the_familys_own_eager_attention_returns(name: str) -> None:
    small = family_model(name)
    names = [f"layers.{i}.attn.pattern" for i in range(LAYERS)]
    values = _read(_model(name), IDS, names)

    expected = (
        _eager_falcon(small.module)
        if name.startswith("falcon")
        else eager_patterns(small.module, IDS)
    )
    for place, weights in zip(names, expected, strict=True):
        assert_same(values[place], weights, atol=1e-5)


@each_family
def test_an_edit_of_every_name_is_a_hooks_edit(name: str) -> None:
    """One edit a name, of the middle layer: the same logits as by hand, and other than before."""
    small = family_model(name)
    model = _model(name)
    before = forward(small.module, IDS)
    for place in names_of(small):
        if place.startswith(("layers.0.", "layers.2.")) or place == "embed.input":
            continue
        with model.trace(IDS):
            envoy, port = _at(model, place)
            setattr(envoy, port, _changed(getattr(envoy, port)))
            after = model.logits.save()
        expected = changed_by_hand(small, IDS, place, _changed)
        _assert_close(after, expected, place, within=2e-5)
        assert_differs(after, before, by=1e-3)
    assert_exactly(forward(small.module, IDS), before)


@each_family
def test_padded_prompts_give_what_they_give_alone(name: str) -> None:
    """Rotary, absolute and ALiBi positions; outputs, heads and patterns of each prompt."""
    model = _model(name)
    names = ["layers.0.output", "layers.2.output", "layers.1.attn.q", "layers.1.attn.z", "logits"]
    together = _read(model, SEVERAL_ROWS, [*names, "layers.1.attn.pattern"])
    for row, ids in enumerate(SEVERAL_ROWS):
        alone = _read(model, [ids], [*names, "layers.1.attn.pattern"])
        for place in names:
            _assert_close(together[place][row, -len(ids) :], alone[place][0], place)
        pattern = together["layers.1.attn.pattern"][row, :, -len(ids) :, -len(ids) :]
        assert_same(pattern, alone["layers.1.attn.pattern"][0], atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gptj", "bloom", "falcon-40b", "gemma3"])
def test_the_pattern_sees_an_edit_of_the_keys(name: str) -> None:
    """q, k, v come before the pattern, whatever way a family attends."""
    model = _model(name)
    with model.trace(IDS):
        model.layers[1].attn.k[:, 0] *= 3.0
        edited = model.layers[1].attn.pattern.save()
        after = model.logits.save()
    before = _read(model, IDS, ["layers.1.attn.pattern", "logits"])
    assert_differs(edited, before["layers.1.attn.pattern"])
    assert_differs(after, before["logits"])
