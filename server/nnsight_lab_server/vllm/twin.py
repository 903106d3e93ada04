"""A small model of the same class and shape, compared in place of one that is too big to hold twice.

    module = twin_model(config)                       # random weights, few layers, same widths
    certificate = certified(reference_of(LocalExecutor(module)), engine_of_the_twin)
    certificate = stretched(certificate, twin_tree, big_tree, points_of_the_big_one)

A layer of the big model is taken to be like one of the twin's that is made of the same modules: the
first like the first, the last like the last, any other like one between. Every form must end at a
point that vLLM comes by in the big model. The certificate says that it is a twin's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from nnsight_lab.ir import Address, ModuleTree
from nnsight_lab_server.vllm.certificate import Certificate, Entry
from nnsight_lab_server.vllm.forms import Form, Point
from nnsight_lab_server.vllm.reference import canonical

__all__ = ["stretched", "twin_config", "twin_model"]

_FEWEST, _MOST = 3, 8
_VOCAB = 512
_WINDOW = 8
_LAYER = re.compile(r"(?<![^.])\d+(?![^.])")
_UNLIKE = "the small model that was compared in its place has no layer like this one"


def twin_config(config: Any) -> Any:
    """The configuration of a big model with few layers and tokens, and a window one can look past."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    layers = int(text.num_hidden_layers)
    fewer = min(layers, _layers_needed(getattr(text, "layer_types", None) or ()))
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == layers:
            setattr(text, name, value[:fewer])
    text.num_hidden_layers = fewer
    text.vocab_size = min(int(text.vocab_size), _VOCAB)
    if getattr(text, "sliding_window", None):
        text.sliding_window = min(int(text.sliding_window), _WINDOW)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, 0)
    return small


def _layers_needed(kinds: Sequence[str]) -> int:
    """So many first layers that each kind is among them, beside the first and the last."""
    for count in range(_FEWEST, _MOST):
        if set(kinds[1 : count - 1]) >= set(kinds):
            return count
    return _MOST if kinds else _FEWEST


def twin_model(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A twin with seeded weights that all matter, so that one that is dropped shows."""
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_config(twin_config(config))
    draw = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            if name.endswith("weight") and weight.dim() == 1:
                weight.add_(noise * 0.1)  # a norm's gain, from what is neutral in this model
            else:
                width = weight.shape[-1] if weight.dim() > 1 else 100
                weight.copy_(noise * width**-0.5)
    return module.to(dtype).eval()


def stretched(
    certificate: Certificate, twin: ModuleTree, tree: ModuleTree, points: Sequence[Point]
) -> Certificate:
    """What the certificate of a twin says of the big model.

    twin, tree: the Hugging Face trees of both. points: vLLM's, of the big model, in their order.
    """
    known = set(points)
    like = _alike(twin, tree)
    entries = {}
    for address in tree.by_address:
        one = canonical(tree, address)
        if one not in entries:
            entries[one] = _entry(one, certificate, like, known)
    return replace(certificate, entries=tuple(entries.values()), points=tuple(points), twin=True)


def _entry(
    address: Address, certificate: Certificate, like: Mapping[int, int | None], known: set[Point]
) -> Entry:
    layer = _layer(address.path)
    there = like.get(layer) if layer is not None else None
    if layer is not None and there is None:
        return Entry(address, None, reason=_UNLIKE)
    path = address.path if there is None else _with_layer(address.path, there)
    found = certificate.by_address.get(Address(path, address.port, address.call))
    if found is None:
        return Entry(address, None, reason=_UNLIKE)
    form = found.form and _moved(found.form, address, there, layer)
    if form is not None and form.point not in known:
        return Entry(address, None, reason="vLLM does not come by where it is in a smaller model")
    return replace(found, address=address, form=form)


def _moved(form: Form, address: Address, there: int | None, layer: int | None) -> Form:
    """The form of a layer of the twin, in the layer that is like it or right beside it."""
    path, own = form.point.path, _layer(form.point.path)
    if own is not None and there is not None and layer is not None:
        path = _with_layer(path, own - there + layer)
    return replace(form, address=address, point=Point(form.point.stage, path))


def _alike(twin: ModuleTree, tree: ModuleTree) -> dict[int, int | None]:
    """For each layer of the big model one of the twin's, where there is one."""
    small, big = _made_of(twin), _made_of(tree)
    first, last = min(small, default=0), max(small, default=0)
    found: dict[int, int | None] = {}
    for layer, parts in big.items():
        among = [place for place, others in small.items() if others == parts]
        wanted = first if layer == min(big) else last if layer == max(big) else None
        between = [place for place in among if place not in (first, last)]
        if wanted is not None:
            found[layer] = wanted if wanted in among else None
        else:
            found[layer] = between[0] if between else None
    return found


def _made_of(tree: ModuleTree) -> dict[int, frozenset[tuple[str, str]]]:
    """The modules of each layer, by their path within it and their class."""
    parts: dict[int, set[tuple[str, str]]] = {}
    for card in tree.modules:
        layer = _layer(card.path)
        if layer is not None:
            own = _LAYER.split(card.path, maxsplit=1)
            parts.setdefault(layer, set()).add(("*".join(own), card.kind))
    return {layer: frozenset(own) for layer, own in parts.items()}


def _layer(path: str) -> int | None:
    found = _LAYER.search(path)
    return int(found.group()) if found else None


def _with_layer(path: str, layer: int) -> str:
    return _LAYER.sub(str(layer), path, count=1)
