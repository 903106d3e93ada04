"""What nnsight has and this module has not: each name with what to write instead."""

from __future__ import annotations

import difflib

from nnsight_lab.errors import NotSupported
from nnsight_lab.tracing.source import user_line

__all__ = ["INSTEAD", "NAMES", "not_here", "without"]

INSTEAD = {
    "VLLM": "Ask for the model on a lab's server: nl.connect(url).model(name).",
    "VisionLanguageModel": "nl.wrap(module) traces any torch module, images and all.",
    "DiffusionModel": "nl.wrap(module) traces any torch module, such as the pipeline's unet.",
    "Object": "A recorded value acts as the torch.Tensor it will be.",
    "compare": "A graph names its schema; a server that does not know it says so.",
    "register": "Write what the function does with torch inside the block; code is never sent.",
    "session": "with model.session(): groups traces into one run.",
    "iter": "for step in tracer.iter[:]: goes over the steps of a generation.",
    "stop": "tracer.stop() ends the model's part of a block.",
    "barrier": "tracer.barrier(n) is there; no block needs one.",
    "trace": "with model.trace(prompt): records a block.",
    "local": "nl.local_fn(f)(value) calls a Python function on real tensors, locally.",
    "whoami": "nnsight.status() lists what the server has for this key.",
    "eproperty": "A function of a recorded value does the same: def heads(h): return h.unflatten(…).",
}
"""Names of the module, and the next step for each."""

NAMES = (
    "CONFIG Envoy LanguageModel NNsight TransformersModel apply cond is_model_running log login"
    " save status"
).split()
"""Names that are here, offered where a name is nearly one of them."""


def not_here(name: str) -> NotSupported:
    """The refusal of a name of the module."""
    near = difflib.get_close_matches(name, NAMES, 1, 0.7)
    hint = INSTEAD.get(name) or (
        f"Did you mean nnsight.{near[0]}?"
        if near
        else "docs/reference/compat.md lists what is here."
    )
    return NotSupported(f"nnsight_lab.compat has no {name!r}.", hint=hint).at(user_line())


def without(what: str, hint: str) -> NotSupported:
    """The refusal of a verb or an option."""
    return NotSupported(f"{what} is not part of nnsight_lab.", hint=hint).at(user_line())
