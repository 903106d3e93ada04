"""From a family's row to bindings: every standard name of a loaded model, and how to reach it.

Axes: residual stream `[batch, pos, d_model]`; `q`, `k`, `v`, `z` `[batch, pos, head, d_head]`
(after rotary; `k` and `v` have the key-value heads); `pattern` `[batch, head, query, key]`;
`neurons` `[batch, pos, d_mlp]`; `logits` `[batch, pos, d_vocab]`. Nothing is run here: a name whose
place a model lacks is left out with a reason, the rest is checked in `executors/certify.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from nnsight_lab.executors.attention import has_attention_call
from nnsight_lab.executors.families.sizes import Sizes, sizes_of
from nnsight_lab.executors.families.table import (
    Family,
    FusedProjection,
    InterfaceCall,
    MethodCall,
    TorchCall,
    family_of,
)
from nnsight_lab.executors.sites import (
    Binding,
    HookPoint,
    first_of,
    heads_of_input,
    input_of,
    logits_of,
    whole,
)
from nnsight_lab.ir import Address

__all__ = ["Names", "names_of"]

_INSIDE = ("q", "k", "v", "pattern")


@dataclass(frozen=True, slots=True)
class Names:
    """The standard names a model should have, before anything is checked.

    bindings: how each is reached. modules: names that are modules, with the path of each.
    missing: addresses the family's words would allow, and why this model lacks them.
    """

    bindings: tuple[Binding, ...]
    modules: tuple[tuple[str, str], ...] = ()
    missing: tuple[tuple[Address, str], ...] = ()


def names_of(module: torch.nn.Module) -> Names:
    """The standard names of a loaded language model; of an unknown family only the logits."""
    logits = logits_of(Address("", "logits"), HookPoint("after", ""))
    family = family_of(module)
    if family is None:
        return Names((logits,))
    listed = dict(_modules(module, family))
    modules = {name: path for name, path in listed.items() if _has(module, path)}
    missing = [
        (address, f"no module {path!r}")
        for name, path in listed.items()
        if name not in modules
        for address in (Address(name, "input"), Address(name, "output"))
    ]
    bindings: list[Binding] = []
    sizes = sizes_of(getattr(module, "config", None))
    for name, path in modules.items():
        if name == "layers":
            continue
        bindings += _of_module(name, path)
        if name.endswith(".attn"):
            reason = _why_not(module, family, path)
            missing += [(Address(name, port), reason) for port in _INSIDE if reason]
            bindings += () if reason else _of_attention(name, path, family, sizes)
            bindings += _of_z(module, name, f"{path}.{family.attn_out}", sizes)
        if name.endswith(".mlp"):
            down = f"{path}.{family.mlp_down}"
            neurons = Address(name, "neurons")
            if _has(module, down):
                bindings.append(input_of(neurons, HookPoint("before", down)))
            else:
                missing.append(
                    (neurons, f"{_kind(module, path)} has no module {family.mlp_down!r}")
                )
    bindings += _of_flat_mlps(module, family)
    return Names((*bindings, logits), tuple(modules.items()), tuple(missing))


def _has(module: torch.nn.Module, path: str) -> bool:
    try:
        return isinstance(module.get_submodule(path), torch.nn.Module)
    except AttributeError:
        return False


def _kind(module: torch.nn.Module, path: str) -> str:
    return type(module.get_submodule(path)).__name__


def _count(module: torch.nn.Module, family: Family) -> int:
    known = _has(module, family.layers)
    return len(list(module.get_submodule(family.layers).children())) if known else 0


def _modules(module: torch.nn.Module, family: Family) -> Iterator[tuple[str, str]]:
    """Standard names that are modules, with the path the family's row gives each."""
    yield "embed", family.embed
    yield "layers", family.layers
    for index in range(_count(module, family)):
        block = f"{family.layers}.{index}"
        yield f"layers.{index}", block
        yield f"layers.{index}.attn", f"{block}.{family.attn}"
        if family.flat_mlp is None:
            yield f"layers.{index}.mlp", f"{block}.{family.mlp}"
    yield "norm", family.norm
    yield "lm_head", family.head


def _of_module(name: str, path: str) -> Iterator[Binding]:
    yield input_of(Address(name, "input"), HookPoint("before", path))
    yield first_of(Address(name, "output"), HookPoint("after", path))


def _of_flat_mlps(module: torch.nn.Module, family: Family) -> Iterator[Binding]:
    """An mlp that is two projections of the block, given `[batch * pos, …]`, told as it should be."""
    if family.flat_mlp is None:
        return
    for index in range(_count(module, family)):
        name, block = f"layers.{index}.mlp", f"{family.layers}.{index}"
        up, down = (f"{block}.{part}" for part in family.flat_mlp)
        yield whole(Address(name, "input"), HookPoint("rows-before", up))
        yield whole(Address(name, "neurons"), HookPoint("rows-before", down))
        yield whole(Address(name, "output"), HookPoint("rows-after", down))


def _of_z(module: torch.nn.Module, name: str, out: str, sizes: Sizes) -> Iterator[Binding]:
    if _has(module, out) and sizes.heads:
        yield heads_of_input(Address(name, "z"), HookPoint("before", out), sizes.heads)


def _why_not(module: torch.nn.Module, family: Family, path: str) -> str:
    """Why q, k, v and the pattern of this attention module cannot be met; empty when they can."""
    chosen = getattr(getattr(module, "config", None), "_attn_implementation", None)
    match family.attention:
        case InterfaceCall() if not has_attention_call(module):
            return f"attention implementation {chosen!r}; load with 'sdpa' or 'eager'"
        case TorchCall() if chosen != "sdpa":
            return f"attention implementation {chosen!r}; load with 'sdpa'"
        case MethodCall(name=method) if not hasattr(module.get_submodule(path), method):
            return f"{_kind(module, path)} has no method {method!r}"
        case MethodCall(pattern=part) | FusedProjection(pattern=part) if chosen not in (
            "eager",
            "sdpa",
        ):
            return f"attention implementation {chosen!r} never makes {part!r} a pattern"
    return ""


def _of_attention(name: str, path: str, family: Family, sizes: Sizes) -> Iterator[Binding]:
    pattern = Address(name, "pattern")
    match family.attention:
        case InterfaceCall():
            yield from _of_call(name, HookPoint("attention", path))
            yield whole(pattern, HookPoint("pattern", path))
        case TorchCall():
            yield from _of_call(name, HookPoint("torch", path), sizes.kv_heads)
            yield whole(pattern, HookPoint("torch-pattern", path))
        case MethodCall(name=method, pattern=part):
            yield from _of_call(name, HookPoint("method", f"{path}.{method}"))
            yield input_of(pattern, HookPoint("before", f"{path}.{part}"))
        case FusedProjection(path=fused, pattern=part):
            point = HookPoint("after", f"{path}.{fused}")
            for place, port in enumerate(("q", "k", "v")):
                yield _slice_of_fused(Address(name, port), point, place, sizes.heads)
            yield input_of(pattern, HookPoint("before", f"{path}.{part}"))


def _of_call(name: str, point: HookPoint, kv_heads: int = 0) -> Iterator[Binding]:
    yield _argument(Address(name, "q"), point, 0)
    yield _argument(Address(name, "k"), point, 1, kv_heads)
    yield _argument(Address(name, "v"), point, 2, kv_heads)


def _argument(address: Address, point: HookPoint, place: int, heads: int = 0) -> Binding:
    """One of `(q, k, v)`, each `[batch, head, pos, d_head]`.

    heads: given where a family may hand the attention call its keys once for every query head;
        they are equal in each group then, and we show, and repeat when written, one of each.
    """

    def copies(tensor: torch.Tensor) -> int:
        return tensor.shape[1] // heads if heads and tensor.shape[1] % heads == 0 else 1

    def take(qkv: tuple[Any, ...]) -> Any:
        return qkv[place][:, :: copies(qkv[place])].transpose(1, 2)

    def put(qkv: tuple[Any, ...], new: Any) -> Any:
        each = copies(qkv[place])
        turned = new.transpose(1, 2)
        whole_again = turned if each == 1 else turned.repeat_interleave(each, dim=1)
        return (*qkv[:place], whole_again, *qkv[place + 1 :])

    return Binding(address, point, take, put)


def _slice_of_fused(address: Address, point: HookPoint, place: int, heads: int) -> Binding:
    """q, k or v of a projection that makes, for each head, first q, then k, then v."""

    def split(output: Any) -> Any:
        return output.unflatten(-1, (heads, 3, -1))

    def put(output: Any, new: Any) -> Any:
        parts = [new if at == place else part for at, part in enumerate(split(output).unbind(-2))]
        return torch.stack(parts, dim=-2).flatten(-3)

    return Binding(address, point, lambda output: split(output)[..., place, :], put)
