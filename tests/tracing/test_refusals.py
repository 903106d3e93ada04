"""What cannot be is refused while recording, at the user's own line, with a way round."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab import errors
from tests.support.fixtures import IDS
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import SmallModel

Block = Callable[[Any], Any]


def _refused(lm: Any, block: Block, kind: type[errors.LabError]) -> errors.LabError:
    """The error a block ends with; it never got as far as running the model."""
    calls: list[int] = []
    handle = lm.module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(kind) as caught, lm.trace(IDS):
            block(lm)
    finally:
        handle.remove()
    assert not calls, "refused before anything runs"
    error = caught.value
    assert error.code == kind.code
    assert error.where is not None
    assert error.where.file == __file__
    assert error.hint
    assert frames_of_ours(error) <= 1
    return error


@pytest.mark.parametrize(
    ("block", "said", "hint"),
    [
        (lambda lm: lm.layrs, "layrs", "layers"),
        (lambda lm: lm.layers[0].atn, "atn", "attn"),
        (lambda lm: lm.layers[0].output.sofmax(-1), "sofmax", "softmax"),
        (lambda lm: lm.layers[7], "layers[7]", "layers[2]"),
        (lambda lm: lm.layers[-4], "layers[-4]", "layers[2]"),
        (lambda lm: lm.layers[0].mlp[0], "not a list", ""),
        (lambda lm: lm.get("layers.0.outputs"), "outputs", "output"),
        (lambda lm: setattr(lm.layers[0], "outptu", 0), "outptu", "output"),
        (lambda lm: lm.embed.weigth, "weigth", ""),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    lm: nl.LanguageModel, block: Block, said: str, hint: str
) -> None:
    with pytest.raises(errors.AddressNotFound) as caught, lm.trace(IDS):
        block(lm)
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.where is not None
    assert caught.value.where.file == __file__
    assert isinstance(caught.value, AttributeError)


WRONG_SHAPES: dict[str, Block] = {
    "adding": lambda lm: lm.layers[0].output + torch.ones(5),
    "matrix product": lambda lm: lm.layers[0].output @ torch.ones(31, 2),
    "product dtypes": lambda lm: lm.layers[0].output @ torch.ones(32, 2, dtype=torch.float64),
    "stacking": lambda lm: torch.stack([lm.layers[0].output, lm.logits]),
    "view": lambda lm: lm.layers[0].output.view(5, -1),
    "index": lambda lm: lm.layers[0].output[:, 6],
    "axis": lambda lm: lm.layers[0].output.softmax(3),
    "slice assignment": lambda lm: lm.layers[0].output.__setitem__(0, torch.ones(6, 31)),
    "in place": lambda lm: lm.layers[0].output.add_(torch.ones(6, 33)),
    "argument": lambda lm: lm.layers[0].output.topk("three"),
    "calling a module": lambda lm: lm.lm_head(lm.layers[0].attn.z),
    "replacement shape": lambda lm: setattr(lm.layers[0], "output", torch.ones(1, 6, 31)),
    "replacement rows": lambda lm: setattr(lm.layers[0], "output", lm.layers[0].output[0]),
    "replacement dtype": lambda lm: setattr(lm.layers[0], "output", lm.layers[0].output.half()),
    "replacement of a pattern": lambda lm: setattr(lm.layers[0].attn, "pattern", torch.ones(6, 6)),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_a_wrong_shape_or_dtype_is_found_at_its_line(lm: nl.LanguageModel, name: str) -> None:
    error = _refused(lm, WRONG_SHAPES[name], errors.ShapeMismatch)
    assert error.where is not None
    assert f'"{name}": lambda' in error.where.text
    assert "[" in error.message


NOT_ALLOWED: dict[str, Block] = {
    "dropout": lambda lm: nn.functional.dropout(lm.layers[0].output),
    "rand_like": lambda lm: torch.rand_like(lm.layers[0].output),
    "multinomial": lambda lm: lm.logits[0].softmax(-1).multinomial(1),
    "uninitialised": lambda lm: torch.empty_like(lm.layers[0].output),
    "data_ptr": lambda lm: lm.layers[0].output.data_ptr(),
    "storage": lambda lm: lm.layers[0].output.untyped_storage(),
    "as_strided": lambda lm: lm.layers[0].output.as_strided((2,), (1,)),
    "data": lambda lm: lm.layers[0].output.data,
    "retain_grad": lambda lm: lm.layers[0].output.retain_grad(),
    "requires_grad_": lambda lm: lm.layers[0].output.requires_grad_(),
    "turning in place": lambda lm: lm.layers[0].output.t_(),
    "dropout in attention": lambda lm: nn.functional.scaled_dot_product_attention(
        lm.layers[0].attn.q, lm.layers[0].attn.q, lm.layers[0].attn.q, dropout_p=0.1
    ),
    "out=": lambda lm: torch.add(lm.layers[0].output, 1, out=torch.zeros(1, 6, 32)),
    "max_norm": lambda lm: nn.functional.embedding(lm.embed.input, lm.embed.weight, max_norm=1.0),
    "a function": lambda lm: lm.layers[0].output.add(len),
    "an object": lambda lm: lm.layers[0].output * object(),
    "a sparse tensor": lambda lm: lm.layers[0].output @ torch.eye(32).to_sparse(),
    "a tensor without data": lambda lm: lm.layers[0].output + torch.ones(32, device="meta"),
    "into a real tensor": lambda lm: torch.zeros(1, 6, 32).add_(lm.layers[0].output),
    "into a real slice": lambda lm: torch.zeros(6, 32).__setitem__(0, lm.layers[0].output[0, 0]),
    "a parameter": lambda lm: lm.lm_head.weight.mul_(2),
    "a row of a parameter": lambda lm: lm.norm.weight.__setitem__(0, 1.0),
    "text as a value": lambda lm: setattr(lm.layers[0], "output", "zero"),
}


@pytest.mark.parametrize("name", NOT_ALLOWED)
def test_an_operation_outside_the_table_is_refused(llama: SmallModel, name: str) -> None:
    lm = nl.LanguageModel(llama.module)
    _refused(lm, NOT_ALLOWED[name], errors.OpNotAllowed)


def test_saving_to_disk_inside_a_trace_is_refused(llama: SmallModel, tmp_path: Path) -> None:
    """A value that is not there yet cannot be pickled, nor written to a file."""
    lm = nl.LanguageModel(llama.module)
    with pytest.raises(errors.ValueNotKnown) as caught, lm.trace(IDS):
        torch.save(lm.layers[0].output, tmp_path / "h.pt")  # to disk
    assert_at(caught.value, "to disk")
    with pytest.raises(errors.ValueNotKnown), lm.trace(IDS):
        pickle.dumps(lm.layers[0].output)


NEEDS_A_NUMBER: dict[str, Block] = {
    "if": lambda lm: 1 if lm.logits.max() > 0 else 2,
    "and": lambda lm: (lm.logits.max() > 0) and True,
    "while": lambda lm: bool(lm.logits[0, 0, 0]),
    "int": lambda lm: int(lm.logits.argmax()),
    "float": lambda lm: float(lm.logits.max()),
    "complex": lambda lm: complex(lm.logits.max()),
    "round": lambda lm: round(lm.logits.max()),
    "item": lambda lm: lm.logits.max().item(),
    "tolist": lambda lm: lm.logits.tolist(),
    "numpy": lambda lm: lm.logits.numpy(),
    "np.asarray": lambda lm: np.asarray(lm.logits),
    "math": lambda lm: math.sqrt(lm.logits.max()),
    "index of a list": lambda lm: ["a", "b"][lm.logits.argmax()],
    "range": lambda lm: range(lm.logits.argmax()),
    "in": lambda lm: 3 in lm.logits,
    "max of two": lambda lm: max(lm.logits[0, 0, 0], lm.logits[0, 0, 1]),
    "sorted": lambda lm: sorted([lm.logits[0, 0, 0], lm.logits[0, 0, 1]]),
    "format": lambda lm: f"{lm.logits.max():.2f}",
    "equal": lambda lm: torch.equal(lm.logits, lm.logits),
    "allclose": lambda lm: lm.logits.allclose(lm.logits),
    "pickle": lambda lm: pickle.dumps(lm.logits),
    "unknown size": lambda lm: lm.logits[lm.logits > 0].shape,
    "unknown length": lambda lm: len(lm.logits.nonzero()),
}


@pytest.mark.parametrize("name", NEEDS_A_NUMBER)
def test_python_cannot_have_a_number_where_nothing_may_run(llama: SmallModel, name: str) -> None:
    lm = nl.LanguageModel(llama.module)
    kinds = (errors.ValueNotKnown, errors.OpNotAllowed)
    with pytest.raises(kinds) as caught, lm.trace(IDS, peek=False):
        NEEDS_A_NUMBER[name](lm)
    if name != "equal":
        assert isinstance(caught.value, errors.ValueNotKnown)
        assert isinstance(caught.value, TypeError)
    assert caught.value.where is not None
    assert caught.value.where.file == __file__


def test_printing_shows_what_is_known(llama: SmallModel) -> None:
    """Where nothing may run, `print` and a plain f-string show the shape."""
    lm = nl.LanguageModel(llama.module)
    with lm.trace(IDS, peek=False):
        shown = f"{lm.layers[0].output} {lm.logits > 0}"
    assert shown == "<recorded float32[1, 6, 32] at layers.0.output> <recorded bool[1, 6, 61]>"


def test_a_write_that_needs_a_later_value_names_both_lines(lm: nl.LanguageModel) -> None:
    """The only order that is impossible; found while recording."""
    with pytest.raises(errors.WriteTooEarly) as caught, lm.trace(IDS):
        late = lm.layers[2].output  # the later read
        lm.layers[0].output[:, -1] = late[:, -1] * 2  # too early
    assert_at(caught.value, "too early")
    assert "layers.2.output" in caught.value.message
    assert "layers.0.output" in caught.value.message
    assert f"line {caught.value.where.line - 1}" in caught.value.message  # type: ignore[union-attr]
    assert "second run" in caught.value.hint


@pytest.mark.parametrize(
    "block",
    [
        lambda lm: setattr(lm.layers[0], "input", lm.layers[0].output),
        lambda lm: setattr(lm.layers[1].attn, "z", lm.layers[1].attn.z + lm.logits.max()),
        lambda lm: lm.embed.output.add_(lm.norm.output),
        lambda lm: lm.layers[0].attn.q.mul_(lm.layers[0].attn.z.sum()),
        lambda lm: lm.layers[0].mlp.output.__setitem__(0, lm.lm_head(lm.norm.output).sum()),
    ],
)
def test_no_place_is_written_from_its_future(lm: nl.LanguageModel, block: Block) -> None:
    _refused(lm, block, errors.WriteTooEarly)


def test_one_place_under_two_names_is_refused_when_edited(llama: SmallModel) -> None:
    """`z` is the input of the output projection: an edit of one would be lost on the other."""
    lm = nl.LanguageModel(llama.module)
    with pytest.raises(errors.NotSupported, match="two names"), lm.trace(IDS):
        lm.layers[0].attn.z[:] = 0.0
        lm.model.layers[0].self_attn.o_proj.input.save()
    with pytest.raises(errors.NotSupported, match="two names") as caught, lm.trace(IDS):
        lm.layers[0].attn.output.save()
        lm.model.layers[0].self_attn.output[0][:] = 0.0  # the edit
    assert_at(caught.value, "the edit")
    with lm.trace(IDS):
        z = lm.layers[0].attn.z.save()
        same = lm.model.layers[0].self_attn.o_proj.input.save()
    assert torch.equal(z.flatten(-2), same)


def test_values_stay_in_their_block(llama: SmallModel) -> None:
    lm, other = nl.LanguageModel(llama.module), nl.LanguageModel(llama.module)
    with lm.trace(IDS):
        h = lm.layers[0].output
        kept = lm.logits.save()
    assert kept.shape == (1, 6, 61)
    with pytest.raises(errors.NotSaved, match="another block") as caught, other.trace(IDS):
        other.layers[0].output + h  # a stranger
    assert_at(caught.value, "a stranger")
    with pytest.raises(errors.GraphError, match="only inside a trace") as outside:
        lm.layers[0].output  # outside  # noqa: B018
    assert outside.value.where is not None
    assert outside.value.where.file == __file__
    assert frames_of_ours(outside.value) >= 1


def test_an_error_of_the_users_own_passes_through_unchanged(lm: nl.LanguageModel) -> None:
    """The block ends as any block; nothing runs."""
    with pytest.raises(ZeroDivisionError), lm.trace(IDS):
        lm.logits.save()
        _ = 1 / 0
    with lm.trace(IDS):
        again = lm.logits.save()
    assert again.shape == (1, 6, 61)
