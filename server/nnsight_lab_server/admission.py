"""What is checked before a job is queued: bytes, names, shapes, sizes. A pure function.

Nothing is run and nothing large is allocated: tensors have shapes and no data. What passes here
may still fail while it runs, but it cannot name what the model lacks, call what is not in the
op table, or ask for more than the limits. Runs in a thread beside the event loop (`session.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from nnsight_lab.contract import ModelCard, TokenRows
from nnsight_lab.errors import BadBytes, LimitExceeded
from nnsight_lab.ir import Graph, ModuleSource
from nnsight_lab.passes import check_graph, check_inputs, paths_with_source, tree_for_graph
from nnsight_lab_server.config import ServerLimits

__all__ = ["admit"]

_NAME = 1_024
_SOURCES = 1_024


def admit(
    graph: bytes,
    rows: tuple[tuple[int, ...], ...],
    card: ModelCard,
    limits: ServerLimits,
    source_of: Callable[[str], ModuleSource],
) -> tuple[Graph, TokenRows]:
    """The graph and inputs of a job that may be queued.

    source_of: gives the operations inside a module, for graphs that name some.

    Raises:
        LabError: it may not; each reason has its own class.
    """
    inputs = _inputs(rows, card, limits)
    read = Graph.from_bytes(graph, limits=limits.graph)
    _check_names(read)
    if len(paths_with_source(read)) > _SOURCES:
        raise LimitExceeded(f"A graph may look inside {_SOURCES} modules.")
    cost = check_graph(read, tree_for_graph(read, card.tree, source_of), inputs)
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
    return read, inputs


def _inputs(rows: tuple[tuple[int, ...], ...], card: ModelCard, limits: ServerLimits) -> TokenRows:
    inputs = TokenRows(rows)
    check_inputs(card, inputs)
    if inputs.batch > limits.prompts or inputs.pos > limits.prompt_tokens:
        raise LimitExceeded(
            f"{inputs.batch} prompts of up to {inputs.pos} tokens; this server takes"
            f" {limits.prompts} prompts of up to {limits.prompt_tokens}.",
            hint="Send fewer or shorter prompts at a time.",
        )
    if inputs.batch * inputs.pos > limits.batch_tokens:
        raise LimitExceeded(
            f"{inputs.batch * inputs.pos} tokens, padding included;"
            f" this server takes {limits.batch_tokens}.",
            hint="Send fewer or shorter prompts at a time.",
        )
    return inputs


def _check_names(graph: Graph) -> None:
    for output in graph.outputs:
        try:
            size = len(output.name.encode())
        except UnicodeEncodeError as exc:
            hint = "Save under a name of letters, digits and underscores."
            raise BadBytes("The name of a saved value is not text.", hint=hint) from exc
        if size > _NAME:
            raise LimitExceeded(f"A saved value has a name of {size} bytes; {_NAME} may be used.")
