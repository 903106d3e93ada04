"""`model.scan(prompt)`: shapes and dtypes of what a block would give; nothing runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, ShapeMismatch
from tests.support.lines import assert_at
from tests.support.small_models import SmallModel

PROMPT = "The capital of France is"
IDS, SHORT = [[5, 17, 3, 42, 8, 29]], [[11, 2, 60]]


def test_saved_names_hold_tensors_without_data(anywhere: nl.LanguageModel) -> None:
    with anywhere.scan(PROMPT) as tracer:
        h = anywhere.layers[0].output.save()
        top, ids = anywhere.logits[:, -1].topk(3)
        top, ids = top.save(), ids.save()

    assert h.device.type == top.device.type == "meta"
    assert (h.shape, h.dtype) == ((1, 6, 128), torch.float32)
    assert (ids.shape, ids.dtype) == ((1, 3), torch.int64)
    assert list(tracer.run) == ["h", "top", "ids"]
    assert "h: float32[1, 6, 128]" in repr(tracer.run)


def test_they_are_those_of_a_run(lm: nl.LanguageModel) -> None:
    def program() -> None:
        found.append([layer.output.save() for layer in lm.layers])
        found.append(lm.layers[1].attn.pattern.save())
        found.append((lm.logits.softmax(-1) @ lm.lm_head.weight).bfloat16().save())

    found: list[object] = []
    with lm.scan(IDS):
        program()
    scanned, found = found, []
    with lm.trace(IDS):
        program()

    assert str([*map(_shapes, scanned)]) == str([*map(_shapes, found)])
    assert "meta" not in str(found)


def _shapes(value: object) -> object:
    if isinstance(value, list):
        return [*map(_shapes, value)]
    assert isinstance(value, torch.Tensor)
    return value.shape, value.dtype


def test_the_model_is_not_called(llama: SmallModel) -> None:
    lm = nl.LanguageModel(llama.module)
    assert lm.card.layers == 3  # measured before anything is counted
    calls: list[object] = []
    handle = llama.module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with lm.scan(IDS):
            logits = lm.logits.save()
    finally:
        handle.remove()

    assert logits.is_meta
    assert calls == []


def test_no_weights_are_needed() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    net = nl.wrap(module)

    with net.scan(torch.empty(5, 4, device="meta")):
        hidden = net[0].output.save()
        out = net.output.save()

    assert (hidden.shape, out.shape) == ((5, 8), (5, 3))


def test_a_language_model_can_be_scanned_without_its_weights(family: SmallModel) -> None:
    """Its shapes, standard names and all, are those of the model with weights."""
    with torch.device("meta"):
        empty = type(family.module)(family.module.config)
    weightless, real = nl.LanguageModel(empty), nl.LanguageModel(family.module)

    found = []
    for lm in (weightless, real):
        with lm.scan(IDS):
            values = [lm.layers[2].output.save(), lm.layers[1].attn.q.save(), lm.logits.save()]
        found.append([*map(_shapes, values)])
    assert found[0] == found[1]


def test_each_invoke_has_its_own_shapes(lm: nl.LanguageModel) -> None:
    with lm.scan() as tracer:
        with tracer.invoke(IDS):
            long = lm.logits.save()
        with tracer.invoke(SHORT):
            short = lm.logits.save()
        with tracer.invoke():
            both = lm.layers[0].output.save()

    assert (long.shape, short.shape, both.shape) == ((1, 6, 61), (1, 3, 61), (2, 6, 32))


def test_a_shape_that_only_a_run_can_tell_says_so(lm: nl.LanguageModel) -> None:
    with lm.scan(IDS) as tracer:
        h = lm.layers[0].output
        positive = h[h > 0].save()

    assert repr(positive) == "unknown shape"
    assert "positive: unknown shape" in repr(tracer.run)


def test_what_is_wrong_is_found_at_its_line(lm: nl.LanguageModel) -> None:
    with pytest.raises(ShapeMismatch) as caught, lm.scan(IDS):
        (lm.layers[0].output @ torch.ones(5, 5)).save()  # five is not thirty-two

    assert_at(caught.value, "five is not thirty-two")
    with pytest.raises(BadInput), lm.scan(""):
        pass


def test_a_cache_holds_shapes_as_well(lm: nl.LanguageModel) -> None:
    with lm.scan(IDS) as tracer:
        cache = tracer.cache(device="cpu")

    assert cache["layers.0.mlp"].output.is_meta
    assert "layers.0.mlp  .output: float32[1, 6, 32]" in repr(cache)


def test_stored_edits_are_part_of_it(lm: nl.LanguageModel) -> None:
    with lm.edit() as edited:
        lm.layers[0].output[:, 5] = 0.0

    with edited.scan(IDS):
        logits = edited.logits.save()
    assert logits.shape == (1, 6, 61)
    with pytest.raises(ShapeMismatch), edited.scan(SHORT):
        pass
