"""`check_graph`: names, order, shapes and cost of a graph, before anything runs or queues.

The recorder checks as it records; a graph that arrives as bytes is checked here, by the same
rules, on the side that will run it. Nothing is computed: tensors have shapes and no data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from nnsight_lab.contract import Inputs, ModelCard, Several, TokenRows
from nnsight_lab.errors import AddressNotFound, BadInput, LabError, NotSupported, ShapeMismatch
from nnsight_lab.ir import (
    RESULT,
    Apply,
    Call,
    Cond,
    Constant,
    Foreach,
    Gradient,
    GradientWrite,
    Graph,
    LocalCall,
    ModuleTree,
    Node,
    Read,
    Skip,
    Weight,
    While,
    Write,
)
from nnsight_lab.kernels import Unknown, infer_call, to_python
from nnsight_lab.passes.blocks import BlockShapes
from nnsight_lab.passes.generation import check_generation, check_in_generation
from nnsight_lab.passes.invokes import check_separable
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
from nnsight_lab.passes.stages import Part, Stages

Surroundings: TypeAlias = tuple[ModuleTree, int, int]
"""The module tree a node belongs to, and how many rows and positions there are."""

__all__ = [
    "Surroundings",
    "GraphCost",
    "check_differentiable",
    "check_fits",
    "check_graph",
    "check_inputs",
    "infer_node",
    "shapes_of",
]


@dataclass(frozen=True, slots=True)
class GraphCost:
    """What running a graph will take, as far as shapes tell.

    saved_bytes: of all outputs. peak_bytes: of all values, if none were dropped.
    """

    saved_bytes: int
    peak_bytes: int


def check_graph(graph: Graph, stages: ModuleTree | Stages, inputs: Inputs) -> GraphCost:
    """Check a graph against the forward passes of a run; a module tree alone stands for one.

    Raises:
        BadInput: a node names a step or rows that the run does not have.
        AddressNotFound: a read, write or call names what the model does not have.
        WriteTooEarly: a write needs a value of the future.
        ShapeMismatch: an operation or a write does not fit.
        OpNotAllowed: an operation or an argument is not allowed.
        NotSupported: it asks for something that a generation has not.
    """
    if not isinstance(stages, Stages):
        assert not isinstance(inputs, Several), "several traces have several trees"
        stages = Stages((Part(inputs, stages),))
    schedule(graph, stages)
    check_sources(graph, stages.at(0).tree)

    def surroundings(node: Node) -> Surroundings:
        check_in_generation(node, stages)
        return _where(graph, node, stages)

    metas, inside = shapes_of(graph, surroundings)
    saved = sum(bytes_of(metas[output.node]) for output in graph.outputs)
    return GraphCost(saved, sum(map(bytes_of, metas)) + inside)


def shapes_of(graph: Graph, surroundings: Callable[[Node], Surroundings]) -> tuple[list[Any], int]:
    """The shape of each node's value, None for a write; and the bytes inside branches and loops.

    Raises:
        LabError: a node does not fit; the error has its line.
    """
    metas: list[Any] = []
    around: list[Surroundings] = []
    blocks = BlockShapes(lambda node, known: infer_node(node, known, *around[-1]))
    for node in graph.nodes:
        try:
            around.append(surroundings(node))
            if isinstance(node, Cond | Foreach | While):
                metas.append(blocks.region(node, metas))
            else:
                metas.append(infer_node(node, metas, *around[-1]))
        except LabError as exc:
            exc.node = node.id
            raise exc.at(node.where)
    return metas, blocks.bytes


def _where(graph: Graph, node: Node, stages: Stages) -> Surroundings:
    """The tree that a node belongs to, and the size of the batch there, or of its invoke."""
    if isinstance(node, Skip):
        stage = stages.at(node.step)
        return stage.tree, stage.batch, stage.pos
    if not isinstance(node, Read | Write):
        stage = stages.at(0)
        return stage.tree, stage.batch, stage.pos
    stage = stages.at(node.step)
    if node.invoke is None:
        return stage.tree, stage.batch, stage.pos
    span = stages.spans(graph, node.step).get(node.invoke)
    if span is None:
        raise BadInput(
            f"Invoke {node.invoke} has no rows at step {node.step}.",
            hint="An invoke belongs to the trace it was opened in.",
        )
    if node.address != RESULT:
        check_separable(stage.tree.by_address[node.address].spec, str(node.address))
    return stage.tree, span.rows, span.pos


def check_inputs(card: ModelCard, inputs: Inputs) -> None:
    """Check a prompt against what a model takes.

    Raises:
        BadInput: it is empty, too long, or has ids the model does not know.
        NotSupported: this executor takes prompts only, and was given tensors for a module.
    """
    if isinstance(inputs, Several):
        for part in inputs.parts:
            check_inputs(card, part)
        return
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
    if inputs.generation is not None:
        check_generation(card, inputs, inputs.generation)
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
        case Write(address=address, value=value) | Skip(address=address, value=value):
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
        case GradientWrite(of=of, at=at, value=value):
            check_differentiable(metas[of], metas[at])
            check_fits("The gradient", metas[at], metas[value])
            return None
        case LocalCall():
            return Unknown()
        case _:
            raise NotSupported(f"A {type(node).__name__} cannot be run here yet.")


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
