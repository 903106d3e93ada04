"""What is checked before a job is queued: bytes, names, shapes, sizes. A pure function.

Nothing is run and nothing large is allocated: tensors have shapes and no data. What passes here
may still fail while it runs, but it cannot name what the model lacks, call what is not in the
op table, or ask for more than the limits. Runs in a thread beside the event loop (`session.py`).
"""

from __future__ import annotations

from nnsight_lab.contract import Generation, ModelCard, TokenRows
from nnsight_lab.errors import BadBytes, LimitExceeded
from nnsight_lab.ir import Graph
from nnsight_lab.passes import Part, Stages, check_features, check_graph, check_inputs
from nnsight_lab_server.config import ServerLimits

__all__ = ["admit"]

_NAME = 1_024


def admit(
    graph: bytes,
    rows: tuple[tuple[int, ...], ...],
    card: ModelCard,
    limits: ServerLimits,
    generation: Generation | None = None,
) -> tuple[Graph, TokenRows]:
    """The graph and inputs of a job that may be queued.

    Raises:
        LabError: it may not; each reason has its own class.
    """
    inputs = _inputs(TokenRows(rows, generation), card, limits)
    read = Graph.from_bytes(graph, limits=limits.graph)
    _check_names(read)
    check_features(read, card)
    cost = check_graph(read, Stages((Part(inputs, card.tree, card.decode),)), inputs)
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


def _inputs(inputs: TokenRows, card: ModelCard, limits: ServerLimits) -> TokenRows:
    check_inputs(card, inputs)
    if inputs.passes > limits.new_tokens:
        raise LimitExceeded(
            f"{inputs.passes} new tokens; this server makes {limits.new_tokens} in one run.",
            hint="Ask for fewer with max_new_tokens.",
        )
    if inputs.batch > limits.prompts or inputs.pos > limits.prompt_tokens:
        raise LimitExceeded(
            f"{inputs.batch} prompts of up to {inputs.pos} tokens; this server takes"
            f" {limits.prompts} prompts of up to {limits.prompt_tokens}.",
            hint="Send fewer or shorter prompts at a time.",
        )
    tokens = inputs.batch * (inputs.pos + inputs.passes - 1)
    if tokens > limits.batch_tokens:
        raise LimitExceeded(
            f"{tokens} tokens, padding and new ones included;"
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
