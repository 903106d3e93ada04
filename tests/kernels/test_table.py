"""The op table is PyTorch's own list minus reasons; every entry is a pure function."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
import torch

from nnsight_lab import errors
from nnsight_lab.ir.ops import LAB_OPS, is_op, nearest_ops, op_names
from nnsight_lab.kernels import infer_call, kernel, op_name
from nnsight_lab.kernels.deny import DENIED, denied_because
from nnsight_lab.kernels.generate import op_table_text
from nnsight_lab.kernels.table import is_inplace, torch_op_names


def test_the_table_is_what_this_torch_generates() -> None:
    """Run `python -m nnsight_lab.kernels.generate` after a change of torch or of the deny-list."""
    written = files("nnsight_lab.ir").joinpath("ops.txt").read_text(encoding="utf-8")
    assert written == op_table_text()


def test_every_name_resolves_to_a_function() -> None:
    for name in sorted(op_names()):
        assert callable(kernel(name)), name


def test_every_function_goes_by_a_name_that_finds_it_again() -> None:
    """What is written down for `torch.topk` is what runs as `torch.topk`."""
    for function in (torch.topk, torch.Tensor.topk, torch.nn.functional.gelu, torch.einsum,
                     torch.linalg.norm, torch.fft.fft, torch.special.expit, torch.Tensor.add_,
                     torch.Tensor.__radd__, torch.stack, torch.norm, torch.meshgrid):  # fmt: skip
        name = op_name(function)
        assert name is not None
        assert is_op(name)
        if not is_inplace(name):
            assert kernel(name) is function


def test_every_denied_pattern_has_a_reason_and_denies_something() -> None:
    """A pattern that matches nothing is a leftover, or a spelling mistake."""
    names = torch_op_names()
    for reason, patterns in DENIED.items():
        assert len(reason.split()) >= 4
        denied = [name for name in names if denied_because(name) == reason]
        assert denied, reason
        assert patterns


@pytest.mark.parametrize("name", [
    "torch.rand_like", "torch.nn.functional.dropout", "torch.bernoulli", "Tensor.uniform_",
    "torch.empty_like", "Tensor.new_empty", "Tensor.resize_", "Tensor.data_ptr", "Tensor.set_",
    "Tensor.as_strided", "Tensor.untyped_storage", "Tensor.share_memory_", "Tensor.numpy",
    "Tensor.item", "Tensor.tolist", "Tensor.cuda", "Tensor.cpu", "Tensor.backward", "Tensor.grad",
    "Tensor.register_hook", "Tensor.__reduce_ex__", "Tensor.map_", "Tensor.apply_", "Tensor.data",
    "Tensor.__setstate__", "Tensor.module_load", "Tensor.t_", "torch.save", "torch.load",
    "os.system", "builtins.eval", "Tensor.__class__", "operator.attrgetter", "",
])  # fmt: skip
def test_what_reaches_beyond_its_result_is_not_in_the_table(name: str) -> None:
    assert not is_op(name)
    with pytest.raises(errors.OpNotAllowed):
        kernel(name)


def test_the_nearest_names_are_offered() -> None:
    assert nearest_ops("torch.sofmax")[0] == "torch.softmax"
    assert nearest_ops("numpy.einsum")[0] == "torch.einsum"
    assert nearest_ops("zzzz") == []


@pytest.mark.filterwarnings("ignore")  # some of them are beta, or old spellings
def test_no_in_place_operation_changes_its_input() -> None:
    """`Tensor.add_` in a graph gives a new value; what it was given stays."""
    inplace = [name for name in sorted(op_names()) if is_inplace(name)]
    assert len(inplace) > 100
    index, ones = torch.tensor([0, 1]), torch.ones(2, 2)
    bits = torch.tensor([[1, 2], [3, 4]])
    attempts: list[tuple[Any, ...]] = [
        (), (ones,), (2,), (0, index, ones), (0, index, 2.0), (ones, ones), (ones, ones, 0.5),
        (index.bool(), 1.0), (0, index[None], ones[:1]), ((index, index), ones[0]), (bits,),
        (ones[0], ones[0]), (2, 0, 1.0), (0, index, ones, "amax"), (index, ones[0]),
        (0, index[None], ones[:1], "sum"), (index.bool(), ones),
    ]  # fmt: skip
    tried = set()
    for name in inplace:
        for base in (torch.full((2, 2), 0.3), bits.clone(), torch.tensor([[True, False]] * 2)):
            for rest in attempts:
                before = base.clone()
                try:
                    result = kernel(name)(base, *rest)
                except (RuntimeError, TypeError, IndexError, ValueError):
                    continue
                if result is NotImplemented:
                    continue
                tried.add(name)
                assert torch.equal(base, before), name
                assert result.untyped_storage()._cdata != base.untyped_storage()._cdata
    assert len(tried) > 0.95 * len(inplace), sorted(set(inplace) - tried)


def test_running_statistics_are_not_written_to() -> None:
    """`batch_norm` in training mode updates what it is given; here it gets copies."""
    for name in ("torch.nn.functional.batch_norm", "torch.nn.functional.instance_norm"):
        mean, var = torch.zeros(3), torch.ones(3)
        kernel(name)(torch.randn(4, 3, 5) + 7, mean, var, None, None, True)
        assert mean.tolist() == [0, 0, 0]
        assert var.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("name", "args", "kwargs"), [
    ("torch.add", (1,), {"out": torch.zeros(2, device="meta")}),
    ("torch.nn.functional.relu", (True,), {}),
    ("torch.nn.functional.silu", (), {"inplace": True}),
    ("torch.nn.functional.leaky_relu", (0.1, True), {}),
    ("torch.nn.functional.normalize", (2.0, -1, 1e-9, torch.zeros(2, device="meta")), {}),
    ("torch.nn.functional.embedding", (torch.ones(2, 2, device="meta"), None, 1.0), {}),
    ("torch.zeros_like", (), {"device": "cuda"}),
    ("Tensor.to", ("meta",), {}),
    ("Tensor.to", (torch.device("cpu"),), {}),
    ("lab.assign", ((("torch.nn.functional.relu", (True,), {}),), 1.0), {}),
    ("lab.set_item", ((("Tensor.to", ("meta",), {}),), 0, 1.0), {}),
    ("lab.set_item", ((("os.system", ("ls",), {}),), 0, 1.0), {}),
    ("lab.set_item", (("anything",), 0, 1.0), {}),
])  # fmt: skip
def test_arguments_that_make_a_function_write_or_move_are_refused(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Whoever wrote the graph: the recorder and a stranger's bytes meet the same check."""
    with pytest.raises(errors.OpNotAllowed):
        infer_call(name, (torch.ones(2, device="meta"), *args), kwargs)


def test_our_own_operations_leave_what_they_are_given() -> None:
    base = torch.zeros(2, 3)
    steps: Any = (("operator.getitem", (0,), {}), ("Tensor.unflatten", (0, (3, 1)), {}))
    assigned = kernel("lab.assign")(base, steps, torch.ones(3, 1))
    put = kernel("lab.set_item")(base, steps, (slice(1, None), 0), 5.0)
    assert base.abs().sum() == 0
    assert assigned.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert put.tolist() == [[0, 5, 5], [0, 0, 0]]

    nested = {"a": (base, [base, None])}
    deep: Any = (("operator.getitem", ("a",), {}), ("operator.getitem", (1,), {}))
    replaced = kernel("lab.set_item")(nested, deep, 0, assigned)
    assert replaced["a"][1][0] is assigned
    assert nested["a"][1][0] is base
    assert replaced["a"][0] is base
    assert kernel("lab.like")(base, put) is base
    with pytest.raises(TypeError, match="said to be like"):
        kernel("lab.like")(base, put[0])
    ours = {"lab.assign", "lab.like", "lab.set_item", "lab.tuple"}
    assert set(LAB_OPS) == {"operator.getitem", *ours}


def test_a_write_through_a_copy_is_an_error() -> None:
    steps: Any = (("Tensor.repeat", (2,), {}),)
    with pytest.raises(RuntimeError, match="would be lost"):
        kernel("lab.set_item")(torch.zeros(2), steps, 0, 1.0)
