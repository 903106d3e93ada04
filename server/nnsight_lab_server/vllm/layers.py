"""Which layers of a model are made alike, and which layer of a small model stands for which of a big.

The number of a layer is the first number in a path. Two layers are alike when they have the same
modules with weights of the same sizes, and the configuration calls their attention the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nnsight_lab.ir import ModuleCard

__all__ = ["LayerKind", "alike", "layer_kinds", "layer_of", "layers_needed", "with_layer"]

_FEWEST = 3
_LAYER = re.compile(r"(?<![^.])\d+(?![^.])")


class LayerKind(NamedTuple):
    """What a layer is made of, and what its attention sees, as the configuration calls it."""

    parts: frozenset[tuple[str, str, Any]]
    attention: str = ""


def layer_of(path: str) -> int | None:
    """The number of the layer a path leads into, or None."""
    found = _LAYER.search(path)
    return int(found.group()) if found else None


def with_layer(path: str, layer: int) -> str:
    """The same path, in another layer."""
    return _LAYER.sub(str(layer), path, count=1)


def layer_kinds(modules: Iterable[ModuleCard], config: Any = None) -> dict[int, LayerKind]:
    """The kind of each layer. config: of the model, for what its attention sees."""
    text = config.get_text_config() if config is not None else None
    called: Sequence[str] = getattr(text, "layer_types", None) or ()
    parts: dict[int, set[tuple[str, str, Any]]] = {}
    for card in modules:
        layer = layer_of(card.path)
        if layer is not None:
            own = "*".join(_LAYER.split(card.path, maxsplit=1))
            parts.setdefault(layer, set()).add((own, card.kind, card.weights))
    return {
        layer: LayerKind(frozenset(parts[layer]), called[layer] if layer < len(called) else "")
        for layer in sorted(parts)
    }


def layers_needed(kinds: Sequence[LayerKind]) -> int:
    """With how many first layers, the last of them like the last, there is one of each kind."""
    between = set(kinds[1:-1])
    for count in range(_FEWEST, len(kinds)):
        last = kinds[count - 1].parts == kinds[-1].parts
        if last and set(kinds[1 : count - 1]) >= between:
            return count
    return len(kinds)


def alike(twin: Mapping[int, LayerKind], big: Mapping[int, LayerKind]) -> dict[int, int | None]:
    """For each layer of the big model one of the twin's, where there is one.

    The first is like the first and the last like the last, any other like one between.
    """
    found: dict[int, int | None] = {}
    for layer, kind in big.items():
        among = [place for place, other in twin.items() if other == kind]
        if layer in (min(big), max(big)):
            wanted = min(twin, default=0) if layer == min(big) else max(twin, default=0)
            found[layer] = wanted if wanted in among else None
        else:
            between = [place for place in among if place not in (min(twin), max(twin))]
            found[layer] = between[0] if between else None
    return found
