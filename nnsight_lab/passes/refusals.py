"""Places that a model has and this engine does not serve, or serves to be read only; and why.

An engine that computes a model in its own way (vLLM) is compared with Hugging Face when it starts.
What differs is refused by name, when it is recorded and again when a graph arrives.
"""

from __future__ import annotations

from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import Address, ModuleTree

__all__ = ["check_editable", "check_served", "not_served"]

_HINT = "The transformers engine has it; print(model) shows what this engine serves."


def not_served(tree: ModuleTree, address: Address) -> NotSupported | None:
    """The error for a place that this engine does not serve; None for any other."""
    reason = tree.why_refused(address)
    if reason is None:
        return None
    first = Address(address.path, "input", address.call)
    by_itself = address.port == "inputs" and tree.reaches(first)
    hint = f"{first} is the first of them; the transformers engine has all." if by_itself else _HINT
    return NotSupported(f"{address} is not served here: {reason}.", hint=hint)


def check_served(tree: ModuleTree, address: Address) -> None:
    """Raises `NotSupported` for a place that this engine does not serve."""
    error = not_served(tree, address)
    if error is not None:
        raise error


def check_editable(tree: ModuleTree, address: Address) -> None:
    """Raises `NotSupported` for a place that this engine serves to be read only."""
    reason = tree.why_read_only(address)
    if reason is not None:
        raise NotSupported(
            f"{address} can be read here but not edited: {reason}.",
            hint="The transformers engine takes the edit; so does a place further down the model.",
        )
