"""Options that `lm.trace` does not have, and what to write instead of each."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from nnsight_lab.errors import BadInput

__all__ = ["check_no_more"]

_INSTEAD = {
    "remote": 'nl.connect(url, token=…).model("name") is the same model on a server; trace that.',
    "input_ids": "Give them as the prompt: lm.trace(ids), or lm.trace(tokens) for lm.trace(**tokens).",
    "inputs_embeds": "Give token ids as the prompt, and write lm.embed.output in the block.",
    "scan": "Shapes are always checked while recording; lm.scan(prompt) gives them and runs nothing.",
    "max_new_tokens": "with lm.generate(prompt, max_new_tokens=n):",
    "trace": "lm.module(ids) is a call of the plain model.",
}
_INSTEAD |= {"attention_mask": _INSTEAD["input_ids"], "validate": _INSTEAD["scan"]}


def check_no_more(verb: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse options that `verb` does not have. Raises `BadInput`."""
    for name in given:
        near = difflib.get_close_matches(name, known, 1)
        meant = f"Did you mean {near[0]}?" if near else f"Options: {', '.join(known)}."
        raise BadInput(f"{verb} has no option {name!r}.", hint=_INSTEAD.get(name, meant))
