"""From a certificate to what the vLLM engine serves: its card, and a form for every address in it.

    card = served_card(card_of_hugging_face, certificate)
    forms = served_forms(card, certificate)

The tree is that of Hugging Face without the addresses that did not hold; those stay in
`tree.refused`, with the measured difference. Moments follow the order of vLLM's points, and within
one point that of Hugging Face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nnsight_lab.contract import ModelCard
from nnsight_lab.ir import MOMENTS_APART, Address, ModuleTree, Site, SizeForm
from nnsight_lab_server.vllm.certificate import Certificate
from nnsight_lab_server.vllm.forms import Form, tensor_spec_of
from nnsight_lab_server.vllm.reference import canonical

__all__ = ["served_card", "served_forms", "served_tree"]

_NEW_ONLY = "after the first step of a generation vLLM's pass holds the new token's only"


def served_card(card: ModelCard, certificate: Certificate) -> ModelCard:
    """The card of Hugging Face's model, with what vLLM does as well."""
    decode = None
    if card.decode is not None:
        decode = served_tree(card.decode, _of_steps(card.decode, certificate))
    return replace(card, tree=served_tree(card.tree, certificate), decode=decode)


def served_forms(card: ModelCard, certificate: Certificate) -> dict[Address, Form]:
    """Where each address of a served card is, under whichever of its names."""
    trees = [tree for tree in (card.decode, card.tree) if tree is not None]
    return {
        address: replace(certificate.forms[canonical(tree, address)], address=address)
        for tree in trees
        for address in tree.by_address
    }


def served_tree(tree: ModuleTree, certificate: Certificate) -> ModuleTree:
    """A module tree of Hugging Face, as vLLM serves it."""
    forms = certificate.forms
    kept = [site for site in tree.sites if canonical(tree, site.address) in forms]
    moments = _moments(tree, kept, certificate)
    sites = [replace(site, moment=moments[site.address]) for site in kept]
    known = {site.address for site in sites}
    return replace(
        tree,
        sites=tuple(sorted(sites, key=lambda site: (site.moment, site.address))),
        same_as=tuple(pair for pair in tree.same_as if known.issuperset(pair)),
        refused=_said_of(tree, certificate.refused),
        read_only=_said_of(tree, certificate.read_only),
    )


def _of_steps(tree: ModuleTree, certificate: Certificate) -> Certificate:
    """A certificate without what spans the whole text, which vLLM does not hold at further steps.

    Keys and values are the whole text's on Hugging Face; in vLLM the step has the new token's.
    """
    whole = {canonical(tree, site.address) for site in tree.sites if _spans_text(site)}
    entries = [
        replace(entry, readable=False, writable=False, reason=_NEW_ONLY)
        if entry.address in whole and entry.form is not None and entry.form.kind == "rows"
        else entry
        for entry in certificate.entries
    ]
    return replace(certificate, entries=tuple(entries))


def _spans_text(site: Site) -> bool:
    spec = tensor_spec_of(site.spec)
    return spec is not None and any(dim.form is SizeForm.POS for dim in spec.dims)


def _moments(tree: ModuleTree, kept: list[Site], certificate: Certificate) -> dict[Address, int]:
    order = {point: number for number, point in enumerate(certificate.points)}
    keys = {
        site.address: (
            order[certificate.forms[canonical(tree, site.address)].point],
            site.moment,
        )
        for site in kept
    }
    number = {key: place for place, key in enumerate(sorted(set(keys.values())))}
    return {address: number[key] * MOMENTS_APART for address, key in keys.items()}


def _said_of(tree: ModuleTree, reasons: Mapping[Address, str]) -> tuple[tuple[Address, str], ...]:
    """What is said of an address is said of it under all its names."""
    said = ((address, canonical(tree, address)) for address in tree.by_address)
    return tuple(sorted((address, reasons[one]) for address, one in said if one in reasons))
