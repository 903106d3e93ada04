"""Where the op table meets torch: names to functions, arguments to Python, shapes by inference.

    table.py      the function behind an op name, and the name of a function
    guards.py     what torch does not check, where that could hurt others
    arguments.py  graph arguments to Python objects and back
    tensors.py    torch tensors to raw bytes and back
    summary.py    a tensor in a few numbers, for people
    infer.py      shapes and dtypes of a call, on tensors without data
    inferred.py   those that were inferred before
    join.py       the shape of a value that is one of two
    known.py      the parts of results whose shapes depend on values
    deny.py       which of PyTorch's functions are left out, and why
    generate.py   writes `ir/ops.txt` from PyTorch's own list

Shared by the recorder (which infers) and the interleaver (which computes), so that both mean
the same by every name. Nothing here knows a model, a graph's order, or a notebook.
"""

from nnsight_lab.kernels.arguments import from_python, to_python
from nnsight_lab.kernels.infer import Unknown, infer_call
from nnsight_lab.kernels.table import kernel, op_name
from nnsight_lab.kernels.tensors import tensor_from_data, tensor_to_data

__all__ = [
    "Unknown",
    "from_python",
    "infer_call",
    "kernel",
    "op_name",
    "tensor_from_data",
    "tensor_to_data",
    "to_python",
]
