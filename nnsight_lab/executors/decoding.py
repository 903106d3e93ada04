"""How a model looks while it decodes: its module tree on one new position with a cache.

Measured like the first tree (`measure.py`), on very small prompts. A model whose cached pass does
not say what its whole pass says, or that keeps no such cache, is not one to generate with here.
Standard names that hold for a prompt are kept if what they hold has the same axes, query
positions being one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from nnsight_lab.contract import TokenRows
from nnsight_lab.executors.batch import Padded
from nnsight_lab.executors.certify import without
from nnsight_lab.executors.families import names_of
from nnsight_lab.executors.generate import empty_cache
from nnsight_lab.executors.host import TorchHost
from nnsight_lab.executors.measure import Measured, measure
from nnsight_lab.ir import Dim, SizeForm, Spec, TensorSpec

__all__ = ["measured_decoding"]

_SIZES = ((2, 5), (3, 7))
_SMALLER = ((2, 2), (3, 3))
_ONE = Dim(SizeForm.FIXED, 1)


def measured_decoding(
    module: torch.nn.Module, first: Measured, *, vocab: int, context: int, positions: bool
) -> Measured | None:
    """The forward pass that adds one position, or None when the model cannot be decoded with.

    first: the measured pass of a prompt.
    """
    sizes = _SIZES if not context or context >= _SIZES[-1][1] else _SMALLER
    if context and context < sizes[-1][1]:
        return None
    try:
        with torch.no_grad():
            runs = {size: _run(module, *size, vocab, positions=positions) for size in sizes}
        names = tuple(
            binding
            for binding in names_of(module).bindings
            if binding.address in first.tree.by_address
        )
        found = measure(module, runs, names, first.tree.standard)
    except Exception:  # noqa: BLE001 - a seam: a model's own code may do anything with a cache
        return None
    known = found.tree.by_address
    bad = {
        binding.address: "it has other axes while decoding"
        for binding in names
        if binding.address in known
        and not _alike(first.tree.by_address[binding.address].spec, known[binding.address].spec)
    }
    return without(found, bad)


def _run(module: Any, batch: int, total: int, vocab: int, *, positions: bool) -> Callable[[], Any]:
    """A pass of one new position after `total - 1` others. Raises when the cache does not serve."""
    row = tuple(place % (vocab or total + 1) for place in range(1, total + 1))
    device = TorchHost(module).device
    inputs = TokenRows((row[:-1],) * batch)
    padded = Padded(inputs, 0, device, positions=positions, more=1)
    cache = empty_cache()
    module(**padded.prompt(), past_key_values=cache, use_cache=True)
    if cache.get_seq_length() != total - 1:
        raise ValueError("the model keeps its cache elsewhere")
    given = padded.further(1, torch.full((batch,), row[-1], device=device))

    def run() -> Any:
        return module(**given, past_key_values=copy.deepcopy(cache), use_cache=True)

    whole = Padded(TokenRows((row,) * batch), 0, device, positions=positions)
    wanted = module(**whole.prompt(), use_cache=False).logits[:, -1].float()
    seen = run().logits[:, -1].float()
    close = 2e-3 if next(module.parameters()).dtype in (torch.float32, torch.float64) else 0.1
    if not bool((seen - wanted).norm() <= close * wanted.norm()):
        raise ValueError("the cached pass says something else")
    return run


def _alike(prompt: Spec, decoding: Spec) -> bool:
    if not isinstance(prompt, TensorSpec) or not isinstance(decoding, TensorSpec):
        return False
    if len(prompt.dims) != len(decoding.dims):
        return False
    return all(
        now == dim or (dim.form is SizeForm.POS and now == _ONE)
        for dim, now in zip(prompt.dims, decoding.dims, strict=True)
    )
