"""What a model, its modules and its edited copies have in common: the block that is open on them.

A block belongs to one model of the package's own, here or on a server. Which one is known only
when the block opens, so an envoy asks here each time.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsight_lab.models.traced import TracedModel

__all__ = ["Opened", "Shared"]

_open: ContextVar[tuple[Opened, ...]] = ContextVar("open_compat_blocks", default=())


@dataclass
class Opened:
    """One open block: the model it records on, and the tracer of the package's own.

    ahead: by how many steps `module.next()` has gone on, by module path; `None` is the whole model.
    """

    shared: Shared
    model: TracedModel
    tracer: Any
    ahead: dict[str | None, int] = field(default_factory=dict)

    def step(self, where: str) -> int:
        """The step of a generation that a place of this module means."""
        return self.ahead.get(None, 0) + self.ahead.get(where, 0)


class Shared:
    """The identity of a model: copies with edits have the same."""

    def opened(self) -> Opened | None:
        """The innermost block open on this model in this thread, or None."""
        return next((one for one in reversed(_open.get()) if one.shared is self), None)

    def open(self, model: TracedModel, tracer: Any) -> Token[tuple[Opened, ...]]:
        """Note that a block is open; `close` takes what this gives."""
        return _open.set((*_open.get(), Opened(self, model, tracer)))

    def close(self, token: Token[tuple[Opened, ...]]) -> None:
        """The block has ended."""
        _open.reset(token)
