"""A small model of the same class and shape, compared in place of one that is too big to hold twice.

    module = twin_model(config)                       # random weights, few layers, same widths
    certificate = certified(reference_of(LocalExecutor(module)), engine_of_the_twin)
    certificate = stretched(certificate, twin_tree, big_tree, points_of_the_big_one)

A layer of the big model is taken to be like one of the twin's that is made of the same modules: the
first like the first, the last like the last, any other like one between (`layers.py`). Every form
must end at a point that vLLM comes by in the big model. The certificate says that it is a twin's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from nnsight_lab.executors.loading import heed_the_soft_cap
from nnsight_lab.ir import Address, ModuleTree
from nnsight_lab_server.vllm.calling import Callables
from nnsight_lab_server.vllm.certificate import Certificate, Entry
from nnsight_lab_server.vllm.forms import Form, Point
from nnsight_lab_server.vllm.layers import (
    LayerKind,
    alike,
    layer_kinds,
    layer_of,
    layers_needed,
    with_layer,
)
from nnsight_lab_server.vllm.reference import canonical
from nnsight_lab_server.vllm.routes import Route

__all__ = ["TWIN_VOCAB", "stretched", "stretched_calls", "twin_config", "twin_model"]

TWIN_VOCAB = 509
"""At most so many tokens: a prime, so that no other size of a model is the same."""
_WINDOW = 8
_UNLIKE = "the small model that was compared in its place has no layer like this one"


def twin_config(config: Any, kinds: Sequence[LayerKind] = ()) -> Any:
    """The configuration of a big model with few layers and tokens, and a window one can look past.

    kinds: those of its layers, where more is known than the configuration says.
    """
    small = copy.deepcopy(config)
    text = small.get_text_config()
    layers = int(text.num_hidden_layers)
    called = getattr(text, "layer_types", None) or [""] * layers
    fewer = layers_needed(kinds or [LayerKind(frozenset(), name) for name in called])
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == layers:
            setattr(text, name, [*value[: fewer - 1], value[-1]])
    text.num_hidden_layers = fewer
    text.vocab_size = min(int(text.vocab_size), TWIN_VOCAB)
    if getattr(text, "sliding_window", None):
        text.sliding_window = min(int(text.sliding_window), _WINDOW)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, 0)
    if hasattr(small, "quantization_config"):
        del small.quantization_config  # random weights are not packed
    return small


def twin_model(
    config: Any, dtype: torch.dtype = torch.float32, kinds: Sequence[LayerKind] = ()
) -> Any:
    """A twin with seeded weights that all matter, so that one that is dropped shows."""
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_config(twin_config(config, kinds), dtype=dtype)
    draw = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            if name.endswith("weight") and weight.dim() == 1:
                weight.add_(noise * 0.1)  # a norm's gain, from what is neutral in this model
            else:
                width = weight.shape[-1] if weight.dim() > 1 else 100
                weight.copy_(noise * width**-0.5)
    heed_the_soft_cap(module)
    return module.eval()


def stretched(
    certificate: Certificate,
    twin: ModuleTree,
    tree: ModuleTree,
    points: Sequence[Point],
    like: Mapping[int, int | None] | None = None,
) -> Certificate:
    """What the certificate of a twin says of the big model.

    twin, tree: the Hugging Face trees of both. points: vLLM's, of the big model, in their order.
    like: for each layer one of the twin's, where more is known than the trees say.
    """
    known = set(points)
    if like is None:
        like = alike(layer_kinds(twin.modules), layer_kinds(tree.modules))
    entries = {}
    for address in tree.by_address:
        one = canonical(tree, address)
        if one not in entries:
            entries[one] = _entry(one, certificate, like, known)
    return replace(certificate, entries=tuple(entries.values()), points=tuple(points), twin=True)


def _entry(
    address: Address, certificate: Certificate, like: Mapping[int, int | None], known: set[Point]
) -> Entry:
    layer = layer_of(address.path)
    there = like.get(layer) if layer is not None else None
    if layer is not None and there is None:
        return Entry(address, None, reason=_UNLIKE)
    path = address.path if there is None else with_layer(address.path, there)
    found = certificate.by_address.get(Address(path, address.port, address.call))
    if found is None:
        return Entry(address, None, reason=_UNLIKE)
    form = found.form and _moved(found.form, address, there, layer)
    if form is not None and form.point not in known:
        return Entry(address, None, reason="vLLM does not come by where it is in a smaller model")
    return replace(found, address=address, form=form)


def _moved(form: Form, address: Address, there: int | None, layer: int | None) -> Form:
    """The form of a layer of the twin, in the layer that is like it or right beside it."""
    path = _path_moved(form.point.path, there, layer)
    return replace(form, address=address, point=Point(form.point.stage, path))


def _path_moved(path: str, there: int | None, layer: int | None) -> str:
    """A path of vLLM's, as far from the layer as it was from the one there."""
    own = layer_of(path)
    if own is None or there is None or layer is None:
        return path
    return with_layer(path, own - there + layer)


def stretched_calls(
    callables: Callables, paths: Iterable[str], like: Mapping[int, int | None]
) -> Callables:
    """Where calls of the big model's modules go. paths: of its modules."""
    routes: dict[str, Route] = {}
    reasons: dict[str, str] = {}
    for path in paths:
        layer = layer_of(path)
        there = like.get(layer) if layer is not None else None
        if layer is not None and there is None:
            reasons[path] = _UNLIKE
            continue
        known = path if there is None else with_layer(path, there)
        if known in callables.routes:
            route = callables.routes[known]
            routes[path] = replace(route, path=_path_moved(route.path, there, layer))
        elif known in callables.reasons:
            reasons[path] = callables.reasons[known]
    return Callables(routes, reasons)
