"""The oracle for standard names: hooks and replaced functions on the plain model, by hand.

Nothing of ours is used. q, k, v and the pattern have no module that holds them, so they are taken
from, and edited in, the function of `transformers` (or of torch) that computes attention.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from tests.support.family_models import HEADS, LAYERS, FamilyModel
from tests.support.hooks import forward, hooked, inputs_seen, outputs_seen, tensor_of

__all__ = ["INSIDE", "by_hand", "changed_by_hand", "names_of"]

Change = Callable[[torch.Tensor], torch.Tensor]

INSIDE = ("q", "k", "v", "pattern")


class _Inside:
    """What was seen of q, k, v and the pattern, by `layers.0.attn.q` and so on."""

    def __init__(self, changes: dict[str, Change], kv_heads: int) -> None:
        self.seen: dict[str, torch.Tensor] = {}
        self._changes = changes
        self._kv_heads = kv_heads

    def at(self, layer: int, port: str, value: torch.Tensor) -> torch.Tensor:
        """Look at one value, and change it if asked."""
        name = f"layers.{layer}.attn.{port}"
        self.seen[name] = value.detach().clone()
        change = self._changes.get(name)
        return value if change is None else change(value)

    def qkv(self, layer: int, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """The same for q, k, v as `[batch, head, pos, d_head]`, keys maybe repeated for heads."""
        new = []
        for port, tensor in zip("qkv", tensors, strict=True):
            heads = HEADS if port == "q" else self._kv_heads
            times = tensor.shape[1] // heads
            one_each = tensor.unflatten(1, (heads, times))[:, :, 0]
            value = self.at(layer, port, one_each.transpose(1, 2)).transpose(1, 2)
            new.append(value.unsqueeze(2).expand(-1, -1, times, -1, -1).flatten(1, 2))
        return new

    def changes_pattern(self, layer: int) -> bool:
        return f"layers.{layer}.attn.pattern" in self._changes


@contextmanager
def _through_eager(small: FamilyModel, module: Any, inside: _Inside) -> Iterator[None]:
    home = sys.modules[type(module.get_submodule(small.attn.format(i=0))).__module__]
    eager = home.eager_attention_forward

    def attend(part: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        query, key, value = inside.qkv(part.layer_idx, query, key, value)
        output, pattern = eager(part, query, key, value, mask, **options)
        pattern = inside.at(part.layer_idx, "pattern", pattern)
        if inside.changes_pattern(part.layer_idx):
            groups = HEADS // value.shape[1]
            values = value[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)
            output = torch.einsum("bhqk,bhkd->bqhd", pattern, values).contiguous()
        return output, pattern

    with mock.patch.object(home, "eager_attention_forward", attend):
        yield


@contextmanager
def _through_method(small: FamilyModel, module: Any, inside: _Inside) -> Iterator[None]:
    kind = type(module.get_submodule(small.attn.format(i=0)))
    original = kind._attn

    def attend(part: Any, query: Any, key: Any, value: Any, mask: Any = None) -> Any:
        query, key, value = inside.qkv(part.layer_idx, query, key, value)
        _, pattern = original(part, query, key, value, mask)
        pattern = inside.at(part.layer_idx, "pattern", pattern)
        return pattern @ value, pattern

    with mock.patch.object(kind, "_attn", attend):
        yield


@contextmanager
def _through_reshape(small: FamilyModel, module: Any, inside: _Inside) -> Iterator[None]:
    kind = type(module.get_submodule(small.attn.format(i=0)))
    original = kind._reshape

    def reshape(part: Any, fused: Any) -> Any:
        return tuple(inside.qkv(part.layer_idx, *original(part, fused)))

    def look(layer: int) -> Any:
        return lambda _, __, output: inside.at(layer, "pattern", output)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(kind, "_reshape", reshape))
        for layer in range(LAYERS):
            dropout = module.get_submodule(small.attn.format(i=layer)).attention_dropout
            stack.callback(dropout.register_forward_hook(look(layer)).remove)
        yield


@contextmanager
def _through_torch(small: FamilyModel, module: Any, inside: _Inside) -> Iterator[None]:
    original = torch.nn.functional.scaled_dot_product_attention
    layers = iter(range(LAYERS))

    def attend(query: Any, key: Any, value: Any, attn_mask: Any, **options: Any) -> Any:
        layer = next(layers)
        query, key, value = inside.qkv(layer, query, key, value)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if attn_mask.dtype == torch.bool:
            pattern = scores.masked_fill(~attn_mask, -1e30).softmax(-1)
        else:
            pattern = (scores + attn_mask).softmax(-1)
        pattern = inside.at(layer, "pattern", pattern)
        if inside.changes_pattern(layer):
            return pattern @ value
        return original(query, key, value, attn_mask=attn_mask, **options)

    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attend):
        yield


def _attention(
    small: FamilyModel, ids: list[list[int]], changes: dict[str, Change]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """q, k, v and patterns of every layer, and the logits, with some of them changed."""
    module = small.module
    if small.inside == "interface":
        module = copy.deepcopy(module)
        module.set_attn_implementation("eager")
    through = {
        "interface": _through_eager,
        "method": _through_method,
        "fused": _through_reshape,
        "torch": _through_torch,
    }[small.inside]
    inside = _Inside(changes, small.kv_heads)
    with through(small, module, inside):
        logits = forward(module, ids)
    return inside.seen, logits


def names_of(small: FamilyModel) -> list[str]:
    """Every standard name this model must have."""
    names = ["embed.input", "embed.output"]
    for i in range(LAYERS):
        names += [f"layers.{i}.{port}" for port in ("input", "output")]
        names += [f"layers.{i}.attn.{port}" for port in ("input", "output", *INSIDE, "z")]
        names += [f"layers.{i}.mlp.{port}" for port in ("input", "output")]
        names += [f"layers.{i}.mlp.neurons"] if i not in small.experts else []
    names += ["norm.input", "norm.output"] if small.norm else []
    return [*names, "lm_head.input", "lm_head.output", "logits"]


def _place(small: FamilyModel, name: str) -> tuple[str, str]:
    """`before` or `after` which module a hook stands to see a name."""
    part, _, port = name.rpartition(".")
    side = "after" if port == "output" else "before"
    if part in ("embed", "norm", "lm_head"):
        return side, {"embed": small.embed, "norm": small.norm or "", "lm_head": "lm_head"}[part]
    _, layer, *rest = part.split(".")
    templates = {
        ("input",): small.block,
        ("output",): small.block,
        ("attn", "input"): small.attn,
        ("attn", "output"): small.attn,
        ("attn", "z"): small.attn_out,
        ("mlp", "input"): small.mlp[0],
        ("mlp", "output"): small.mlp[1],
        ("mlp", "neurons"): small.mlp_down,
    }
    return side, templates[(*rest, port)].format(i=layer)


def by_hand(small: FamilyModel, ids: list[list[int]]) -> dict[str, torch.Tensor]:
    """Every standard name of a model, as plain hooks see it."""
    batch, pos = len(ids), len(ids[0])
    inside, _ = _attention(small, ids, {})
    hooked_names = [name for name in names_of(small) if name.rpartition(".")[2] not in INSIDE]
    places = {name: _place(small, name) for name in hooked_names if name != "logits"}
    before = inputs_seen(
        small.module, ids, *{at for side, at in places.values() if side == "before"}
    )
    after = outputs_seen(
        small.module, ids, *{at for side, at in places.values() if side == "after"}
    )
    found = {"logits": forward(small.module, ids), **inside}
    for name, (side, at) in places.items():
        value = before[at] if side == "before" else tensor_of(after[at])
        if name.endswith(".z"):
            value = value.view(batch, pos, HEADS, small.d_head)
        found[name] = value.view(batch, pos, -1) if ".mlp." in name else value
    return found


def changed_by_hand(
    small: FamilyModel, ids: list[list[int]], name: str, change: Change
) -> torch.Tensor:
    """The logits when one name is changed, element by element."""
    if name == "logits":
        return change(forward(small.module, ids))
    if name.rpartition(".")[2] in INSIDE:
        return _attention(small, ids, {name: change})[1]
    side, at = _place(small, name)
    changes = {at: change}
    found = hooked(small.module, ids, **{side: changes})  # type: ignore[arg-type]
    logits: torch.Tensor = found["logits"]
    return logits
