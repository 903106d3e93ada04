"""What nnsight's `trace`, `generate` and `invoke` are given, as what the package's own take."""

from __future__ import annotations

from typing import Any

import torch

from nnsight_lab.compat.elsewhere import without

__all__ = ["generation_options", "prompt_of"]

_FIELDS = ("input_ids", "attention_mask", "token_type_ids")
_WITHOUT_EFFECT = ("pad_token_id", "use_cache", "scan", "validate", "verbose", "return_dict")
_MOST = 2**31 - 1


def prompt_of(inputs: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """`{"prompt": …}`, or nothing where there is none. Takes what it uses out of `named`."""
    fields = {name: named.pop(name) for name in _FIELDS if named.get(name) is not None}
    if "input" in named:
        inputs = (*inputs, named.pop("input"))
    for name in _WITHOUT_EFFECT:
        named.pop(name, None)
    if named:
        raise without(
            f"The model input {next(iter(named))!r}",
            "Give text, token ids, or a tokenizer's output.",
        )
    if fields:
        if inputs:
            fields.setdefault("input_ids", inputs[0])
        return {"prompt": fields}
    if not inputs:
        return {}
    if len(inputs) > 1:
        return {"prompt": list(inputs)}
    return {"prompt": inputs[0]}


def generation_options(named: dict[str, Any]) -> dict[str, Any]:
    """The options of a generation, taken out of `named`.

    Sampling draws its seed from torch, so that `torch.manual_seed` makes it repeat itself.
    """
    names = "max_new_tokens do_sample temperature top_k top_p seed eos_token_id".split()
    found = {name: named.pop(name) for name in names if named.get(name) is not None}
    if named.pop("min_new_tokens", None) == found.get("max_new_tokens", 0):
        found["eos_token_id"] = []
    if found.get("do_sample") is False:
        for name in ("temperature", "top_k", "top_p"):
            found.pop(name, None)
    if found.get("do_sample") and "seed" not in found:
        found["seed"] = int(torch.randint(_MOST, ()))
    return found
