"""What a generation may be asked: its options, and what no graph can do while one runs."""

from __future__ import annotations

import math

from nnsight_lab.contract import MOST_STOP_IDS, Generation, ModelCard, TokenRows
from nnsight_lab.errors import BadInput, LabError, NotSupported, OpNotAllowed
from nnsight_lab.ir import RESULT, Address, Node, Write
from nnsight_lab.passes.stages import Stages

__all__ = ["check_generation", "check_in_generation", "no_gradient", "refused_edit"]


def check_generation(card: ModelCard, inputs: TokenRows, options: Generation) -> None:
    """Check the options of a generation against the model.

    Raises:
        NotSupported: the model cannot go on from a cache.
        BadInput: an option has a value it cannot have, or the text would grow too long.
    """
    if card.decode is None:
        raise NotSupported(
            f"{card.name} cannot generate step by step: it keeps no cache of keys and values.",
            hint="Trace the prompt together with what was generated so far, in a loop.",
        )
    seed = options.seed
    count, t, top_k, top_p = (
        options.max_new_tokens, options.temperature, options.top_k, options.top_p
    )  # fmt: skip
    _check(_whole(count, 1), "max_new_tokens", count, "a whole number from 1")
    _check(_number(t) and 0 <= t < math.inf, "temperature", t, "a number from 0")
    _check(top_k is None or _whole(top_k, 1), "top_k", top_k, "a whole number from 1")
    share = top_p is None or (_number(top_p) and 0 < top_p <= 1)
    _check(share, "top_p", top_p, "a number over 0, up to 1")
    _check(seed is None or (_whole(seed, 0) and seed < 2**63), "seed", seed, "a number from 0")
    ids = options.stop_ids or ()
    if len(ids) > MOST_STOP_IDS:
        raise BadInput(
            f"{len(ids)} ids are to end a row; {MOST_STOP_IDS} may.",
            hint="Give fewer as eos_token_id, or generate and cut the result.",
        )
    for id in ids:
        good = _whole(id, 0) and (not card.vocab or id < card.vocab)
        _check(good, "eos_token_id", id, "ids of the model's tokens")
    end = inputs.pos + count - 1
    if card.context and end > card.context:
        raise BadInput(
            f"{inputs.pos} tokens of prompt and {count} new ones; {card.name} takes {card.context}.",
            hint=f"Ask for at most {card.context - inputs.pos + 1} new tokens.",
        )


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(good: bool, name: str, value: object, what: str) -> None:
    if not good:
        raise BadInput(f"{name} cannot be {value!r}.", hint=f"It is {what}.")


def check_in_generation(node: Node, stages: Stages) -> None:
    """Refuse what cannot be part of a generation.

    Raises:
        NotSupported: an edit of keys or values.
        OpNotAllowed: an edit of the result.
    """
    if isinstance(node, Write) and stages.parts[stages.at(node.step).part].generates:
        refused = refused_edit(node.address)
        if refused is not None:
            raise refused


def no_gradient() -> NotSupported:
    """The error for a backward pass in a generation."""
    return NotSupported(
        "There are no gradients in a generation.",
        hint="Trace the prompt and the generated ids with lm.trace, and go back there.",
    )


def refused_edit(address: Address) -> LabError | None:
    """The error for an edit that a generation cannot take, or None."""
    if address == RESULT:
        return OpNotAllowed("The result of a generation is read.", hint="Edit lm.tokens at a step.")
    if address.port in ("k", "v"):
        return NotSupported(
            f"{address} cannot be edited in a generation: the cache holds the unedited one.",
            hint="Edit the pattern, z, or the module that computes it, by its module path.",
        )
    return None
