"""Stages of a pipeline: workers that have some of the layers each, one after another.

A stage hands on the rows that the graph reads there, so that a later one has all that came before
it; the last has everything, evaluates the whole graph and speaks to the server. An earlier stage
evaluates only what its own edits need. What it would need of a later one cannot be had in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import Address, Apply, Graph, NodeId, Read, Skip, Write
from nnsight_lab.ir.nodes import dependencies
from nnsight_lab.passes import Stages
from nnsight_lab.passes.live import live_ids
from nnsight_lab_server.vllm.forms import Form

__all__ = ["check_pipeline", "own_edits"]

_Forms = Mapping[Address, Form]


def _stage_of(node: Read | Write | Skip, forms: _Forms, last: int) -> int:
    form = forms.get(node.address)
    return last if form is None else form.stage


def own_edits(graph: Graph, forms: _Forms, stage: int) -> Graph:
    """The edits that a stage makes itself, and what they need."""
    edits = {
        node.id
        for node in graph.nodes
        if isinstance(node, Write | Skip) and _stage_of(node, forms, -1) == stage
    }
    others = [node.id for node in graph.nodes if isinstance(node, Write | Skip)]
    kept = {node.id for node in graph.nodes} - (set(others) - edits)
    own = replace(graph, outputs=()).renumbered(kept)
    return own.renumbered(live_ids(own))


def check_pipeline(graph: Graph, stages: Stages, forms: _Forms, last: int) -> None:
    """Check that no stage needs what a later one computes.

    last: the number of the last stage.

    Raises:
        NotSupported: an edit does, or is one of several texts that grow side by side.
    """
    needed: dict[NodeId, int] = {}
    for node in graph.nodes:
        below = max((needed.get(other, 0) for other in dependencies(node)), default=0)
        match node:
            case Read():
                needed[node.id] = _stage_of(node, forms, last)
            case Apply():
                needed[node.id] = last
            case Write() | Skip():
                here = _stage_of(node, forms, last)
                if below > here:
                    raise NotSupported(
                        f"{node.address} is in stage {here} of the pipeline that runs this model,"
                        f" and its edit needs a value of stage {below}, which comes later.",
                        hint="Save the value in one run and edit with it in a second one, or run"
                        " it on the transformers engine.",
                        node=node.id,
                    ).at(node.where)
                if here < last and _grows_beside_others(graph, node, stages):
                    raise NotSupported(
                        "A pipeline edits the steps of one text at a time.",
                        hint="Generate from each prompt in a run of its own.",
                        node=node.id,
                    ).at(node.where)
            case _:
                needed[node.id] = below


def _grows_beside_others(graph: Graph, node: Write | Skip, stages: Stages) -> bool:
    """Whether a text other than the node's may end before it does."""
    stage = stages.at(node.step)
    return stage.first < node.step and len(stages.spans(graph, node.step)) > 1
