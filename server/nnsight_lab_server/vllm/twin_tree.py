"""The module tree of a model that is too big to run, from that of its small twin.

    tree = stretched_tree(twin_tree, module_cards(module_without_weights), like, vocab)

The modules are the big model's own. Where it comes by which address is as in the twin, layer after
layer; sizes are the same but for the vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import (
    MOMENTS_APART,
    DictSpec,
    Dim,
    ModuleCard,
    ModuleTree,
    Site,
    SizeForm,
    Spec,
    TensorSpec,
    TupleSpec,
)
from nnsight_lab_server.vllm.layers import layer_of, with_layer

__all__ = ["Vocab", "stretched_tree"]

_Like = Mapping[int, int | None]
_BEFORE, _WITHIN, _AFTER = range(3)


class Vocab(NamedTuple):
    """How many tokens the twin knows, and how many the big model."""

    twin: int
    big: int


def stretched_tree(
    twin: ModuleTree, modules: tuple[ModuleCard, ...], like: _Like, vocab: Vocab
) -> ModuleTree:
    """The tree of a model with these modules. like: for each of its layers one of the twin's.

    Raises:
        NotSupported: the twin is not made as the big model is.
    """
    layers = _Layers(like)
    _check(twin, modules, layers)
    made: list[tuple[tuple[int, int, int], Site]] = []
    for site, (turn, moment) in _in_turn(twin):
        spec = _with_vocab(site.spec, vocab)
        for layer, path in layers.copies(site.address.path):
            address = site.address._replace(path=path)
            made.append(((turn, layer or 0, moment), Site(address, 0, spec)))
    number = {key: place for place, key in enumerate(sorted({key for key, _ in made}))}
    sites = (replace(site, moment=number[key] * MOMENTS_APART) for key, site in made)
    return replace(
        twin,
        modules=modules,
        sites=tuple(sorted(sites, key=lambda site: (site.moment, site.address))),
        same_as=tuple(
            (one._replace(path=path), other._replace(path=known))
            for one, other in twin.same_as
            for path, known in layers.pairs(one.path, other.path)
        ),
        standard=tuple(both for pair in twin.standard for both in layers.pairs(*pair)),
    )


class _Layers:
    """Which of the big model's layers are like each of the twin's."""

    def __init__(self, like: _Like) -> None:
        self._of: dict[int | None, list[int | None]] = defaultdict(list, {None: [None]})
        for layer, there in like.items():
            if there is None:
                raise _unlike(f"no layer of a small one is like layer {layer}")
            self._of[there].append(layer)

    def copies(self, path: str) -> list[tuple[int | None, str]]:
        """A path, in each layer of the big model that is like its own."""
        return [
            (layer, path if layer is None else with_layer(path, layer))
            for layer in self._of[layer_of(path)]
        ]

    def pairs(self, one: str, other: str) -> Iterator[tuple[str, str]]:
        """Two paths of one layer, in each layer that is like it."""
        for (_, first), (_, second) in zip(self.copies(one), self.copies(other), strict=True):
            yield first, second


def _check(twin: ModuleTree, modules: tuple[ModuleCard, ...], layers: _Layers) -> None:
    expected = {path for card in twin.modules for _, path in layers.copies(card.path)}
    apart = sorted(expected ^ {card.path for card in modules})
    if apart:
        raise _unlike(f"only one of them has {apart[0]}")


def _in_turn(twin: ModuleTree) -> list[tuple[Site, tuple[int, int]]]:
    """Each site, and where it comes: before, within or after the layers, and when.

    Layers must follow one another, each all at once.
    """
    spans: dict[int, tuple[int, int]] = {}
    for site in twin.sites:
        layer = layer_of(site.address.path)
        if layer is not None:
            first, last = spans.get(layer, (site.moment, site.moment))
            spans[layer] = min(first, site.moment), max(last, site.moment)
    ends = [moment for layer in sorted(spans) for moment in spans[layer]]
    if ends != sorted(ends):
        raise _unlike("its layers do not follow one another")
    found = []
    for site in twin.sites:
        if layer_of(site.address.path) is not None:
            turn = _WITHIN
        elif not ends or site.moment < ends[0]:
            turn = _BEFORE
        elif site.moment > ends[-1]:
            turn = _AFTER
        else:
            raise _unlike(f"{site.address} comes between its layers")
        found.append((site, (turn, site.moment)))
    return found


def _unlike(reason: str) -> NotSupported:
    return NotSupported(
        f"This model cannot be compared by a small one of its class: {reason}.",
        hint='Say compare = "whole" in the file of --engine-config, on a machine that can hold it.',
    )


def _with_vocab(spec: Spec, vocab: Vocab) -> Spec:
    match spec:
        case TensorSpec(dims=dims):
            small, big = (Dim(SizeForm.FIXED, size) for size in vocab)
            return replace(spec, dims=tuple(big if dim == small else dim for dim in dims))
        case TupleSpec(items=items):
            return TupleSpec(tuple(_with_vocab(item, vocab) for item in items))
        case DictSpec(items=items):
            return DictSpec(tuple((key, _with_vocab(item, vocab)) for key, item in items))
        case _:
            return spec
