"""Shapes and dtypes of a call, found by running it on tensors without data.

`torch`'s meta tensors know shape, dtype and which tensor they are a view of, and cost microseconds.
What depends on values (`nonzero`, a boolean mask as index) is `Unknown`, and so is all that
follows from it. What is plainly wrong raises, with torch's own words, before anything runs.
"""

from __future__ import annotations

from typing import Any, Self

import torch

from nnsight_lab.errors import LabError, LimitExceeded, OpNotAllowed, ShapeMismatch
from nnsight_lab.kernels.inferred import Inferred
from nnsight_lab.kernels.known import known_parts
from nnsight_lab.kernels.table import is_inplace, kernel, written_arguments

__all__ = ["Unknown", "infer_call", "is_alias", "map_tensors", "meta_like"]


class Unknown:
    """The shape of a value that only a run can tell."""

    _only: Self | None = None

    def __new__(cls) -> Self:
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cls._only

    def __repr__(self) -> str:
        return "unknown shape"


_VALUE_DEPENDENT = (
    "nonzero",
    "meta tensors",
    "Meta tensor",
    "meta tensor",
    "data-dependent",
    "output shape",
    "meta device",
    "device meta",
    "FakeTensor",
    "'Meta' backend",
    "to be on cpu",
)
_ONE_BY_ONE = frozenset(
    "unbind unbind_copy chunk split split_copy split_with_sizes split_with_sizes_copy tensor_split "
    "hsplit vsplit dsplit unsafe_chunk unsafe_split unsafe_split_with_sizes".split()
)
_LONGEST_APART = 2**16
"""Operations that give one tensor an entry, and the longest axis they may take apart."""
_ONE_DTYPE = frozenset(
    "matmul __matmul__ __rmatmul__ mm mv addmm addmv linear conv1d conv2d conv3d cdist".split()
)
_ALONG_AXIS = frozenset("softmax log_softmax softmin sort argsort".split())
_DROPS = {
    "torch.nn.functional.scaled_dot_product_attention": (4, None),
    "torch.nn.functional.multi_head_attention_forward": (10, 13),
}
"""Operations that drop at random where `dropout_p` says so, its place, and that of `training`."""
_KEEPS_SHAPE = frozenset({"lab.assign", "lab.set_item"})


def map_tensors(value: Any, change: Any) -> Any:
    """`value` with `change` applied to every tensor inside tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(item, change) for item in value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    return value


def meta_like(value: Any) -> Any:
    """`value` with every tensor replaced by one without data."""
    return map_tensors(value, lambda tensor: tensor.detach().to("meta"))


_KNOWN_TYPES = frozenset({torch.Tensor, type(None), bool, int, float, str})


def _holds_unknown(value: Any) -> bool:
    if type(value) in _KNOWN_TYPES:  # nearly always
        return False
    if isinstance(value, Unknown):
        return True
    if isinstance(value, tuple | list):
        return any(map(_holds_unknown, value))
    if isinstance(value, dict):
        return any(map(_holds_unknown, value.values()))
    if isinstance(value, slice):
        return any(map(_holds_unknown, (value.start, value.stop, value.step)))
    return False


def _check_call(op: str, args: Any, kwargs: Any) -> None:
    """Refuse arguments that would reach beyond the result, whoever wrote the graph."""
    if kwargs.get("device") is not None or (op == "Tensor.to" and any(map(_is_device, args[1:]))):
        raise OpNotAllowed(
            f"{op} names a device; values stay where the model is.", hint="Leave the device out."
        )
    for name in written_arguments(op, args, kwargs):
        raise OpNotAllowed(
            f"{op} with {name}= would write into a tensor a graph does not own.",
            hint="Assign the result instead: h[:] = torch.relu(h).",
        )
    if op in _DROPS and _drops_at_random(op, args, kwargs):
        raise OpNotAllowed(
            f"{op} would drop values at random, without a seed.", hint="Give it dropout_p=0.0."
        )
    if kwargs.get("pin_memory"):
        raise OpNotAllowed(f"{op} would pin memory.", hint="Leave pin_memory out.")
    whole = args[0] if args else None
    longest = max(whole.shape, default=0) if isinstance(whole, torch.Tensor) else 0
    if op.rsplit(".", 1)[-1] in _ONE_BY_ONE and longest > _LONGEST_APART:
        raise LimitExceeded(
            f"{op} would give more than {_LONGEST_APART} tensors.", hint="Index what you need."
        )


def _drops_at_random(op: str, args: Any, kwargs: Any) -> bool:
    chance, training = (
        kwargs.get(name, args[at] if at is not None and at < len(args) else usual)
        for name, at, usual in zip(("dropout_p", "training"), _DROPS[op], (0.0, True), strict=True)
    )
    off = training is False or (isinstance(chance, int | float) and chance == 0)
    return not off


def _check_steps(whole: Any, steps: Any) -> None:
    """The view an edit goes through is made of calls too."""
    for step in steps if isinstance(steps, tuple | list) else ():
        match step:
            case (str() as op, tuple() as args, dict() as kwargs):
                _check_call(op, (whole, *args), kwargs)
            case _:
                raise OpNotAllowed("An edit in the graph goes through a step of no known form.")


def _is_device(arg: Any) -> bool:
    return isinstance(arg, str | torch.device)


def infer_call(op: str, args: Any, kwargs: Any) -> Any:
    """The result of a call on meta tensors, or `Unknown`.

    Raises:
        ShapeMismatch: torch refuses these shapes or dtypes.
        OpNotAllowed: `op` is not in the op table, or would change more than its result.
        LimitExceeded: it would give an absurd number of tensors.
    """
    asked = None if kwargs else _inferred.question(op, args)
    if asked is not None and (known := _inferred.known(asked)) is not None:
        return known
    result = _inferred_anew(op, args, kwargs)
    if asked is not None:
        _inferred.keep(asked, args, result)
    return result


_inferred = Inferred()


def _inferred_anew(op: str, args: Any, kwargs: Any) -> Any:
    function = kernel(op)
    if op == "lab.like" and len(args) == 2 and isinstance(args[0], Unknown):
        return args[1]
    _check_call(op, args, kwargs)
    whole = args[0] if args else None
    if op in _KEEPS_SHAPE and len(args) > 1:
        _check_steps(whole, args[1])
    opaque = args[1:] if _is_container(whole) and _knows_enough(op, whole, args) else args
    if _holds_unknown(opaque) or _holds_unknown(kwargs):
        return _unknown(op, args, kwargs)
    try:
        _check_what_meta_lets_pass(op, args, kwargs)
        if op == "operator.getitem":
            args = (whole, _with_any_position(args[1]))
        return _answered(function(*args, **kwargs))
    except LabError:
        raise
    except NotImplementedError:
        return _unknown(op, args, kwargs)
    except Exception as exc:  # a seam: a graph from anybody may hand torch anything
        words = str(exc)
        if any(sign in words for sign in _VALUE_DEPENDENT):
            return _unknown(op, args, kwargs)
        raise ShapeMismatch(
            _refusal(op, (*args, *kwargs.values()), words),
            hint="Shapes are known while recording: print(value.shape) shows them.",
        ) from exc


def _with_any_position(key: Any) -> Any:
    """An index with 0 for each single position that a value will say: the shape is the same."""
    if isinstance(key, tuple):
        return tuple(map(_with_any_position, key))
    single = isinstance(key, torch.Tensor) and key.dim() == 0
    return 0 if single and not key.is_floating_point() and key.dtype != torch.bool else key


def _answered(result: Any) -> Any:
    if result is NotImplemented:
        raise TypeError("it does not take these together")
    return result


def _check_what_meta_lets_pass(op: str, args: Any, kwargs: Any) -> None:
    """Mistakes that torch finds on tensors with data only. Raises as torch would."""
    tail = op.rsplit(".", 1)[-1]
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    if tail in _ONE_DTYPE and len({tensor.dtype for tensor in tensors}) > 1:
        raise ValueError("it takes tensors of one dtype")
    axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if tail in _ALONG_AXIS and tensors and type(axis) is int:
        axes = max(tensors[0].dim(), 1)
        if not -axes <= axis < axes:
            raise IndexError(f"there is no axis {axis}")


def _knows_enough(op: str, whole: Any, args: Any) -> bool:
    """Whether what is unknown of a container matters to this call: not where it goes by known parts."""
    if op == "operator.getitem":
        return True
    if op not in _KEEPS_SHAPE or len(args) < 2:
        return False
    for step in args[1]:
        if not _is_container(whole):
            break
        try:
            whole = whole[step[1][0]]
        except (LookupError, TypeError):
            return True  # the call itself says what is wrong
    return not isinstance(whole, Unknown)


def _is_container(value: Any) -> bool:
    """Whether a value's items may be taken though some of them are unknown."""
    return isinstance(value, tuple | list | dict)


def _unknown(op: str, args: Any, kwargs: Any) -> Any:
    """What is known when values are needed: an edit has the shape of what it edits."""
    keeps = op in _KEEPS_SHAPE or is_inplace(op)
    return args[0] if keeps and args else known_parts(op, args, kwargs, Unknown())


def _refusal(op: str, args: Any, words: str) -> str:
    """Which shapes an operation was given, and torch's own first sentence on why it cannot."""
    given = " and ".join(
        f"{str(arg.dtype).removeprefix('torch.')}{list(arg.shape)}"
        for arg in args
        if isinstance(arg, torch.Tensor)
    )
    reason = next((line.strip() for line in words.splitlines() if line.strip()), "no reason given")
    return f"{op} cannot take {given}: {reason}" if given else f"{op}: {reason}"


def is_alias(first: Any, second: Any) -> bool:
    """Whether two meta tensors share their storage, so that a write to one reaches the other."""
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return False
    ours: int = first.untyped_storage()._cdata
    theirs: int = second.untyped_storage()._cdata
    return ours == theirs
