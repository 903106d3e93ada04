"""`tracer.cache(...)`: what many modules gave, at once.

The page: `docs/reference/cache.md`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab.errors import AddressNotFound, BadInput, GraphError, NotSaved
from tests.support.hooks import inputs_seen, outputs_seen, tensor_of
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_differs, assert_exactly, assert_same

IDS, SHORT = [[5, 17, 3, 42, 8, 29]], [[11, 2, 60]]
PROMPT = "The capital of France is"


def test_every_layer_its_attention_and_its_mlp(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS) as tracer:
        cache = tracer.cache()

    parts = {"": family.block, ".attn": family.attn, ".mlp": family.mlp}
    assert list(cache) == [f"layers.{i}{part}" for i in range(3) for part in parts]
    for i in range(3):
        for part, template in parts.items():
            path = family.at(template, i)
            expected = tensor_of(outputs_seen(family.module, IDS, path)[path])
            assert_same(cache[f"layers.{i}{part}"].output, expected)


def test_an_entry_is_found_by_key_by_attribute_and_by_module_path(
    anywhere: nl.LanguageModel,
) -> None:
    with anywhere.trace(PROMPT) as tracer:
        cache = tracer.cache()
        mlp = anywhere.layers[0].mlp.output.save()

    assert_exactly(cache["layers.0.mlp"].output, mlp)
    assert_exactly(cache.layers[0].mlp.output, mlp)
    assert_exactly(cache["model.layers.0.mlp"].output, mlp)
    assert_exactly(cache.model.layers[0].mlp.output, mlp)
    assert_exactly(cache.layers[-1].output, cache["layers.5"].output)
    for layer, expected in zip(cache.layers, _blocks(cache), strict=True):
        assert_exactly(layer.output, expected)


def _blocks(cache: Any) -> list[torch.Tensor]:
    return [cache[f"layers.{number}"].output for number in range(6)]


def test_it_holds_what_a_module_gave_in_the_end(lm: nl.LanguageModel) -> None:
    """Wherever the cache is asked for, edits are in it."""
    with lm.trace(IDS) as tracer:
        cache = tracer.cache("layers.1")
        before = lm.layers[1].output.save()
        lm.layers[1].output[:, -1] = 0.0
        after = lm.layers[1].output.save()

    assert_exactly(cache["layers.1"].output, after)
    assert_differs(cache["layers.1"].output, before)


def test_which_modules_can_be_said_in_several_ways(lm: nl.LanguageModel) -> None:
    def keys(modules: Any) -> list[str]:
        with lm.trace(IDS) as tracer:
            cache = tracer.cache(modules)
        assert all(cache[key].output.shape == (1, 6, 32) for key in cache)
        return list(cache)

    assert keys([lm.layers[0].mlp, "layers.1"]) == ["layers.0.mlp", "layers.1"]
    assert keys(lm.norm) == ["norm"]
    assert keys("layers.2.attn") == ["layers.2.attn"]
    assert keys(lm.layers) == ["layers.0", "layers.1", "layers.2"]
    named = keys(lambda name: name.endswith((".mlp", ".1")))
    assert set(named) >= {"layers.0.mlp", "layers.1.mlp", "layers.2.mlp", "layers.1"}
    assert not any(name.startswith(("model.", "transformer.")) for name in named)


def test_inputs_too_or_inputs_only(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS) as tracer:
        both = tracer.cache(["layers.1.mlp"], include_inputs=True)
        only = tracer.cache(["layers.1.mlp"], include_inputs=True, include_output=False)

    path = family.at(family.mlp, 1)
    given = inputs_seen(family.module, IDS, path)[path]
    assert_same(both["layers.1.mlp"].input, given)
    assert_same(only["layers.1.mlp"].input, given)
    assert both.layers[1].mlp.output.shape == given.shape
    with pytest.raises(NotSaved, match=r"layers\.1\.mlp\.output"):
        _ = only["layers.1.mlp"].output


def test_in_another_precision_and_on_another_device(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS) as tracer:
        cache = tracer.cache("layers.0", dtype=torch.float16, device="meta")
        half = tracer.cache("layers.0", dtype=torch.float16)
        full = lm.layers[0].output.save()

    assert cache["layers.0"].output.is_meta
    assert_exactly(half["layers.0"].output, full.half())


def test_each_invoke_may_have_one(lm: nl.LanguageModel, family: SmallModel) -> None:
    """Of its own rows and positions, as if it ran alone; one outside of them holds all rows."""
    with lm.trace() as tracer:
        every = tracer.cache("layers.1")
        with tracer.invoke(IDS):
            one = tracer.cache("layers.1")
            long = lm.layers[2].output.save()
        with tracer.invoke(SHORT):
            two = tracer.cache("layers.1")
            lm.layers[2].output[:] = 0.0

    path = family.at(family.block, 1)
    for cache, prompt in ((one, IDS), (two, SHORT)):
        expected = tensor_of(outputs_seen(family.module, prompt, path)[path])
        assert_same(cache["layers.1"].output, expected, atol=1e-5)
    assert_same(every["layers.1"].output[1:, 3:], two["layers.1"].output)
    assert every["layers.1"].output.shape == (2, 6, 32)
    assert long.abs().max() > 0


def test_a_wrapped_module_gives_all_its_modules() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 3)))
    net = nl.wrap(module)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    with net.trace(x) as tracer:
        cache = tracer.cache()

    assert list(cache) == ["0", "1", "1.0", "1.1"]
    assert_same(cache["1.1"].output, module(x).detach())
    assert_same(cache["1"][0].output, module[0](x).relu().detach())


def test_it_is_a_mapping_that_prints_what_it_holds(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS) as tracer:
        cache = tracer.cache(["layers.0", "norm"])
        assert "when the block ends" in repr(cache)

    assert len(cache) == 2
    assert [key for key, _ in cache.items()] == ["layers.0", "norm"]
    assert "layers.0" in cache
    assert "layers.1" not in cache
    assert "layers.0  .output: float32[1, 6, 32]" in repr(cache)
    assert ".output: float32[1, 6, 32]" in repr(cache["norm"])
    assert "output" in dir(cache["norm"])
    assert_exactly(tracer.run["cache.norm.output"], cache["norm"].output)


# What is refused


def test_what_was_not_cached_is_said(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS) as tracer:
        cache = tracer.cache(["layers.0"])

    with pytest.raises(NotSaved, match="norm") as caught:
        _ = cache["norm"]  # no norm
    assert_at(caught.value, "no norm")
    assert frames_of_ours(caught.value) <= 1
    with pytest.raises(NotSaved):
        _ = cache.layers[1].output
    with pytest.raises(AddressNotFound, match="no module or value 'lyers'"):
        _ = cache.lyers


def test_it_is_empty_until_the_block_ends(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS, execute=False) as tracer:
        cache = tracer.cache(["layers.0"])
        with pytest.raises(NotSaved):
            _ = cache["layers.0"].output

    with pytest.raises(NotSaved):
        _ = cache["layers.0"].output


@pytest.mark.parametrize(
    ("modules", "kind"),
    [
        ("layers.9", AddressNotFound),
        (["model", 3], BadInput),
        (7, BadInput),
        (lambda name: False, BadInput),
        ([], BadInput),
    ],
)
def test_modules_that_are_not_there(llama: SmallModel, modules: Any, kind: Any) -> None:
    lm = nl.LanguageModel(llama.module)
    with pytest.raises(kind) as caught, lm.trace(IDS) as tracer:
        tracer.cache(modules)  # asked for here

    assert_at(caught.value, "asked for here")
    assert frames_of_ours(caught.value) <= 1
    assert caught.value.hint


def test_the_usual_cache_leaves_out_what_a_skipped_module_does_not_run(
    lm: nl.LanguageModel,
) -> None:
    with lm.trace(IDS) as tracer:
        cache = tracer.cache()
        lm.layers[1].skip(lm.layers[0].output)

    assert torch.equal(cache["layers.1"].output, cache["layers.0"].output)
    assert "layers.0.mlp" in cache
    assert "layers.1.mlp" not in cache

    with pytest.raises(GraphError, match="skipped"), lm.trace(IDS) as tracer:
        tracer.cache(modules="layers.1.mlp")
        lm.layers[1].skip(lm.layers[0].output)
