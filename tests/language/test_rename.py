"""`rename=`: names of your own for a model's modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab.errors import AddressNotFound, BadInput
from tests.server.lab_server import TOKEN, Serving
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_exactly

IDS = [[5, 17, 3, 42, 8, 29]]
PROMPT = "The capital of France is"
NAMES = {"model.layers": "blocks", "mlp": ["ff", "feed"], "self_attn.o_proj": "mix"}


@pytest.fixture(scope="module")
def named() -> nl.LanguageModel:
    """The bundled model, by names of ours."""
    return nl.LanguageModel("tiny", rename=NAMES)


def test_an_alias_is_another_way_to_write_a_path(named: nl.LanguageModel) -> None:
    """A path is renamed where it begins, the end of a path wherever it stands."""
    with named.trace(PROMPT) as tracer:
        ours = [
            named.blocks[0].output.save(),
            named.layers[1].ff.output.save(),
            named.blocks[-1].feed.output.save(),
            named.get("blocks.2.mix").output.save(),
        ]
        theirs = [
            named.layers[0].output.save(),
            named.layers[1].mlp.output.save(),
            named.layers[5].mlp.output.save(),
            named.model.layers[2].self_attn.o_proj.output.save(),
        ]

    for one, other in zip(ours, theirs, strict=True):
        assert_exactly(one, other)
    assert not {"blocks", "ff", "feed"} & set(str(tracer.graph).replace(".", " ").split())


def test_the_graph_holds_true_addresses(named: nl.LanguageModel, tiny: nl.LanguageModel) -> None:
    with named.trace(PROMPT) as tracer:
        named.blocks[1].ff.output *= 0
        logits = named.logits.save()
    with tiny.trace(PROMPT) as plain:
        tiny.layers[1].mlp.output *= 0
        logits = tiny.logits.save()

    assert tracer.graph == plain.graph
    assert_exactly(tiny.run(tracer.graph, PROMPT)["logits"], logits)


def test_a_server_does_not_learn_of_them(lab: Serving, named: nl.LanguageModel) -> None:
    with nl.connect(lab.url, TOKEN) as connected:
        there = connected.model("tiny", rename=NAMES)
        with there.trace(PROMPT):
            remote = there.blocks[3].ff.output.save()
    with named.trace(PROMPT):
        here = named.blocks[3].ff.output.save()

    assert_exactly(remote, here)


def test_a_wrapped_module_can_be_renamed_as_well() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    net = nl.wrap(module, rename={"0": "enter", "2": "leave"})
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    with net.trace(x):
        hidden = net.enter.output.save()
        out = net.leave.output.save()

    assert_exactly(hidden, module[0](x).detach())
    assert_exactly(out, module(x).detach())


def test_they_are_completed_and_printed(named: nl.LanguageModel) -> None:
    assert {"blocks"} <= set(dir(named))
    assert {"ff", "feed"} <= set(dir(named.layers[0]))
    assert "ff" not in dir(named)
    assert ".blocks = model.layers" in repr(named)
    assert ".ff = " in repr(named.layers[0])
    with pytest.raises(AddressNotFound) as caught:
        _ = named.layers[0].fff
    assert "'ff'" in caught.value.hint


def test_a_cache_and_an_edited_model_know_them(named: nl.LanguageModel) -> None:
    with named.edit() as edited:
        named.blocks[0].ff.output *= 0
    with edited.trace(PROMPT) as tracer:
        cache = tracer.cache([edited.blocks[0].ff, "blocks.1"])

    assert cache["blocks.0.ff"].output.abs().max() == 0
    assert cache.blocks[0].feed.output.abs().max() == 0
    assert cache["layers.0.mlp"].output is cache["blocks.0.ff"].output
    assert cache["layers.1"].output.shape[-1] == 128


def test_a_leading_dot_means_the_top_of_the_model_only() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ModuleDict({"a": nn.Linear(2, 2)})})
    top = nl.wrap(module, rename={".a": "first"})
    both = nl.wrap(module, rename={"a": "first"})

    assert "first" in dir(top)
    assert "first" not in dir(top.b)
    assert "first" in dir(both.b)


def test_a_standard_name_may_be_given_to_what_it_means(gpt2: SmallModel) -> None:
    """As users of other libraries do: it is `layers` here already."""
    lm = nl.LanguageModel(gpt2.module, rename={"transformer.h": "layers"})
    with lm.trace(IDS):
        h = lm.layers[0].output.save()

    assert h.shape == (1, 6, 32)


@pytest.mark.parametrize(
    ("rename", "says"),
    [
        ({"mlp": "output"}, "'output' is a value or a verb"),
        ({"mlp": "q"}, "'q' is a value or a verb"),
        ({"mlp": "trace"}, "'trace' is a value or a verb"),
        ({"mlp": "tokenizer"}, "'tokenizer' is a value or a verb"),
        ({"mlp": "weight"}, "'weight' is a parameter"),
        ({"mlp": "attn"}, "is called so already"),
        ({"mlp": "2x"}, "cannot be used as an attribute"),
        ({"mlp": "_own"}, "cannot be used as an attribute"),
        ({"mlp": [3]}, "cannot be used as an attribute"),
        ({"mpl": "ff"}, "no module 'mpl'"),
        ({".mlp": "ff"}, "no module '.mlp'"),
        ({3: "ff"}, "no module 3"),
        ("mlp", "is a mapping"),
    ],
)
def test_a_name_that_is_taken_or_stands_for_nothing_is_refused(
    llama: SmallModel, rename: Any, says: str
) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        nl.LanguageModel(llama.module, rename=rename)  # given here

    assert_at(caught.value, "given here")
    assert frames_of_ours(caught.value) <= 1
    assert caught.value.hint


def test_it_is_refused_at_the_users_line_everywhere(lab: Serving) -> None:
    with pytest.raises(BadInput) as caught:
        nl.wrap(nn.Linear(2, 2), rename={"x": "y"})  # wrapped here
    assert_at(caught.value, "wrapped here")
    with nl.connect(lab.url, TOKEN) as connected, pytest.raises(BadInput) as caught:
        connected.model("tiny", rename={"mlp": "output"})  # served there
    assert_at(caught.value, "served there")
