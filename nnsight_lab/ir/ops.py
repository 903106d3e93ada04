"""The op table: every name a `Call` may have. Names only; what they do is in `kernels/`.

`ops.txt` is generated from PyTorch's list of overridable functions minus a commented deny-list
(`python -m nnsight_lab.kernels.generate`), one name a line, e.g. `torch.softmax`,
`Tensor.topk`, `torch.nn.functional.gelu`. `LAB_OPS` are the few this project adds.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib.resources import files

__all__ = ["LAB_OPS", "is_op", "nearest_ops", "op_names"]

LAB_OPS: dict[str, str] = {
    "operator.getitem": "value[key], for tensors, tuples and dicts",
    "lab.assign": "a copy of a value in which the view reached by steps holds another value",
    "lab.like": "a value that is told to have the shape and dtype of another, or an error",
    "lab.set_item": "a copy of a value in which view[key] = value was done",
    "lab.tuple": "its arguments as a tuple",
}
"""Operations PyTorch has no single name for, with what each gives."""


@cache
def op_names() -> frozenset[str]:
    """Every allowed operation name."""
    text = files("nnsight_lab.ir").joinpath("ops.txt").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#")) | set(LAB_OPS)


def is_op(name: str) -> bool:
    """Whether a graph may call `name`."""
    return name in op_names()


def nearest_ops(name: str, count: int = 3) -> list[str]:
    """The allowed names closest to `name`, best first."""
    tail = name.rsplit(".", 1)[-1]
    same_tail = sorted(op for op in op_names() if op.rsplit(".", 1)[-1] == tail)
    close = difflib.get_close_matches(name, sorted(op_names()), count, 0.6)
    return list(dict.fromkeys(same_tail + close))[:count]
