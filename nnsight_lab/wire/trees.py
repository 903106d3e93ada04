"""A model card as JSON bytes and back: its module tree, its sites, the specs of what is there.

The card of a large model is megabytes, tokenizer included, so it travels in binary frames like a
tensor. Forms are short lists: an address is `[path, port, call]`, an axis is a whole number or
`[form, factor]`, a spec begins with its tag. Reading checks every field and builds nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnsight_lab.contract import Capabilities, ModelCard
from nnsight_lab.errors import LimitExceeded
from nnsight_lab.ir import (
    Address,
    DictSpec,
    Dim,
    ModuleCard,
    ModuleTree,
    OpaqueSpec,
    Site,
    SizeForm,
    Spec,
    TensorSpec,
    TupleSpec,
)
from nnsight_lab.wire.faults import RemoteProtocolError
from nnsight_lab.wire.limits import WireLimits
from nnsight_lab.wire.plain import (
    Malformed,
    optional,
    parse,
    read_list,
    read_record,
    read_text,
    read_whole,
    tuple_of,
    write,
)

__all__ = ["decode_card", "encode_card", "read_site", "site_to_plain"]

_MANY = 10_000_000
_DEPTH = 16
_FILES = 64


def encode_card(card: ModelCard) -> bytes:
    """The bytes of a card."""
    able = card.capabilities
    plain = {
        "name": card.name,
        "architecture": card.architecture,
        "dtype": card.dtype,
        "layers": card.layers,
        "parameters": card.parameters,
        "context": card.context,
        "vocab": card.vocab,
        "capabilities": {
            "engine": able.engine,
            "device": able.device,
            "features": sorted(able.features),
        },
        "tokenizer": dict(card.tokenizer),
        "tree": _tree_to_plain(card.tree),
        "decode": None if card.decode is None else _sites_to_plain(card.decode),
    }
    return write(plain).encode()


def decode_card(data: bytes, limits: WireLimits) -> ModelCard:
    """The card in `data`.

    Raises:
        RemoteProtocolError: these bytes are not a card.
        LimitExceeded: they are more than `limits.card_bytes`.
    """
    if len(data) > limits.card_bytes:
        raise LimitExceeded(f"A model card of {len(data)} bytes; {limits.card_bytes} may be sent.")
    try:
        card = read_record(parse(data), _CARD)
        if card["decode"] is not None:
            card["decode"] = replace(card["tree"], **card["decode"])
        return ModelCard(**card)
    except ValueError as exc:
        raise RemoteProtocolError(f"A malformed model card: {str(exc)[:200]}.") from exc


def _tree_to_plain(tree: ModuleTree) -> dict[str, Any]:
    return {
        "modules": [
            [card.path, card.kind, [[name, _spec_to_plain(spec)] for name, spec in card.weights]]
            for card in tree.modules
        ],
        **_sites_to_plain(tree),
        "standard": [list(pair) for pair in tree.standard],
    }


def _sites_to_plain(tree: ModuleTree) -> dict[str, Any]:
    """What differs between the forward passes of one model."""
    return {
        "sites": [site_to_plain(site) for site in tree.sites],
        "same_as": [[_address_to_plain(one), _address_to_plain(two)] for one, two in tree.same_as],
        "refused": [[_address_to_plain(at), reason] for at, reason in tree.refused],
        "read_only": [[_address_to_plain(at), reason] for at, reason in tree.read_only],
    }


def site_to_plain(site: Site) -> list[Any]:
    """A site as plain data."""
    return [_address_to_plain(site.address), site.moment, _spec_to_plain(site.spec)]


def _address_to_plain(address: Address) -> list[Any]:
    return [address.path, address.port, address.call]


def _spec_to_plain(spec: Spec) -> list[Any]:
    match spec:
        case TensorSpec(dtype=dtype, dims=dims):
            return ["tensor", dtype, [_dim_to_plain(dim) for dim in dims]]
        case TupleSpec(items=items):
            return ["tuple", [_spec_to_plain(item) for item in items]]
        case DictSpec(items=pairs):
            return ["dict", [[key, _spec_to_plain(item)] for key, item in pairs]]
        case OpaqueSpec(kind=kind):
            return ["opaque", kind]


def _dim_to_plain(dim: Dim) -> int | list[Any]:
    return dim.factor if dim.form is SizeForm.FIXED else [dim.form.value, dim.factor]


def _files(plain: Any) -> dict[str, str]:
    # A tokenizer's files are as long as they are; the size of the whole card is the bound.
    if not isinstance(plain, dict) or len(plain) > _FILES:
        raise Malformed("not the files of a tokenizer")
    if not all(isinstance(text, str) for text in plain.values()):
        raise Malformed("not the files of a tokenizer")
    return dict(plain)


def _few(plain: Any, count: int) -> list[Any]:
    items = read_list(plain)
    if len(items) != count:
        raise Malformed(f"not a list of {count}")
    return items


def _dim(plain: Any) -> Dim:
    if isinstance(plain, int):
        return Dim(SizeForm.FIXED, read_whole(plain))
    form, factor = _few(plain, 2)
    return Dim(SizeForm(form), read_whole(factor))


def _spec(plain: Any, depth: int = _DEPTH) -> Spec:
    if depth == 0:
        raise Malformed("a spec nested too deeply")
    match read_list(plain):
        case ["tensor", dtype, dims]:
            return TensorSpec(read_text(dtype), tuple(map(_dim, read_list(dims))))
        case ["tuple", items]:
            return TupleSpec(tuple(_spec(item, depth - 1) for item in read_list(items)))
        case ["dict", pairs]:
            named = (_few(pair, 2) for pair in read_list(pairs))
            return DictSpec(tuple((read_text(key), _spec(item, depth - 1)) for key, item in named))
        case ["opaque", kind]:
            return OpaqueSpec(read_text(kind))
    raise Malformed("a spec of unknown form")


def _weight(plain: Any) -> tuple[str, TensorSpec]:
    name, spec = _few(plain, 2)
    read = _spec(spec)
    if not isinstance(read, TensorSpec):
        raise Malformed("a weight is a tensor")
    return read_text(name), read


def _module(plain: Any) -> ModuleCard:
    path, kind, weights = _few(plain, 3)
    return ModuleCard(read_text(path), read_text(kind), tuple(map(_weight, read_list(weights))))


def _address(plain: Any) -> Address:
    path, port, call = _few(plain, 3)
    return Address(read_text(path), read_text(port), read_whole(call))


def read_site(plain: Any) -> Site:
    """The site that plain data holds. Raises `Malformed`."""
    address, moment, spec = _few(plain, 3)
    return Site(_address(address), read_whole(moment), _spec(spec))


def _twins(plain: Any) -> tuple[Address, Address]:
    one, two = _few(plain, 2)
    return _address(one), _address(two)


def _refusal(plain: Any) -> tuple[Address, str]:
    address, reason = _few(plain, 2)
    return _address(address), read_text(reason)


def _names(plain: Any) -> tuple[str, str]:
    one, two = _few(plain, 2)
    return read_text(one), read_text(two)


def _tree(plain: Any) -> ModuleTree:
    return ModuleTree(**read_record(plain, _TREE))


def _sites(plain: Any) -> dict[str, Any]:
    return read_record(plain, _SITES)


def _capabilities(plain: Any) -> Capabilities:
    return Capabilities(**read_record(plain, _ABLE))


def _features(plain: Any) -> frozenset[str]:
    return frozenset(map(read_text, read_list(plain)))


_SITES = {
    "sites": tuple_of(read_site, _MANY),
    "same_as": tuple_of(_twins, _MANY),
    "refused": tuple_of(_refusal, _MANY),
    "read_only": tuple_of(_refusal, _MANY),
}
_TREE = {
    "modules": tuple_of(_module, _MANY),
    **_SITES,
    "standard": tuple_of(_names, _MANY),
}
_ABLE = {"engine": read_text, "device": read_text, "features": _features}
_CARD = {
    "name": read_text,
    "architecture": read_text,
    "dtype": read_text,
    "layers": read_whole,
    "parameters": read_whole,
    "context": read_whole,
    "vocab": read_whole,
    "capabilities": _capabilities,
    "tokenizer": _files,
    "tree": _tree,
    "decode": optional(_sites),
}
