"""With what vLLM's model is compared: the whole model on Hugging Face, or a small twin of it.

The whole one says more, so it is taken where it can be held beside vLLM's, and run in reasonable
time: comparing takes some hundred forward passes, on the CPU.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from nnsight_lab_server.vllm.options import VllmOptions

__all__ = ["bytes_of", "chosen", "free_memory"]

_MOST_PARAMETERS = 20e9
"""A larger model takes the better part of an hour to be compared."""
_ROOM = 1.25
"""Beside the weights there are keys, values and what a forward pass holds."""


def chosen(
    options: VllmOptions, parameters: int, weights_bytes: int, *, free_bytes: int, on_gpu: bool
) -> Literal["whole", "twin"]:
    """What the options say, or else the whole model where it is not too big.

    weights_bytes: of the parameters, once. free_bytes: of the machine's memory, not of a GPU.
    """
    if options.compare is not None:
        return options.compare
    copies = 1 if on_gpu else 2  # vLLM's own is in the same memory, or on the GPU
    too_big = copies * weights_bytes * _ROOM > free_bytes or parameters > _MOST_PARAMETERS
    return "twin" if too_big else "whole"


def bytes_of(module: Any) -> tuple[int, int]:
    """How many parameters a module has, and their bytes; those that are shared count once."""
    weights = list(module.parameters())
    return sum(each.numel() for each in weights), sum(each.nbytes for each in weights)


def free_memory() -> int:
    """The bytes of memory that can be had, which is more than what nobody uses."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
