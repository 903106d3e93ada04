"""Arguments of a call as graph data, and back to the very same Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from nnsight_lab import errors
from nnsight_lab.ir import ListArg, Name, Ref, SliceArg, Special
from nnsight_lab.kernels import from_python, to_python
from nnsight_lab.kernels.arguments import without_numpy


def _no_ref(_: Any) -> Ref | None:
    return None


@pytest.mark.parametrize("value", [
    None, True, 0, -7, 2**62, 1.5, -0.0, "text", 1 + 2j, ..., slice(1, None, 2), [1, [2]],
    (1, (2,)), {"a": [1], "b": None}, torch.float16, torch.strided, torch.channels_last,
    float("inf"), (slice(None), ..., [0]), [], (), {},
])  # fmt: skip
def test_plain_values_come_back_equal_and_of_their_kind(value: Any) -> None:
    back = to_python(from_python(value, _no_ref), lambda id: id)
    assert back == value
    assert type(back) is type(value)


def test_nan_comes_back() -> None:
    assert from_python(float("nan"), _no_ref) == Special("nan")
    assert math.isnan(to_python(Special("nan"), lambda id: id))


def test_values_become_references_wherever_they_stand() -> None:
    tensor = torch.ones(1)

    def ref(item: Any) -> Ref | None:
        return Ref(4) if item is tensor else None

    arg = from_python([tensor, (slice(tensor, None), {"k": tensor})], ref)
    assert arg == ListArg((Ref(4), (SliceArg(Ref(4), None, None), arg.items[1][1])))  # type: ignore[union-attr, index]
    assert to_python(arg, lambda id: f"value {id}") == [
        "value 4", (slice("value 4", None), {"k": "value 4"})
    ]  # fmt: skip


@pytest.mark.parametrize("value", [object(), len, {1, 2}, b"bytes", torch.Generator(), iter([])])
def test_other_objects_cannot_be_part_of_a_graph(value: Any) -> None:
    with pytest.raises(errors.OpNotAllowed, match=type(value).__name__):
        from_python(value, _no_ref)


@pytest.mark.parametrize("name", [
    Name("dtype", "torch.save"), Name("dtype", "torch.nn"), Name("dtype", "float99"),
    Name("layout", "torch.float32"), Name("device", "cuda"), Name("module", "os"),
])  # fmt: skip
def test_a_name_stands_for_what_its_kind_says_or_for_nothing(name: Name) -> None:
    with pytest.raises(errors.OpNotAllowed):
        to_python(name, lambda id: id)


def test_numpy_numbers_and_arrays_are_taken_as_python_and_torch() -> None:
    given = (np.float32(0.5), [np.int64(3)], slice(np.int8(1), None), {"a": np.bool_(True)}, "x")
    assert without_numpy(given) == (0.5, [3], slice(1, None), {"a": True}, "x")
    assert type(without_numpy(np.float64(0.5))) is float
    array = without_numpy(np.array([[1.0, 2.0]], dtype=np.float32))
    assert torch.equal(array, torch.tensor([[1.0, 2.0]]))
    words = np.array(["a"])
    assert without_numpy(words) is words
