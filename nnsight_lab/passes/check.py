"""`check_graph`: names, order, shapes and cost of a graph, before anything runs or queues.

The recorder checks as it records; a graph that arrives as bytes is checked here, by the same
rules, on the side that will run it. Nothing is computed: tensors have shapes and no data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nnsight_lab.contract import Inputs, ModelCard, TokenRows
from nnsight_lab.errors import AddressNotFound, BadInput, LabError, NotSupported, ShapeMismatch
from nnsight_lab.ir import (
    Apply,
    Call,
    Constant,
    Gradient,
    Graph,
    ModuleTree,
    Node,
    Read,
    Weight,
    Write,
)
from nnsight_lab.kernels import Unknown, infer_call, to_python
from nnsight_lab.passes.invokes import check_separable, spans_of
from nnsight_lab.passes.schedule import schedule
from nnsight_lab.passes.shapes import (
    bytes_of,
    describe,
    infer_apply,
    meta_of_spec,
    module_path,
    weight_meta,
)
from nnsight_lab.passes.sources import check_sources

__all__ = [
    "GraphCost",
    "check_differentiable",
    "check_fits",
    "check_graph",
    "check_inputs",
    "infer_node",
]


@dataclass(frozen=True, slots=True)
class GraphCost:
    """What running a graph will take, as far as shapes tell.

    saved_bytes: of all outputs. peak_bytes: of all values, if none were dropped.
    """

    saved_bytes: int
    peak_bytes: int


def check_graph(graph: Graph, tree: ModuleTree, inputs: Inputs) -> GraphCost:
    """Check a graph against a model and its inputs.

    Raises:
        AddressNotFound: a read, write or call names what the model does not have.
        WriteTooEarly: a write needs a value of the future.
        ShapeMismatch: an operation or a write does not fit.
        OpNotAllowed: an operation or an argument is not allowed.
    """
    schedule(graph, tree)
    check_sources(graph, tree)
    batch, pos = (inputs.batch, inputs.pos) if isinstance(inputs, TokenRows) else (1, 1)
    spans = spans_of(graph, inputs)
    metas: list[Any] = []
    for node in graph.nodes:
        try:
            size = batch, pos
            if isinstance(node, Read | Write) and node.invoke is not None:
                span = spans[node.invoke]
                size = span.rows, span.pos
                check_separable(tree.by_address[node.address].spec, str(node.address))
            metas.append(infer_node(node, metas, tree, *size))
        except LabError as exc:
            exc.node = node.id
            raise exc.at(node.where)
    saved = sum(bytes_of(metas[output.node]) for output in graph.outputs)
    return GraphCost(saved, sum(map(bytes_of, metas)))


def check_inputs(card: ModelCard, inputs: Inputs) -> None:
    """Check a prompt against what a model takes.

    Raises:
        BadInput: it is empty, too long, or has ids the model does not know.
        NotSupported: this executor takes prompts only, and was given tensors for a module.
    """
    if not isinstance(inputs, TokenRows):
        if "tokens" in card.capabilities.features:
            raise NotSupported(f"{card.name} takes prompts.", hint="Give it text or token ids.")
        return
    if not inputs.rows or not all(inputs.rows):
        raise BadInput("The prompt is empty.", hint="Give the model at least one token.")
    if card.context and inputs.pos > card.context:
        raise BadInput(
            f"The prompt has {inputs.pos} tokens; {card.name} takes {card.context}.",
            hint="Shorten the prompt.",
        )
    high, low = max(map(max, inputs.rows)), min(map(min, inputs.rows))
    if card.vocab and (high >= card.vocab or low < 0):
        bad = low if low < 0 else high
        raise BadInput(
            f"Token id {bad} is not in the vocabulary of {card.name} (0 to {card.vocab - 1}).",
            hint="Use the model's own tokenizer.",
        )


def infer_node(node: Node, metas: list[Any], tree: ModuleTree, batch: int, pos: int) -> Any:
    """The shape of one node's value, given those before it; None for a write."""
    match node:
        case Constant(value=value):
            kind = getattr(torch, value.dtype)
            return torch.empty(value.shape, dtype=kind, device="meta")
        case Read(address=address):
            return meta_of_spec(tree.by_address[address].spec, batch, pos)
        case Write(address=address, value=value):
            site = meta_of_spec(tree.by_address[address].spec, batch, pos)
            check_fits(str(address), site, metas[value])
            return None
        case Call(op=op):
            return infer_call(op, *_python_args(node, metas))
        case Apply(path=path):
            if module_path(tree, path) not in tree.by_path:
                raise AddressNotFound(f"The model has no module {path!r}.")
            args, _ = _python_args(node, metas)
            given = args[0] if args else Unknown()
            return infer_apply(tree, path, given, batch, pos)
        case Weight(path=path, name=name):
            meta = weight_meta(tree, path, name)
            if meta is None:
                raise AddressNotFound(f"The model has no parameter {path}.{name}.")
            return meta
        case Gradient(of=of, at=at):
            check_differentiable(metas[of], metas[at])
            return metas[at]


def check_differentiable(loss: Any, at: Any) -> None:
    """A gradient is of one real number, with respect to real numbers.

    Raises:
        ShapeMismatch: it is not.
    """
    if isinstance(loss, torch.Tensor) and (loss.numel() != 1 or not loss.is_floating_point()):
        raise ShapeMismatch(
            f"A gradient is of a single number, not of {describe(loss)}.",
            hint="Sum or index it first: logits[0, -1, token].backward().",
        )
    if not isinstance(at, torch.Tensor | Unknown) or (
        isinstance(at, torch.Tensor) and not at.is_floating_point()
    ):
        raise ShapeMismatch(
            f"There is no gradient with respect to {describe(at)}.",
            hint="Take it at a tensor of floating-point numbers.",
        )


def _python_args(node: Call | Apply, metas: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args = tuple(to_python(arg, metas.__getitem__) for arg in node.args)
    return args, {key: to_python(arg, metas.__getitem__) for key, arg in node.kwargs}


def check_fits(place: str, site: Any, value: Any) -> None:
    """A write must have the shape and dtype of what it replaces.

    Raises:
        ShapeMismatch: it has not.
    """
    if isinstance(site, Unknown) or isinstance(value, Unknown):
        return
    if isinstance(site, torch.Tensor) and isinstance(value, torch.Tensor):
        if site.shape == value.shape and site.dtype == value.dtype:
            return
    elif type(site) is type(value) and _same_keys(site, value):
        keys = site if isinstance(site, dict) else range(len(site))
        for key in keys:
            check_fits(f"{place}[{key!r}]", site[key], value[key])
        return
    raise ShapeMismatch(
        f"{place} holds {describe(site)}; {describe(value)} cannot replace it.",
        hint="Write part of it by index, or reshape and cast the value first.",
    )


def _same_keys(site: Any, value: Any) -> bool:
    if isinstance(site, dict):
        return set(site) == set(value)
    return isinstance(site, tuple | list) and len(site) == len(value)
