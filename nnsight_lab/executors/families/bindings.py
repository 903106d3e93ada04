"""From a family's row to bindings: every standard name of a loaded model, and how to reach it.

Axes: residual stream `[batch, pos, d_model]`; `q`, `k`, `v`, `z` `[batch, pos, head, d_head]`
(after rotary; `k` and `v` have the key-value heads); `pattern` `[batch, head, query, key]`;
`neurons` `[batch, pos, d_mlp]`; `logits` `[batch, pos, d_vocab]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from nnsight_lab.executors.attention import has_attention_call
from nnsight_lab.executors.families.table import Family
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

__all__ = ["standard_bindings", "standard_modules"]


def _count(module: torch.nn.Module, family: Family) -> int:
    layers = module.get_submodule(family.layers)
    return len(list(layers.children()))


def standard_modules(module: torch.nn.Module, family: Family) -> tuple[tuple[str, str], ...]:
    """Standard names that are modules, with the module path behind each."""
    pairs = [("embed", family.embed), ("layers", family.layers)]
    for index in range(_count(module, family)):
        block = f"{family.layers}.{index}"
        pairs += [
            (f"layers.{index}", block),
            (f"layers.{index}.attn", f"{block}.{family.attn}"),
            (f"layers.{index}.mlp", f"{block}.{family.mlp}"),
        ]
    return (*pairs, ("norm", family.norm), ("lm_head", family.head))


def _of_module(name: str, path: str) -> Iterator[Binding]:
    yield input_of(Address(name, "input"), HookPoint("before", path))
    yield first_of(Address(name, "output"), HookPoint("after", path))


def _of_attention(name: str, path: str, out: str, heads: int) -> Iterator[Binding]:
    inside = HookPoint("attention", path)
    for place, port in enumerate(("q", "k", "v")):
        yield _one_of_qkv(Address(name, port), inside, place)
    yield whole(Address(name, "pattern"), HookPoint("pattern", path))
    yield heads_of_input(Address(name, "z"), HookPoint("before", f"{path}.{out}"), heads)


def _one_of_qkv(address: Address, point: HookPoint, place: int) -> Binding:
    def take(qkv: tuple[Any, ...]) -> Any:
        return qkv[place].transpose(1, 2)

    def put(qkv: tuple[Any, ...], new: Any) -> Any:
        return (*qkv[:place], new.transpose(1, 2), *qkv[place + 1 :])

    return Binding(address, point, take, put)


def standard_bindings(module: torch.nn.Module, family: Family) -> tuple[Binding, ...]:
    """Every standard name of a loaded model."""
    config: Any = module.config
    heads: int = config.get_text_config().num_attention_heads
    found: list[Binding] = []
    for name, path in standard_modules(module, family):
        if name == "layers":
            continue
        found += _of_module(name, path)
        if name.endswith(".attn") and has_attention_call(module):
            found += _of_attention(name, path, family.attn_out, heads)
        if name.endswith(".mlp"):
            down = HookPoint("before", f"{path}.{family.mlp_down}")
            found.append(input_of(Address(name, "neurons"), down))
    found.append(logits_of(Address("", "logits"), HookPoint("after", "")))
    return tuple(found)
