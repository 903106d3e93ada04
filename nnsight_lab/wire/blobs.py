"""What a server keeps of the large constants it was sent, so that none travels twice.

Every owner sees its own constants only: knowing a digest gives nobody what another has sent, nor
the knowledge that it was sent. All owners together never hold more than `most` bytes, counted
before anything arrives. What an unfinished job needs is pinned; of the rest, what was used
longest ago goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeAlias

from nnsight_lab.errors import LimitExceeded
from nnsight_lab.ir import TensorData

__all__ = ["BlobStore"]

_ENVELOPE = 4_096
"""What an entry costs beside its bytes, so that very many small ones are bounded too."""

_Key: TypeAlias = tuple[Hashable, str]


@dataclass(eq=False, slots=True)
class _Entry:
    """A constant that is here, or (without `data`) is expected."""

    cost: int
    pins: int = 0
    data: TensorData | None = None


class BlobStore:
    """Constants by owner and digest. Used by all connections of a server, on one thread.

    used: bytes held or promised, never more than `most`.
    """

    def __init__(self, most: int = 8 * 2**30) -> None:
        self.most = most
        self.used = 0
        self._held = 0
        self._pinned: dict[_Key, _Entry] = {}
        self._free: OrderedDict[_Key, _Entry] = OrderedDict()

    def pin(self, owner: Hashable, digest: str, size: int) -> TensorData | None:
        """Keep a constant until `unpin`; None when its bytes have yet to come.

        Raises:
            LimitExceeded: unfinished jobs hold so much that it has no room.
        """
        key = (owner, digest)
        entry = self._pinned.get(key)
        if entry is None:
            entry = self._free.pop(key, None) or self._expected(size)
            self._held += entry.cost
            self._pinned[key] = entry
        entry.pins += 1
        return entry.data

    def _expected(self, size: int) -> _Entry:
        entry = _Entry(size + _ENVELOPE)
        if self._held + entry.cost > self.most:
            raise LimitExceeded(
                f"The server has no room for a constant of {size} bytes now.",
                hint="Try again when other runs have ended, or use a smaller constant.",
            )
        while self.used + entry.cost > self.most:
            _, old = self._free.popitem(last=False)
            self.used -= old.cost
        self.used += entry.cost
        return entry

    def fill(self, owner: Hashable, digest: str, data: TensorData) -> None:
        """The bytes of a pinned constant have come, and are what its digest says."""
        self._pinned[owner, digest].data = data

    def unpin(self, owner: Hashable, digest: str) -> None:
        """One job less needs it. What never came is forgotten with the last of them."""
        key = (owner, digest)
        entry = self._pinned[key]
        entry.pins -= 1
        if entry.pins:
            return
        del self._pinned[key]
        self._held -= entry.cost
        if entry.data is None:
            self.used -= entry.cost
        else:
            self._free[key] = entry

    def forget(self, owner: Hashable) -> None:
        """An owner is gone, and with it all it sent."""
        for key in [key for key in self._pinned if key[0] == owner]:
            entry = self._pinned.pop(key)
            self._held -= entry.cost
            self.used -= entry.cost
        for key in [key for key in self._free if key[0] == owner]:
            self.used -= self._free.pop(key).cost
