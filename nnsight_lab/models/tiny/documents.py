"""What the text generators make: documents to train on, prompts to be examined on.

`is_held_out` is the one rule that keeps the two apart. No vocabulary and no sentences here: each
behaviour has its own file (facts, indirect_object, copying, reviews, stories).
"""

from dataclasses import dataclass
from zlib import crc32

__all__ = ["Document", "Prompt", "is_held_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One training text. `unpredictable` is a prefix of `text` that the loss leaves out."""

    text: str
    unpredictable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text the model never trained on, the continuation it should give, and a rival one."""

    text: str
    answer: str
    rival: str = ""


def is_held_out(key: str, share: float) -> bool:
    """Say whether `key` belongs to the held-out `share`: the same answer on every machine."""
    return crc32(key.encode()) % 10_000 < share * 10_000
