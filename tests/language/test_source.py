"""`module.source`: the torch functions a module's own forward calls, listed, read and edited.

The oracle is a function mode written by hand on the plain model (`tests/support/forward_calls.py`),
or a forward written anew.

The page: `docs/reference/module-source.md`.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import (
    AddressNotFound,
    GraphError,
    NotSupported,
    ShapeMismatch,
)
from nnsight_lab.ir import Graph
from tests.support.family_models import family_model
from tests.support.forward_calls import forward_calls
from tests.support.small_models import small_llama

PROMPT = "Anna met Bob in the"
IDS = [[5, 3, 9, 2, 7, 11], [4, 8, 1, 0, 6, 2]]
ROWS = TokenRows(tuple(map(tuple, IDS)))


def ids_of(lm: nl.LanguageModel) -> list[list[int]]:
    return [list(row) for row in lm.tokenize(PROMPT).rows]


# ---------------------------------------------------------------- the listing


def test_it_lists_the_operations_of_a_forward_with_their_lines(tiny: nl.LanguageModel) -> None:
    lines = str(tiny.layers[0].mlp.source).splitlines()

    assert lines[0] == "layers.0.mlp  (LlamaMLP, modeling_llama.py)"
    assert [line.split()[1] for line in lines[1:]] == [
        "gate_proj", "act_fn", "up_proj", "mul_0", "down_proj"
    ]  # fmt: skip
    assert re.fullmatch(r" +\d+  mul_0 +down_proj = self\.down_proj\(.+ \* .+\)", lines[4])
    assert all("→" in line for line in lines[1:] if "mul_0" not in line), "a submodule is marked"


def test_functions_that_the_forward_calls_are_part_of_it(tiny: nl.LanguageModel) -> None:
    source = tiny.layers[0].attn.source
    listed = str(source)

    assert "rotate_half, called at line" in listed
    assert "sdpa_attention_forward, called at line" in listed
    assert source.names[:3] == ("view_0", "transpose_0", "view_1")
    assert set(source.names) < set(dir(source)), "they are completed by tab"
    assert len(source) == len(list(source)) == len(source.names) > 20


def test_an_operation_says_what_it_holds(tiny: nl.LanguageModel) -> None:
    shown = str(tiny.layers[1].mlp.source.mul_0)

    assert shown.startswith("layers.1.mlp.source.mul_0  (modeling_llama.py line ")
    assert "  .output: float32[batch, pos, 384]" in shown
    assert "  .inputs: ((float32[batch, pos, 384], float32[batch, pos, 384]), {})" in shown


def test_a_server_lists_the_same(tiny: nl.LanguageModel, served: nl.LanguageModel) -> None:
    for here, far in zip(
        (tiny.layers[0].attn, tiny.layers[2].mlp, tiny.norm),
        (served.layers[0].attn, served.layers[2].mlp, served.norm),
        strict=True,
    ):
        assert str(far.source) == str(here.source)


# ---------------------------------------------------------------- reading


def values_of(
    lm: nl.LanguageModel, path: str, prompt: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What every operation of one forward gives, and its first tensor, as our trace reads them."""
    gave: dict[str, Any] = {}
    given: dict[str, Any] = {}
    with lm.trace(prompt):
        source = lm.get(path).source
        for name in source.names:
            gave[name] = source[name].output.save()
            given[name] = source[name].input.save()
    return gave, given


def first_tensor(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value
    items = value.values() if isinstance(value, dict) else value
    found = (first_tensor(item) for item in items) if isinstance(value, tuple | dict) else ()
    return next((item for item in found if item is not None), None)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return len(one) == len(other) and all(map(same, one, other))


UNCHOSEN = {"empty_like_0": "gave", "setitem_0": "given"}
"""Memory whose values nobody has chosen: the mixture of experts writes into some."""


@pytest.mark.parametrize(
    ("family", "path"),
    [
        ("gpt2", "transformer.h.1.attn"),
        ("gpt2", "transformer.h.1.mlp.act"),
        ("gpt2", "transformer.h.1.ln_1"),
        ("gpt2", "transformer.h.1"),
        ("gemma2", "model.layers.1.self_attn"),
        ("gemma2", "model.layers.1.mlp"),
        ("gemma2", "model.layers.1.input_layernorm"),
        ("gemma3", "model.layers.2.self_attn"),
        ("mixtral", "model.layers.1.mlp"),
        ("mixtral", "model.layers.1.mlp.gate"),
        # One of its operations gives memory as it happens to be.
        pytest.param("mixtral", "model.layers.1.mlp.experts", marks=pytest.mark.one_way),
        ("llama", "model.rotary_emb"),
        ("gptj", "transformer.h.1.attn"),
        ("falcon-40b", "transformer.h.1.self_attention"),
    ],
)
def test_every_operation_holds_what_the_plain_model_computes(family: str, path: str) -> None:
    model = family_model(family).module
    oracle = forward_calls(model, IDS, path)

    gave, given = values_of(nl.LanguageModel(model), path, ROWS)

    assert list(gave) == list(oracle.gave)
    assert len(gave) > 0
    for name in gave:
        if UNCHOSEN.get(name) != "gave":
            assert same(gave[name], oracle.gave[name]), name
        if given[name] is not None and UNCHOSEN.get(name) != "given":
            assert same(given[name], first_tensor(oracle.given[name])), name


@pytest.mark.parametrize("part", ["layers.3.mlp", "layers.3.attn", "norm", "layers.3"])
def test_a_server_reads_the_same(
    tiny: nl.LanguageModel, served: nl.LanguageModel, part: str
) -> None:
    path = dict(tiny.tree.standard)[part]
    oracle = forward_calls(tiny.module, ids_of(tiny), path)

    for lm in (tiny, served):
        gave, given = values_of(lm, part, PROMPT)
        assert list(gave) == list(oracle.gave)
        for name in gave:
            assert torch.equal(gave[name], oracle.gave[name]), name
            assert torch.equal(given[name], first_tensor(oracle.given[name])), name


def test_inputs_are_all_that_an_operation_is_given(tiny: nl.LanguageModel) -> None:
    path = dict(tiny.tree.standard)["layers.0.attn"]
    oracle = forward_calls(tiny.module, ids_of(tiny), path)

    with tiny.trace(PROMPT):
        attention = tiny.layers[0].attn.source.scaled_dot_product_attention_0
        query, key, value = (attention.inputs[0][index].save() for index in range(3))
        q = tiny.layers[0].attn.q.save()

    name = "scaled_dot_product_attention_0"
    for found, wanted in zip((query, key, value), oracle.given[name][0], strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(query, q.transpose(1, 2))


def test_the_softmax_of_eager_attention_is_the_pattern() -> None:
    lm = nl.LanguageModel(small_llama(attn_implementation="eager").module)

    with lm.trace(ROWS):
        softmax = lm.layers[1].attn.source.softmax_0.output.save()
    with lm.trace(ROWS):
        pattern = lm.layers[1].attn.pattern.save()

    assert torch.equal(softmax, pattern)


def test_each_invoke_sees_its_own_rows(tiny: nl.LanguageModel) -> None:
    prompts = ("Anna met Bob in the", "Anna met")
    alone = []
    for prompt in prompts:
        with tiny.trace(prompt):
            alone.append(tiny.layers[1].mlp.source.mul_0.output.save())

    with tiny.trace() as tracer:
        together = []
        for prompt in prompts:
            with tracer.invoke(prompt):
                together.append(tiny.layers[1].mlp.source.mul_0.output.save())

    for one, other in zip(together, alone, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-5)


def test_modules_inside_one_another_are_looked_into_at_once(tiny: nl.LanguageModel) -> None:
    """The block's own sums, and the product inside each of its MLPs."""
    with tiny.trace(PROMPT):
        sums = [layer.source.add_1.output.save() for layer in tiny.layers]
        products = [layer.mlp.source.mul_0.output.save() for layer in tiny.layers]
        outputs = [layer.output.save() for layer in tiny.layers]
        neurons = [layer.mlp.neurons.save() for layer in tiny.layers]

    assert len(sums) == len(products) == 6
    assert all(map(torch.equal, sums, outputs))
    assert all(map(torch.equal, products, neurons))


# ---------------------------------------------------------------- what cannot be


def test_an_unknown_operation_is_refused_with_the_nearest(
    tiny: nl.LanguageModel, served: nl.LanguageModel
) -> None:
    for lm in (tiny, served):
        with pytest.raises(AddressNotFound, match="no operation 'mull_0'") as refused:
            _ = lm.layers[0].mlp.source.mull_0
        assert "mul_0" in refused.value.hint
        assert refused.value.where is not None
        assert refused.value.where.file == __file__


def test_a_submodule_is_no_operation(tiny: nl.LanguageModel) -> None:
    with pytest.raises(AddressNotFound) as refused:
        _ = tiny.layers[0].mlp.source.gate_proj

    assert refused.value.hint == "gate_proj is a submodule: read layers.0.mlp.gate_proj.output."


def test_a_forward_without_torch_calls_says_so(served: nl.LanguageModel) -> None:
    gpt2 = nl.LanguageModel(family_model("gpt2").module)
    with pytest.raises(NotSupported, match="calls submodules only: c_fc, act, c_proj") as refused:
        _ = gpt2.layers[0].mlp.source
    assert refused.value.hint == "Look into those: transformer.h.0.mlp.c_fc.source."

    with pytest.raises(NotSupported, match="never runs"):
        _ = served.layers.source


def test_a_wrapped_module_is_looked_into_inside_a_trace() -> None:
    net = nl.wrap(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU()))
    with pytest.raises(GraphError, match="a trace has to be open"):
        _ = net[1].source

    with net.trace(torch.ones(1, 4)):
        assert net[1].source.names == ("gelu_0",)
        gelu = net[1].source.gelu_0.output.save()
        out = net[1].output.save()

    assert torch.equal(gelu, out)


def test_outside_a_trace_an_operation_has_no_value(tiny: nl.LanguageModel) -> None:
    with pytest.raises(GraphError, match="has a value only inside a trace"):
        _ = tiny.layers[0].mlp.source.mul_0.output


def test_a_graph_may_not_name_an_operation_that_is_not_there(
    tiny: nl.LanguageModel, served: nl.LanguageModel
) -> None:
    with tiny.trace(PROMPT, execute=False) as tracer:
        _ = tiny.layers[0].mlp.source.mul_0.output.save()
    data = tracer.graph.to_bytes().replace(b"source.mul_0.output", b"source.mul_9.output")

    for lm in (tiny, served):
        with pytest.raises(AddressNotFound) as refused:
            lm.run(Graph.from_bytes(data), PROMPT)
        assert "source.mul_0.output" in refused.value.hint
    data = tracer.graph.to_bytes().replace(b"model.layers.0.mlp", b"model.layers.9.mlp")
    for lm in (tiny, served):
        with pytest.raises(AddressNotFound, match=r"model\.layers\.9\.mlp"):
            lm.run(Graph.from_bytes(data), PROMPT)


def test_a_pattern_and_operations_of_the_same_attention_are_two_runs(
    tiny: nl.LanguageModel, served: nl.LanguageModel
) -> None:
    for lm in (tiny, served):
        with pytest.raises(NotSupported, match="cannot be used in one run"), lm.trace(PROMPT):
            _ = lm.layers[0].attn.source.contiguous_0.output.save()
            _ = lm.layers[0].attn.pattern.save()


class ByValue(torch.nn.Module):
    """Goes on with as many rows as are positive."""

    def forward(self, x: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
        return x[: int((bound > 0).sum())].cos()


def test_a_shape_that_is_not_as_recorded_is_refused() -> None:
    net = nl.wrap(ByValue())
    x, few, many = torch.ones(4, 2), torch.tensor([1.0, 0, 0, 0]), torch.ones(4)
    with net.trace(x, few) as tracer:
        cosine = net.source.cos_0.output.save()
    assert cosine.shape == (1, 2)

    with pytest.raises(ShapeMismatch, match="on these inputs"):
        net.run(tracer.graph, x, many)
