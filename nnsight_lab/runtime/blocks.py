"""Computes one node of a graph, and the blocks within a node: branches and loops.

Used by the interleaver for what needs nothing but values, and for every node inside a block. A
block keeps its values in a list of its own, which is forgotten when it has given its results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from nnsight_lab.errors import LabError, OpFailed
from nnsight_lab.ir import (
    Apply,
    Call,
    Cond,
    Constant,
    Foreach,
    LocalCall,
    Node,
    NodeId,
    Param,
    Weight,
    While,
)
from nnsight_lab.ir.literals import Arg, DictArg, ListArg, Ref
from nnsight_lab.ir.nodes import argument_refs, blocks_of
from nnsight_lab.kernels import kernel, tensor_from_data, to_python
from nnsight_lab.runtime.host import Host
from nnsight_lab.runtime.local_calls import called
from nnsight_lab.runtime.values import in_order

__all__ = ["Functions", "call_of", "compute", "failed"]

ValueOf: TypeAlias = Callable[[NodeId], Any]

Functions: TypeAlias = Mapping[str, Callable[..., Any]]
"""The user's own functions that a graph calls, by name."""


def compute(node: Node, value_of: ValueOf, host: Host, functions: Functions) -> Any:
    """The value of a node that does nothing to the model."""
    match node:
        case Constant(value=value):
            return tensor_from_data(value).to(host.device)
        case Weight(path=path, name=name):
            return in_order(host.weight(path, name).detach())
        case Call(op=op):
            args, kwargs = _arguments(node, value_of)
            return kernel(op)(*args, **kwargs)
        case Apply(path=path):
            return in_order(host.apply(path, *_arguments(node, value_of)))
        case LocalCall():
            return called(node, functions, host, *_arguments(node, value_of))
        case Cond(test=test, inputs=inputs):
            chosen = 0 if _is_true(value_of(test)) else 1
            return tuple(_run(node, chosen, list(map(value_of, inputs)), host, functions))
        case Foreach():
            return _foreach(node, value_of, host, functions)
        case While():
            return _while(node, value_of, host, functions)
    raise AssertionError(f"{type(node).__name__} is not computed")


def call_of(node: Call) -> Callable[[ValueOf], Any]:
    """An operation made ready, for many runs: given the values, what `compute` gives."""
    function = kernel(node.op)
    # Our own operations write to none of their arguments, so that lists in them may be shared.
    shared = node.op.startswith("lab.")
    makers = [_maker(arg, shared) for arg in node.args]
    named = [(key, _maker(arg, shared)) for key, arg in node.kwargs]

    def run(value_of: ValueOf) -> Any:
        args = [make(value_of) for make in makers]
        return function(*args, **{key: make(value_of) for key, make in named})

    return run


def _maker(arg: Arg, shared: bool) -> Callable[[ValueOf], Any]:
    """From the values of a run to one argument."""
    if isinstance(arg, Ref):
        id = arg.id
        return lambda value_of: value_of(id)
    if any(True for _ in argument_refs(arg)) or not (shared or _is_fixed(arg)):
        return lambda value_of: to_python(arg, value_of)
    made = to_python(arg, _no_value)
    return lambda _: made


def _is_fixed(arg: Arg) -> bool:
    """Whether the Python object of an argument can be changed by nobody."""
    if isinstance(arg, tuple):
        return all(map(_is_fixed, arg))
    return not isinstance(arg, ListArg | DictArg)


def _no_value(id: NodeId) -> Any:
    raise AssertionError(f"%{id} is not among the references of this argument")


def failed(node: Node, exc: Exception) -> LabError:
    """What a node failed with, as an error of ours at the user's line."""
    if isinstance(exc, LabError):
        return exc.at(node.where)
    what = node.op if isinstance(node, Call) else _NAMED.get(type(node), "calling a module")
    hint = "The shapes were right when recorded; look at the values it was given."
    if isinstance(node, Apply):
        what = f"calling {node.path or 'the model'}"
        hint = (
            "It may need more than it was given: args, kwargs = module.inputs; module(h, **kwargs)."
        )
    return OpFailed(
        f"{what} failed while the model ran: {str(exc).splitlines()[0] if str(exc) else ''}",
        hint=hint,
    ).at(node.where)


_NAMED = {Cond: "a branch", Foreach: "a loop", While: "a loop"}


def _arguments(
    node: Call | Apply | LocalCall, value_of: ValueOf
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args = tuple(to_python(arg, value_of) for arg in node.args)
    return args, {key: to_python(arg, value_of) for key, arg in node.kwargs}


def _run(
    region: Node, which: int, given: Sequence[Any], host: Host, functions: Functions
) -> list[Any]:
    """What a block of a region gives. which: its place among the region's blocks."""
    host.go_on()
    block = blocks_of(region)[which]
    values: list[Any] = []
    for node in block.nodes:
        if isinstance(node, Param):
            values.append(given[node.index])
            continue
        failure: LabError | None = None
        try:
            values.append(compute(node, values.__getitem__, host, functions))
        except Exception as exc:  # noqa: BLE001 - a seam: torch's own errors become ours, with the user's line
            failure = failed(node, exc)
            failure.inside = (which, node.id, *failure.inside)
            if failure is not exc:
                failure.__cause__ = exc
        if failure is not None:
            raise failure
    # The recorder takes what a region gives to have its memory in order.
    return [in_order(values[result]) for result in block.results]


def _is_true(value: Any) -> bool:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return bool(value)
    what = f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else "none"
    raise OpFailed(
        f"A test is a single value; this is {what}.",
        hint="Reduce it first: (h > 0).any(), or torch.where for each element.",
    )


def _foreach(node: Foreach, value_of: ValueOf, host: Host, functions: Functions) -> Any:
    carry, inputs = list(map(value_of, node.carry)), list(map(value_of, node.inputs))
    made: list[list[Any]] = [[] for _ in node.body.results[len(carry) :]]
    for item in value_of(node.over):
        results = _run(node, 0, [item, *carry, *inputs], host, functions)
        carry = results[: len(carry)]
        for column, value in zip(made, results[len(carry) :], strict=True):
            column.append(value)
    return (*carry, *map(tuple, made))


def _while(node: While, value_of: ValueOf, host: Host, functions: Functions) -> Any:
    carry, inputs = list(map(value_of, node.carry)), list(map(value_of, node.inputs))
    turns = 0
    while _is_true(_run(node, 0, [*carry, *inputs], host, functions)[0]):
        if turns == node.limit:
            raise OpFailed(
                f"The loop went on after {node.limit} turns.",
                hint="Allow it more with nl.while_(test, body, ..., limit=...), or mend its test.",
            )
        carry = _run(node, 1, [*carry, *inputs], host, functions)
        turns += 1
    return tuple(carry)
