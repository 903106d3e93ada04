"""What is checked before a job is queued: bytes, names, shapes, sizes. A pure function.

Nothing is run and nothing large is allocated: tensors have shapes and no data. What passes here
may still fail while it runs, but it cannot name what the model lacks, call what is not in the
op table, or ask for more than the limits. Runs in a thread beside the event loop (`session.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nnsight_lab.contract import ModelCard, Several, TokenRows
from nnsight_lab.errors import BadBytes, BadInput, LimitExceeded
from nnsight_lab.ir import Graph, ModuleSource, TensorData
from nnsight_lab.passes import (
    Part,
    Stages,
    check_features,
    check_graph,
    check_inputs,
    paths_with_source,
    tree_for_graph,
)
from nnsight_lab_server.config import ServerLimits

__all__ = ["admit"]

_NAME = 1_024
_SOURCES = 1_024


def admit(
    graph: bytes,
    parts: tuple[TokenRows, ...],
    card: ModelCard,
    limits: ServerLimits,
    source_of: Callable[[str], ModuleSource],
    blobs: Mapping[str, TensorData] | None = None,
    also: Callable[[Graph, Stages], None] | None = None,
) -> tuple[Graph, TokenRows | Several]:
    """The graph and inputs of a job that may be queued.

    parts: what its traces are given, one after another. blobs: constants that came beside it.
    source_of: gives the operations inside a module, for graphs that name some.
    also: what the engine checks by itself.

    Raises:
        LabError: it may not; each reason has its own class.
    """
    inputs = _inputs(parts, card, limits)
    read = Graph.from_bytes(graph, limits=limits.graph, blobs=blobs)
    _check_names(read)
    check_features(read, card)
    if len(paths_with_source(read)) > _SOURCES:
        raise LimitExceeded(
            f"A graph may look inside {_SOURCES} modules.", hint="Look inside fewer at a time."
        )
    tree = tree_for_graph(read, card.tree, source_of)
    stages = Stages(tuple(Part(part, tree, card.decode) for part in parts))
    cost = check_graph(read, stages, inputs)
    if cost.saved_bytes > limits.saved_bytes:
        raise LimitExceeded(
            f"The run would save {cost.saved_bytes} bytes; {limits.saved_bytes} may be sent back.",
            hint="Save less at a time: one position instead of all, or fewer prompts.",
        )
    if cost.peak_bytes > limits.working_bytes:
        raise LimitExceeded(
            f"The values of the run take {cost.peak_bytes} bytes; {limits.working_bytes} may be.",
            hint="Use fewer prompts at a time, or smaller intermediate values.",
        )
    if also is not None:
        also(read, stages)
    return read, inputs


def _inputs(
    parts: tuple[TokenRows, ...], card: ModelCard, limits: ServerLimits
) -> TokenRows | Several:
    if not parts:
        raise BadInput("A run without a prompt.", hint="Give it one prompt at least.")
    inputs = parts[0] if len(parts) == 1 else Several(parts)
    check_inputs(card, inputs)
    passes = sum(part.passes for part in parts)
    if passes > limits.new_tokens:
        raise LimitExceeded(
            f"{passes} forward passes; this server makes {limits.new_tokens} in one run.",
            hint="Ask for fewer with max_new_tokens, or for fewer traces in a session.",
        )
    _check_size(parts, limits)
    return inputs


def _check_size(parts: tuple[TokenRows, ...], limits: ServerLimits) -> None:
    """Whether all traces of a job together are of a size that is served."""
    prompts, longest = sum(part.batch for part in parts), max(part.pos for part in parts)
    if prompts > limits.prompts or longest > limits.prompt_tokens:
        raise LimitExceeded(
            f"{prompts} prompts of up to {longest} tokens; this server takes"
            f" {limits.prompts} prompts of up to {limits.prompt_tokens}.",
            hint="Send fewer or shorter prompts at a time.",
        )
    tokens = sum(part.batch * (part.pos + part.passes - 1) for part in parts)
    if tokens > limits.batch_tokens:
        raise LimitExceeded(
            f"{tokens} tokens, padding and new ones included;"
            f" this server takes {limits.batch_tokens}.",
            hint="Send fewer or shorter prompts at a time, or fewer traces in a session.",
        )


def _check_names(graph: Graph) -> None:
    for output in graph.outputs:
        try:
            size = len(output.name.encode())
        except UnicodeEncodeError as exc:
            hint = "Save under a name of letters, digits and underscores."
            raise BadBytes("The name of a saved value is not text.", hint=hint) from exc
        if size > _NAME:
            raise LimitExceeded(f"A saved value has a name of {size} bytes; {_NAME} may be used.")
