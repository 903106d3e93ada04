"""`Route`: to which of vLLM's modules a call of a Hugging Face module goes, and how it comes back.

vLLM names some modules otherwise and merges others: `q_proj` is the first columns of `qkv_proj`.
Here are the guesses by name, and what makes one of them certain: a value that went through the
Hugging Face module, compared with what vLLM's gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

__all__ = ["Route", "close_enough", "fitted", "likely_routes"]

Columns = tuple[tuple[int, int], ...]

_MERGED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""How vLLM's own classes name what they merge, where a model does not say."""
_ELEMENTWISE = ("identity", "silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "tanh")
"""Functions of `transformers` that need no module; a dropout is the first of them."""
_ROUNDING = {torch.float16: 4e-3, torch.bfloat16: 3e-2}
_SEARCHED = 1 << 28
"""So many pairs of columns are compared at most, to find out how vLLM has ordered them."""


@dataclass(frozen=True, slots=True)
class Route:
    """A way to what a Hugging Face module does.

    path: a module of vLLM's. columns: those of its output that are meant, in order, as
    `(start, stop)` pieces; None for all. factor: what Hugging Face multiplies with, inside.
    function: instead of a module, a function of each number by itself, by its name.
    """

    path: str
    columns: Columns | None = None
    factor: float = 1.0
    function: str | None = None

    def picked(self, output: torch.Tensor) -> torch.Tensor:
        """Of the module's output, what the Hugging Face module would have given."""
        if self.columns is not None:
            pieces = [output[..., start:stop] for start, stop in self.columns]
            output = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)
        return output if self.factor == 1.0 else output * self.factor


def likely_routes(path: str, model: torch.nn.Module) -> Iterator[Route]:
    """Where a module may be in vLLM's model: the likeliest first."""
    # What several layers share, such as an activation, is found in each of them.
    paths = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for found in _alike(path, paths):
        yield Route(found)
    parent, _, leaf = path.rpartition(".")
    for holder in _alike(parent, paths) if parent else [""]:
        yield from _inside_merged(model.get_submodule(holder), holder, leaf, model)
    # A module of another name, made of others: the experts of a block.
    for holder in _alike(parent, paths) if parent else []:
        for name, child in model.get_submodule(holder).named_children():
            if next(child.children(), None) is not None:
                yield Route(f"{holder}.{name}")
    # A head that is the embedding, where the two are tied.
    for name, module in model.named_modules():
        if hasattr(module, "org_vocab_size"):
            yield Route(name)
    # What has no parameters of its own vLLM merges with what comes next to it.
    for function in _ELEMENTWISE:
        yield Route("", function=function)


def _alike(path: str, paths: list[str]) -> list[str]:
    """VLLM's modules whose path ends as this one, the longest common end first."""
    parts = path.split(".")
    last = max((place for place, part in enumerate(parts) if part.isdigit()), default=None)
    # The number of the layer must be the same, and the list it counts in.
    needed = len(parts) - max(last - 1, 0) if last is not None else 1
    common = {other: _common_end(parts, other.split(".")) for other in paths}
    found = [other for other in paths if common[other] >= needed]
    return sorted(found, key=lambda other: (-common[other], len(other)))


def _common_end(one: list[str], other: list[str]) -> int:
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _inside_merged(
    holder: torch.nn.Module, path: str, leaf: str, model: torch.nn.Module
) -> Iterator[Route]:
    """The columns of a merged matrix that are the matrix of this name."""
    packed = {**_MERGED, **(getattr(model, "packed_modules_mapping", None) or {})}
    for name, child in holder.named_children():
        parts = tuple(packed.get(name, ()))
        sizes = _sizes(child) if leaf in parts else []
        if sizes and len(parts) == len(sizes):
            start = sum(sizes[: parts.index(leaf)])
            columns = ((start, start + sizes[parts.index(leaf)]),)
            yield Route(f"{path}.{name}" if path else name, columns)


def _sizes(merged: Any) -> list[int]:
    """How many columns each part of a merged matrix has, over all workers."""
    if hasattr(merged, "total_num_kv_heads"):
        head, v_head = merged.head_size, getattr(merged, "v_head_size", merged.head_size)
        return [
            merged.total_num_heads * head,
            merged.total_num_kv_heads * head,
            merged.total_num_kv_heads * v_head,
        ]
    return list(getattr(merged, "output_sizes", ()))


def fitted(route: Route, output: torch.Tensor, expected: torch.Tensor) -> tuple[Route, float]:
    """The route that brings a module's output closest to what is expected, and how far off it is.

    output: all that the module gives, `[rows, columns]`. expected: `[rows, fewer columns]`.
    """
    tries = [route]
    if output.shape[-1] > expected.shape[-1] and route.columns is None:
        tries.append(replace(route, columns=((0, expected.shape[-1]),)))
    best = min(((each, _off(each, output, expected)) for each in tries), key=lambda pair: pair[1])
    if best[1] <= close_enough(expected):
        return best
    others = [_scaled(each, output, expected) for each in tries]
    if route.function is None and 0 < output.shape[-1] * expected.shape[-1] <= _SEARCHED:
        others.append(replace(route, columns=_matching(output, expected)))
    off = [(each, _off(each, output, expected)) for each in others if each is not None]
    return min([best, *off], key=lambda pair: pair[1])


def close_enough(expected: torch.Tensor) -> float:
    """How far off a value may be that was computed twice in this dtype."""
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    return _ROUNDING.get(expected.dtype, 5e-5) * max(largest, 1.0)


def _off(route: Route, output: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference; infinite where the shapes differ."""
    picked = route.picked(output)
    if picked.shape != expected.shape:
        return float("inf")
    off = float((picked.float() - expected.float()).abs().max())
    return off if off == off else float("inf")  # noqa: PLR0124 - NaN is not itself


def _scaled(route: Route, output: torch.Tensor, expected: torch.Tensor) -> Route | None:
    """The same with the factor that fits best: some embeddings scale inside."""
    picked = replace(route, factor=1.0).picked(output).float()
    if picked.shape != expected.shape or not float(picked.square().sum()):
        return None
    wanted = expected.float()
    return replace(route, factor=float((picked * wanted).sum() / picked.square().sum()))


def _matching(output: torch.Tensor, expected: torch.Tensor) -> Columns:
    """For each column expected, the nearest there is: an order that vLLM has changed shows."""
    have, wanted = output.float(), expected.float()
    nearest: list[int] = []
    for some in wanted.split(256, dim=-1):
        apart = (have[:, :, None] - some[:, None, :]).abs().amax(0)
        nearest += apart.argmin(0).tolist()
    pieces: list[tuple[int, int]] = []
    for column in nearest:
        if pieces and pieces[-1][1] == column:
            pieces[-1] = (pieces[-1][0], column + 1)
        else:
            pieces.append((column, column + 1))
    return tuple(pieces)
