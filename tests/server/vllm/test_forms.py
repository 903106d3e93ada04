"""Where in vLLM's model an address of Hugging Face is: by hand on small tensors, then per family.

The families are the issue's. What a form takes is compared with a hand-written hook on the plain
Hugging Face model, and an edit through it with the same edit by such a hook.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from nnsight_lab.ir import Address, Dim, OpaqueSpec, SizeForm, TensorSpec, TupleSpec
from nnsight_lab_server.vllm.forms import (
    Form,
    Point,
    form_from_plain,
    packed,
    tensor_spec_of,
    unpacked,
)
from tests.support.family_hooks import by_hand, changed_by_hand, names_of
from tests.support.vllm_engines import EDITED, PROMPT, by_hand_model, compared
from tests.support.vllm_models import TESTED_NAMES

# vLLM itself computes BLOOM otherwise; test_certificate.py says what comes of that.
FAMILIES = tuple(name for name in TESTED_NAMES if name != "bloom")
AT = Point("after", "block")
PLACE = Address("layers.1", "output")

NOT_COMPUTED = {
    # vLLM caps or divides the logits inside the function that makes them.
    "gemma2": {"lm_head.output"},
    "granite": {"lm_head.output"},
}
"""Standard names that vLLM holds nowhere by themselves."""


def address(name: str) -> Address:
    path, _, port = name.rpartition(".")
    return Address(path, port)


# By hand


def test_a_sum_is_taken_whole_and_an_edit_leaves_the_rest_zero() -> None:
    form = Form(PLACE, AT, terms=((0,), (1,)), shape=(2,))
    hidden, residual = torch.tensor([[1.0, 2], [3, 4], [5, 6]]), torch.ones(3, 2)
    held = (hidden, residual)
    assert form.take(held).tolist() == [[2, 3], [4, 5], [6, 7]]
    new = form.put(held, torch.tensor([1]), torch.tensor([[9.0, 8]]))
    assert form.take(new).tolist() == [[2, 3], [9, 8], [6, 7]]
    assert new[1].tolist() == [[1, 1], [0, 0], [1, 1]]
    # What was held is as it was: others may have it in their hands.
    assert hidden.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert residual.tolist() == [[1, 1], [1, 1], [1, 1]]


def test_columns_are_taken_in_their_order_and_the_others_stay() -> None:
    form = Form(PLACE, AT, columns=((3, 4), (0, 1)), shape=(2,))
    held = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    assert form.take(held).tolist() == [[4, 1], [8, 5]]
    new = form.put(held, torch.tensor([0]), torch.tensor([[40.0, 10]]))
    assert new.tolist() == [[10, 2, 3, 40], [5, 6, 7, 8]]


def test_rows_may_lie_along_another_axis() -> None:
    form = Form(PLACE, AT, shape=(2, 2), axis=1)
    held = torch.arange(12.0).reshape(1, 3, 4)
    assert form.take(held).shape == (3, 2, 2)
    new = form.put(held, torch.tensor([2]), torch.zeros(1, 2, 2))
    assert new.shape == held.shape
    assert new[0, 2].abs().sum() == 0
    assert torch.equal(new[0, :2], held[0, :2])
    one_row = torch.ones(1, 1, 4)
    assert form.take(one_row).shape == (1, 2, 2)


def test_a_scaled_value_is_written_scaled_back() -> None:
    form = Form(PLACE, Point("before", "attn"), terms=((0, 0),), shape=(2,), scale=0.5)
    held: Any = ((torch.tensor([[2.0, 4]]), None), {})
    assert form.take(held).tolist() == [[1, 2]]
    new = form.put(held, torch.tensor([0]), torch.tensor([[3.0, 3]]))
    assert new[0][0].tolist() == [[6, 6]]
    assert new[0][1] is None


def test_a_bias_that_is_not_added_yet_belongs_to_the_value() -> None:
    form = Form(PLACE, AT, terms=((0,),), shape=(2,), bias=(1,))
    held = (torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([10.0, 20]))
    assert form.take(held).tolist() == [[11, 22], [13, 24]]
    new = form.put(held, torch.tensor([0]), torch.zeros(1, 2))
    assert form.take(new).tolist() == [[0, 0], [13, 24]]
    assert new[1] is held[1]


def test_a_keyword_is_found_by_its_name() -> None:
    form = Form(PLACE, Point("before", "attn"), terms=((1, "hidden_states"),), shape=(1,))
    held: Any = ((), {"positions": torch.arange(2), "hidden_states": torch.ones(2, 1)})
    new = form.put(held, torch.tensor([1]), torch.tensor([[7.0]]))
    assert new[1]["hidden_states"].tolist() == [[1], [7]]
    assert new[1]["positions"] is held[1]["positions"]


def test_a_form_is_plain_data() -> None:
    form = Form(
        PLACE,
        AT,
        ((0,), (1, "x")),
        ((1, 2), (4, 9)),
        (3, 2),
        kind="logits",
        axis=1,
        bias=(1,),
        scale=0.25,
    )
    assert form_from_plain(json.loads(json.dumps(form.to_plain()))) == form


def test_a_tuple_with_one_tensor_is_that_tensor() -> None:
    tensor = TensorSpec("float32", (Dim(SizeForm.BATCH), Dim(SizeForm.POS)))
    spec = TupleSpec((tensor, OpaqueSpec("NoneType")))
    assert tensor_spec_of(spec) == tensor
    value = torch.ones(1, 2)
    assert packed(value, spec) == (value, None)
    assert unpacked((value, None), spec) is value
    assert tensor_spec_of(TupleSpec((tensor, tensor))) is None
    assert tensor_spec_of(TupleSpec((tensor, OpaqueSpec("DynamicCache")))) is None


# Found by measurement


def test_what_is_known_of_llama_is_found() -> None:
    forms = compared("llama").certificate.forms
    block = forms[Address("layers.1", "output")]
    assert block.point == ("after", "model.layers.1")
    assert block.terms == ((0,), (1,))
    query = forms[Address("layers.1.attn", "q")]
    assert query.point == ("before", "model.layers.1.self_attn.attn")
    assert query.terms == ((0, 0),)
    key = forms[Address("model.layers.1.self_attn.k_proj", "output")]
    assert key.point == ("after", "model.layers.1.self_attn.qkv_proj")
    assert key.columns == ((128, 192),)
    assert forms[Address("", "logits")].kind == "logits"
    assert forms[Address("layers.1.attn", "pattern")].kind == "pattern"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_standard_name_is_found_and_holds_what_a_hook_sees(family: str) -> None:
    found = compared(family)
    small = by_hand_model(family)
    wanted = by_hand(small, [list(PROMPT)])
    held = {each.point: each.nested for each in found.survey.held}
    held[Point("logits", "")] = found.survey.logits
    missing = set()
    for name in names_of(small):
        form = found.certificate.forms.get(address(name))
        if form is None:
            missing.add(name)
        elif form.kind != "pattern":
            value, right = form.take(held[form.point]), wanted[name][0]
            assert value.shape == right.shape, name
            apart = (value - right).abs().max() / right.abs().max().clamp(min=1e-9)
            assert apart <= 1e-4, f"{name} is off by {apart}"
    assert missing == NOT_COMPUTED.get(family, set())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_does_what_it_does_by_a_hook(family: str) -> None:
    found = compared(family)
    small = by_hand_model(family)
    plain = by_hand(small, [list(PROMPT)])["logits"][0]
    scale = plain.abs().max()
    for place in EDITED:

        def shifted(value: torch.Tensor, place: str = place) -> torch.Tensor:
            rows = value.clone().view(len(PROMPT), -1)
            rows[[1, -1]] += found.shift[place]
            return rows.view_as(value)

        right = changed_by_hand(small, [list(PROMPT)], place, shifted)[0]
        assert (right - plain).abs().max() > 0.01 * scale, place
        assert (found.after[place] - right).abs().max() <= 1e-4 * right.abs().max(), place
