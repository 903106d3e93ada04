"""When an invoke may be opened: one prompt after another, none inside another or inside a loop."""

from __future__ import annotations

from typing import Any

from nnsight_lab.errors import GraphError
from nnsight_lab.tracing.places import Places

__all__ = ["check_invoke"]


def check_invoke(places: Places, takes_prompts: bool, prompt: Any, all_rows: bool) -> None:
    """Check that the next invoke may begin here.

    takes_prompts: whether the trace came without a prompt. all_rows: whether the last invoke did.

    Raises:
        GraphError: it may not.
    """
    if not takes_prompts:
        raise GraphError(
            "This trace has its prompt already.", hint="Use model.trace() without a prompt."
        )
    if prompt is not None and all_rows:
        raise GraphError(
            "A prompt cannot follow tracer.invoke() without one.",
            hint="Give all prompts first.",
        )
    if places.steps.now:
        raise GraphError(
            "A prompt cannot be given in a loop over steps.",
            hint="Open the invoke first, and loop inside it.",
        )
    if places.batch:
        raise GraphError(
            "An invoke cannot be inside another.",
            hint="Write them one after another; values go from one to the other.",
        )
