"""`.inputs`: all a module is given, as `(args, kwargs)`; and `.calls`, a module that runs more often.

    lm.layers[1].inputs[0][0]                     # the first positional argument
    lm.layers[1].attn.inputs[1]["attention_mask"] # a keyword argument

The oracle is `register_forward_pre_hook(…, with_kwargs=True)` on the plain model.

The page: `docs/reference/reading-and-editing.md`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab.errors import (
    AddressNotFound,
    NotSupported,
    OpNotAllowed,
    ShapeMismatch,
    WriteTooEarly,
)
from nnsight_lab.ir import Address
from nnsight_lab.wire.trees import encode_card
from tests.server.lab_server import Serving
from tests.support.fixtures import IDS
from tests.support.hooks import forward, inputs_seen, outputs_seen, tensor_of
from tests.support.lines import assert_at
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_differs, assert_exactly, assert_same
from tests.support.three_ways import assert_three_ways

PROMPT = "The capital of France is"
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(7))


class Mixer(nn.Module):
    """Takes a tuple, keyword tensors, and things that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(
        self, pair: tuple[Any, Any], factor: float, *, bias: Any = None, name: str = ""
    ) -> Any:
        out = self.linear(pair[0]) * factor + pair[1]
        return out if bias is None else out + bias + len(name)


class Net(nn.Module):
    """Calls the mixer, then one part three times."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = Mixer()
        self.shared = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mixer((x, x + 1), 2.0, bias=x * 3, name="abc")
        for _ in range(3):
            y = self.shared(y)
        out: torch.Tensor = y
        return out


def seen_by_hand(module: nn.Module, part: nn.Module, x: torch.Tensor) -> tuple[Any, Any]:
    """What a part is given, as a hook sees it."""
    seen: list[Any] = []
    handle = part.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    module(x)
    handle.remove()
    found: tuple[Any, Any] = seen[0]
    return found


def test_args_and_kwargs_are_read_as_they_are_given() -> None:
    module = Net()
    net = nl.wrap(module)
    with net.trace(X):
        args, kwargs = net.mixer.inputs
        names = list(kwargs), len(args)
        whole = net.mixer.inputs.save()
        second = args[0][1].save()
        bias = net.mixer.inputs[1]["bias"].save()
        name = kwargs["name"].save()

    by_hand, named = seen_by_hand(module, module.mixer, X)
    assert names == (["bias", "name"], 2)
    assert_exactly(second, by_hand[0][1])
    assert_exactly(bias, named["bias"])
    assert_exactly(whole[0][0][0], X)
    assert whole[0][1] == 2.0
    assert name == "abc"


def test_a_module_with_one_argument_has_inputs_too(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        both = lm.norm.inputs[0][0].save(), lm.norm.input.save()
        empty = len(lm.norm.inputs[1])
    assert_exactly(both[0], both[1])
    assert empty == 0


def test_one_of_them_is_edited() -> None:
    module = Net()
    net = nl.wrap(module)
    with net.trace(X):
        net.mixer.inputs[1]["bias"][:, 0] = 5.0
        net.mixer.inputs[0][0][1].mul_(0.5)
        after = net.mixer.inputs[1]["bias"].save()
        out = net.mixer.output.save()

    bias = X * 3
    bias[:, 0] = 5.0
    assert_exactly(after, bias)
    expected = module.mixer((X, (X + 1) * 0.5), 2.0, bias=bias, name="abc").detach()
    assert_same(out, expected)
    assert_differs(out, module.mixer((X, X + 1), 2.0, bias=X * 3, name="abc").detach())


def test_they_are_written_whole() -> None:
    """What is not a tensor is handed on as it was, be it given as what was read or as None."""
    module = Net()
    net = nl.wrap(module)
    with net.trace(X):
        args, kwargs = net.mixer.inputs
        net.mixer.inputs = (((X * 2, args[0][0]), args[1]), {**kwargs, "bias": 1.0})
        one = net.mixer.output.save()
    with net.trace(X):
        args, kwargs = net.mixer.inputs
        net.mixer.inputs = ((args[0], None), kwargs)
        net.mixer.inputs[0][0][0][:] = 0
        two = net.mixer.output.save()

    ones = torch.ones_like(X)
    assert_same(one, module.mixer((X * 2, X), 2.0, bias=ones, name="abc").detach())
    assert_same(two, module.mixer((X * 0, X + 1), 2.0, bias=X * 3, name="abc").detach())


def test_the_mask_of_an_attention_is_one_of_them(family: SmallModel) -> None:
    """Here the last position may no longer see the first."""
    model = copy.deepcopy(family.module)
    model.set_attn_implementation("eager")  # torch's own attention does without a mask
    lm = nl.LanguageModel(model)
    lowest = torch.finfo(torch.float32).min

    def by_hand(_: Any, args: Any, kwargs: Any) -> Any:
        mask = kwargs["attention_mask"].clone()
        mask[..., -1, 0] = lowest
        return args, {**kwargs, "attention_mask": mask}

    with lm.trace(IDS):
        mask = lm.layers[1].attn.inputs[1]["attention_mask"]
        shape = tuple(mask.shape)
        mask[..., -1, 0] = lowest
        pattern = lm.layers[1].attn.pattern.save()
        logits = lm.logits.save()
    part = model.get_submodule(family.at(family.attn, 1))
    handle = part.register_forward_pre_hook(by_hand, with_kwargs=True)
    expected = forward(model, IDS)
    handle.remove()
    assert shape == (1, 1, 6, 6)
    assert pattern[:, :, -1, 0].abs().max() == 0
    assert_same(logits, expected)
    assert_differs(logits, forward(model, IDS))


def test_what_a_model_gives_as_none_is_none(tiny: nl.LanguageModel) -> None:
    """A mask that is not needed is not there, as in the model's own run."""
    with tiny.trace(PROMPT):
        mask = tiny.layers[1].attn.inputs[1]["attention_mask"].save()
    seen: list[Any] = []
    part = tiny.module.get_submodule("model.layers.1.self_attn")
    handle = part.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    forward(tiny.module, [list(row) for row in tiny.tokenize(PROMPT).rows])
    handle.remove()
    assert seen == [None]
    assert mask is None


def test_the_gradient_of_one_of_them_is_of_what_the_module_is_given(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """Not of the stream beside it: as `.input.grad`."""
    with lm.trace(IDS), lm.logits[0, -1, 7].backward():
        one = lm.layers[1].mlp.inputs[0][0].grad.save()
    with lm.trace(IDS), lm.logits[0, -1, 7].backward():
        other = lm.layers[1].mlp.input.grad.save()

    kept: list[torch.Tensor] = []

    def own(_: Any, args: Any) -> Any:
        kept.append(args[0].clone())
        return (kept[0],)

    handle = family.module.get_submodule(family.at(family.mlp, 1)).register_forward_pre_hook(own)
    logits = family.module(torch.tensor(IDS), use_cache=False).logits
    handle.remove()
    (expected,) = torch.autograd.grad(logits[0, -1, 7], kept)
    assert_same(one, expected)
    assert_same(other, expected)


def test_the_three_ways(tiny: nl.LanguageModel, lab: Serving) -> None:
    with tiny.trace(PROMPT) as tracer:
        ids_given = tiny.layers[1].attn.inputs[1]["position_ids"].save()
        tiny.layers[2].inputs[0][0][:, -1] *= 2.0
        logits = tiny.logits.save()

    ids = [list(row) for row in tiny.tokenize(PROMPT).rows]

    def doubled(_: Any, args: Any) -> Any:
        changed = args[0].clone()
        changed[:, -1] *= 2.0
        return (changed, *args[1:])

    handle = tiny.module.get_submodule("model.layers.2").register_forward_pre_hook(doubled)
    expected = forward(tiny.module, ids)
    handle.remove()
    assert ids_given.tolist() == [list(range(len(ids[0])))]
    assert_same(logits, expected, atol=1e-5)
    assert_three_ways(tiny, tracer, lab)


def test_an_output_object_edited_in_the_middle_stays_what_the_model_expects(
    tiny: nl.LanguageModel,
) -> None:
    """`lm.model` gives an object with attributes; an edit does not make a dict of it."""
    with tiny.trace(PROMPT):
        tiny.model.output["last_hidden_state"][:, -1] = 0.0
        logits = tiny.logits.save()
    assert logits[:, -1].abs().max() == 0
    assert logits[:, 0].abs().max() > 0


# Two names of one place


def test_input_and_inputs_of_one_module_are_not_mixed_with_an_edit(lm: nl.LanguageModel) -> None:
    with pytest.raises(NotSupported) as caught, lm.trace(IDS):
        lm.layers[1].inputs[0][0][:] = 0.0  # under one name
        lm.layers[1].input.save()
    assert_at(caught.value, "under one name")
    with pytest.raises(NotSupported), lm.trace(IDS):
        lm.layers[1].input[:] = 0.0
        lm.layers[1].inputs[0][0].save()
    with lm.trace(IDS):
        pair = lm.layers[1].inputs[0][0].save(), lm.layers[1].input.save()
    assert_exactly(pair[0], pair[1])


def test_inputs_that_do_not_fit_are_refused() -> None:
    net = nl.wrap(Net())
    with pytest.raises(ShapeMismatch) as caught, net.trace(X):
        net.mixer.inputs = (net.mixer.inputs[0], {})  # names are missing
    assert_at(caught.value, "names are missing")
    with pytest.raises(ShapeMismatch), net.trace(X):
        net.mixer.inputs = (net.mixer.inputs[0],)
    with pytest.raises(ShapeMismatch), net.trace(X):
        net.mixer.inputs[1]["bias"] = torch.zeros(2, 9)
    with pytest.raises(ShapeMismatch), net.trace(X):
        net.mixer.inputs = (net.mixer.inputs[0], {"bias": None, "name": None})
    with pytest.raises(OpNotAllowed), net.trace(X):
        net.mixer.inputs = (net.mixer.inputs[0], {"bias": X, "name": "other"})
    with pytest.raises(WriteTooEarly), net.trace(X):
        net.mixer.inputs[1]["bias"][:] = net.mixer.output


def test_one_invokes_part_of_them_cannot_be_told(tiny: nl.LanguageModel) -> None:
    with pytest.raises(NotSupported), tiny.trace() as tracer, tracer.invoke(PROMPT):
        tiny.layers[1].inputs.save()


def test_the_card_says_them_only_where_they_say_more(tiny: nl.LanguageModel) -> None:
    """A projection's inputs are its input alone; so the card grows little by them."""
    listed = {site.address for site in tiny.tree.sites if site.address.port == "inputs"}
    assert Address("model.layers.0.self_attn", "inputs") in listed
    assert Address("model.layers.0.self_attn.q_proj", "inputs") not in listed
    assert Address("model.layers.0.self_attn.q_proj", "inputs") in tiny.tree.by_address
    assert len(listed) < len(tiny.tree.modules) / 3
    assert len(encode_card(replace(tiny.card, decode=None))) < 110_000


# Several calls


def test_each_call_of_a_module_has_places_of_its_own() -> None:
    module = Net()
    net = nl.wrap(module)
    with net.trace(X):
        outs = [call.output.save() for call in net.shared.calls]
        given = net.shared.calls[2].input.save()
        inner = net.shared.calls[1][0].output.save()
        text = repr(net.shared), repr(net.shared.calls[1])

    y = module.mixer((X, X + 1), 2.0, bias=X * 3, name="abc")
    expected = []
    for _ in range(3):
        expected.append(module.shared[0](y))
        y = module.shared(y)
    assert len(outs) == 3
    assert_exactly(outs[2], y.detach())
    assert_exactly(given, outs[1])
    assert_exactly(inner, expected[1].detach())
    assert "runs 3 times" in text[0]
    assert "shared.calls[1]" in text[1]


def test_one_call_is_edited_and_the_others_are_not() -> None:
    module = Net()
    net = nl.wrap(module)
    with net.trace(X):
        net.shared.calls[1].output[:] = X
        net.shared.calls[2].input[:, 0] = 9.0
        first = net.shared.output.save()
        out = net.output.save()

    by_hand = X.clone()
    by_hand[:, 0] = 9.0
    assert_same(out, module.shared(by_hand).detach())
    y = module.mixer((X, X + 1), 2.0, bias=X * 3, name="abc")
    assert_same(first, module.shared(y).detach())


def test_calls_there_are_not(lm: nl.LanguageModel) -> None:
    net = nl.wrap(Net())
    with pytest.raises(AddressNotFound):
        net.shared.calls  # noqa: B018 - outside a trace nothing is known to run
    with pytest.raises(AddressNotFound, match="runs 3 time"), net.trace(X):
        net.shared.calls[3].output.save()
    assert len(lm.layers[0].calls) == 1
    with lm.trace(IDS):
        same = lm.layers[0].calls[0].output.save(), lm.layers[0].output.save()
    assert_exactly(same[0], same[1])


def test_inputs_equal_what_hooks_see(lm: nl.LanguageModel, family: SmallModel) -> None:
    path = family.at(family.block, 1)
    with lm.trace(IDS):
        given = lm.get(path).inputs[0][0].save()
        before = lm.layers[0].output.save()
    assert_exactly(given, inputs_seen(family.module, IDS, path)[path])
    first = family.at(family.block, 0)
    assert_exactly(before, tensor_of(outputs_seen(family.module, IDS, first)[first]))
