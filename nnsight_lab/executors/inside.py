"""Values a module's own code keeps to itself: three places no hook of torch's stands.

    method         a module attends in a method of its own: we stand in front of it (GPT-J)
    torch          a module calls torch's attention: a function mode, only while it runs (Falcon)
    rows-before,   a block flattens `[batch, pos, …]` to rows before a projection: we hand over
    rows-after     what is there in its true shape (OPT)

Like hooks, all of it stands for one run, and is gone when the block ends, however it ends. What
goes through the attention interface of `transformers` is in `attention.py`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nnsight_lab.executors.sites import HookPoint

__all__ = ["INSIDE", "overhearing", "replaced"]

INSIDE = frozenset({"method", "torch", "torch-pattern", "rows-before", "rows-after"})
"""The stages served here."""

_OnPoint = Callable[[HookPoint, Any], Any]

_locks: weakref.WeakKeyDictionary[torch.nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
"""Two executors may share a model; what they replace must come off in the order it went on."""


@contextmanager
def overhearing(
    model: torch.nn.Module,
    points: set[HookPoint],
    on_point: _OnPoint,
    deaf: Callable[[], bool],
) -> Iterator[None]:
    """Hear of `points` inside modules while the block runs.

    deaf: whether a call now is none of this run's, e.g. another thread's.
    """
    with ExitStack() as stack:
        wanted = {(point.stage, point.path) for point in points}
        for path in sorted({path for stage, path in wanted if stage == "method"}):
            stack.enter_context(_method(model, path, on_point, deaf))
        for path in sorted({path for stage, path in wanted if stage.startswith("torch")}):
            stack.enter_context(_torch_call(model, path, points, on_point, deaf))
        for path in sorted({path for stage, path in wanted if stage.startswith("rows")}):
            for handle in _rows(model, path, {stage for stage, at in wanted if at == path},
                                on_point, deaf):  # fmt: skip
                stack.callback(handle.remove)
        yield


@contextmanager
def replaced(
    module: torch.nn.Module, name: str, replacing: Callable[[Callable[..., Any]], Any]
) -> Iterator[None]:
    """A method of this one module is another while the block runs, for one run at a time.

    replacing: from the method as it is to the one that stands in for it.
    """
    with _locks.setdefault(module, threading.RLock()):
        own = vars(module).get(name)
        setattr(module, name, replacing(getattr(module, name)))
        try:
            yield
        finally:
            if own is None:
                delattr(module, name)
            else:
                setattr(module, name, own)


@contextmanager
def _method(
    model: torch.nn.Module, path: str, on_point: _OnPoint, deaf: Callable[[], bool]
) -> Iterator[None]:
    owner, _, name = path.rpartition(".")
    module = model.get_submodule(owner)
    point = HookPoint("method", path)

    def replacing(original: Callable[..., Any]) -> Callable[..., Any]:
        def attend(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
            if not deaf():
                query, key, value = on_point(point, (query, key, value))
            return original(query, key, value, *args, **kwargs)

        return attend

    with replaced(module, name, replacing):
        yield


@contextmanager
def _torch_call(
    model: torch.nn.Module,
    path: str,
    points: set[HookPoint],
    on_point: _OnPoint,
    deaf: Callable[[], bool],
) -> Iterator[None]:
    module = model.get_submodule(path)
    mode = _AttentionHeard(path, points, on_point)

    def replacing(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if deaf():
                return original(*args, **kwargs)
            with mode:
                return original(*args, **kwargs)

        return forward

    with replaced(module, "forward", replacing):
        yield


class _AttentionHeard(TorchFunctionMode):
    """Torch's attention, called by one module, with q, k, v and the pattern handed over."""

    def __init__(self, path: str, points: set[HookPoint], on_point: _OnPoint) -> None:
        super().__init__()
        self._path = path
        self._points = points
        self._on_point = on_point

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self, query: Any, key: Any, value: Any, attn_mask: Any = None, **options: Any
    ) -> Any:
        qkv, pattern_point = HookPoint("torch", self._path), HookPoint("torch-pattern", self._path)
        if qkv in self._points:
            query, key, value = self._on_point(qkv, (query, key, value))
        if pattern_point in self._points:
            pattern = _pattern(query, key, attn_mask, options)
            edited = self._on_point(pattern_point, pattern)
            if edited is not pattern:
                return edited.to(value.dtype) @ value
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query, key, value, attn_mask=attn_mask, **options)


def _pattern(query: Any, key: Any, mask: Any, options: dict[str, Any]) -> torch.Tensor:
    """What torch's attention multiplies the values with; heads may share keys."""
    scale = options.get("scale") or query.shape[-1] ** -0.5
    scores = (query.float() @ key.float().transpose(-1, -2)) * scale
    if options.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None and mask.dtype is torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    pattern: torch.Tensor = scores.softmax(-1).to(query.dtype)
    return pattern


def _rows(
    model: torch.nn.Module,
    path: str,
    stages: set[str],
    on_point: _OnPoint,
    deaf: Callable[[], bool],
) -> Iterator[Any]:
    """Hooks on a projection and on its block, which still sees `[batch, pos, …]`."""
    block = model.get_submodule(path.rpartition(".")[0])
    part = model.get_submodule(path)
    lead: dict[int, Any] = {}

    def note(_: Any, args: Any, kwargs: Any) -> None:
        given = (item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor))
        if not deaf():
            lead[threading.get_ident()] = next(given).shape[:-1]

    def heard(stage: Any, tensor: torch.Tensor) -> torch.Tensor:
        leading = lead[threading.get_ident()]
        flat = tensor.dim() == 2 and tensor.shape[0] == leading.numel()
        true = tensor.unflatten(0, leading) if flat else tensor
        new = on_point(HookPoint(stage, path), true)
        if new is true:
            return tensor
        changed: torch.Tensor = new.flatten(0, len(leading) - 1) if flat else new
        return changed

    def before(_: Any, args: Any) -> Any:
        return None if deaf() else (heard("rows-before", args[0]), *args[1:])

    def after(_: Any, __: Any, output: Any) -> Any:
        return None if deaf() else heard("rows-after", output)

    yield block.register_forward_pre_hook(note, with_kwargs=True)
    if "rows-before" in stages:
        yield part.register_forward_pre_hook(before)
    if "rows-after" in stages:
        yield part.register_forward_hook(after)
