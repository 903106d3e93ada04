"""PyTorch's operators, recorded: as functions, methods and in place; to bytes, back, and run.

    python -m tests.kernels.operator_walk      what differs from PyTorch itself, as JSON by operator

Runs in a process of its own, because PyTorch's operator database changes global flags when it is
imported. Which operators are walked, and which are not, is in `operator_database.py`.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch

import nnsight_lab as nl
from nnsight_lab.errors import LabError
from nnsight_lab.ir import Graph
from nnsight_lab.tracing.proxy import Proxy
from tests.kernels.operator_database import left_out

__all__ = ["main"]

_SAMPLES = 6
_LARGEST = 20_000
"""Samples of an operator that are tried, and the most elements all tensors of one may have."""
_WRONG_USE = (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError, AttributeError)


class _Given(torch.nn.Module):
    """Gives back what it is given: the model whose values the operators are tried on."""

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tensors


def main() -> None:
    """Walk every operator that is pure and dense; print what is wrong with each, by name."""
    warnings.simplefilter("ignore")  # of operators on their way out
    torch.set_num_threads(1)
    from torch.testing._internal.common_methods_invocations import op_db

    dense = [op for op in op_db if op.supports_dtype(torch.float32, "cpu")]
    names = [op.full_name for op in op_db]
    wrong = {op.full_name: _wrong(op) for op in dense if not left_out(op.full_name)}
    json.dump({"names": names, "wrong": wrong}, sys.stdout)


def _wrong(op: Any) -> list[str]:
    """What a trace does otherwise than PyTorch, over a few of the operator's own samples."""
    torch.manual_seed(0)
    found: list[str] = []
    compared = 0
    for place, sample in enumerate(_samples(op)):
        for way, form in _ways(op).items():
            try:
                expected = _eager(form, sample)
            except _WRONG_USE:
                continue  # not every way takes every sample: in place, a result may not fit
            compared += 1
            difference = _difference(form, sample, expected, constants=place % 2 == 1)
            if difference:
                found.append(f"{way}: {difference}")
    return list(dict.fromkeys(found)) if compared else ["PyTorch itself ran none of the samples"]


def _samples(op: Any) -> Iterator[Any]:
    drawn = op.sample_inputs("cpu", torch.float32, requires_grad=False)
    return islice((sample for sample in drawn if _is_pure_and_small(op, sample)), _SAMPLES)


def _is_pure_and_small(op: Any, sample: Any) -> bool:
    """Tensors go in, few enough; nothing is dropped at random, and no argument written to."""
    drops = sample.kwargs.get("dropout_p") or (
        op.name == "nn.functional.multi_head_attention_forward" and sample.kwargs["training"]
    )
    parts: list[torch.Tensor] = []
    _changed((sample.input, sample.args, sample.kwargs), parts.append)
    pure = not drops and sample.kwargs.get("max_norm") is None
    return bool(parts) and pure and sum(part.numel() for part in parts) <= _LARGEST


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` applied to every tensor and recorded value in its containers."""
    if isinstance(value, torch.Tensor | Proxy):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_changed(item, change) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_changed(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    return value


def _ways(op: Any) -> dict[str, Callable[..., Any]]:
    """The ways an operator can be called: its function, its method, in place, under other names."""
    forms = {"function": op.op, "method": op.method_variant, "in place": op.inplace_variant}
    for alias in op.aliases:
        forms |= {alias.name: alias.op, f"method {alias.name}": alias.method_variant}
        forms[f"{alias.name} in place"] = alias.inplace_variant
    ways = {name: _way(name, form) for name, form in forms.items() if form is not None}
    return {name: way for name, way in ways.items() if way is not None}


def _way(name: str, form: Any) -> Callable[..., Any] | None:
    """A way to call an operator. Methods are looked up on the value; in place is on a copy."""
    method = getattr(form, "__name__", "")
    if left_out(f"Tensor.{method}"):
        return None
    if getattr(torch.Tensor, method, None) is form:
        form = _method(method)

    def on_copy(first: Any, *args: Any, **kwargs: Any) -> Any:
        mine = first.clone()
        before = mine.shape, mine.dtype
        form(mine, *args, **kwargs)
        if (mine.shape, mine.dtype) != before:
            raise RuntimeError("in place it takes another shape than it has")
        return mine

    called: Callable[..., Any] = on_copy if name.endswith("in place") else form
    return called


def _method(name: str) -> Callable[..., Any]:
    return lambda first, *args, **kwargs: getattr(first, name)(*args, **kwargs)


def _eager(form: Callable[..., Any], sample: Any) -> Any:
    own = copy.deepcopy((sample.input, sample.args, sample.kwargs))
    with torch.no_grad():
        return form(own[0], *own[1], **own[2])


def _difference(
    form: Callable[..., Any], sample: Any, expected: Any, *, constants: bool
) -> str | None:
    """constants: whether tensors after the first are constants of the graph, or recorded too."""
    given: list[torch.Tensor] = []
    rest = (sample.args, sample.kwargs)
    _changed(sample.input, given.append)
    constants = constants and bool(given)
    if not constants:
        _changed(rest, given.append)
    model = nl.wrap(_Given())
    recorded: list[Any] = []
    try:
        with model.trace(*given, execute=False) as tracer:
            values = iter([model.output[place] for place in range(len(given))])
            first = _changed(sample.input, lambda _: next(values))
            args, kwargs = rest if constants else _changed(rest, lambda _: next(values))
            result = form(first, *args, **kwargs)
            _changed(result, recorded.append)
            tracer.save(**{f"part_{place}": part for place, part in enumerate(recorded)})
        parts = iter(_run(model, tracer.graph, given, len(recorded)))
    except LabError as error:
        return f"{error.code}: {error.message}"
    except _WRONG_USE as error:
        return f"{type(error).__name__}: {error}"
    if isinstance(expected, tuple | list) and isinstance(result, Proxy):
        return "its parts are not known while recording"
    inferred = _changed(result, lambda part: part.saved_value.meta)
    actual = _changed(result, lambda _: next(parts))
    return _unlike(actual, expected) or _wrongly_inferred(inferred, actual)


def _run(model: Any, graph: Graph, given: list[torch.Tensor], count: int) -> list[Any]:
    """The saved parts of a graph that went through bytes."""
    if not count:
        return []
    run = model.run(Graph.from_bytes(graph.to_bytes()), *given)
    return [run[f"part_{place}"] for place in range(count)]


def _unlike(actual: Any, expected: Any) -> str | None:
    """How two results differ in kind, shape or numbers."""
    if type(actual) is not type(expected):
        return f"a {type(actual).__name__} for a {type(expected).__name__}"
    if isinstance(expected, torch.Tensor):
        try:
            torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-4, atol=1e-4)
        except AssertionError as error:
            return str(error).strip().splitlines()[0]
        return None
    if isinstance(expected, tuple | list):
        if len(actual) != len(expected):
            return f"{len(actual)} parts for {len(expected)}"
        return next(filter(None, map(_unlike, actual, expected)), None)
    return None if actual == expected else f"{actual!r} for {expected!r}"


def _wrongly_inferred(meta: Any, actual: Any) -> str | None:
    """Where a shape or dtype known while recording is not that of the value."""
    if isinstance(meta, torch.Tensor) and isinstance(actual, torch.Tensor):
        same = meta.shape == actual.shape and meta.dtype == actual.dtype
        told = f"{meta.dtype}{list(meta.shape)}"
        return None if same else f"recorded as {told}, is {actual.dtype}{list(actual.shape)}"
    if isinstance(meta, tuple | list):
        return next(filter(None, map(_wrongly_inferred, meta, actual)), None)
    return None


if __name__ == "__main__":
    main()
