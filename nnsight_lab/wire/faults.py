"""Who broke the protocol: the first question a debugger asks, answered by the type.

    ProtocolError
    ├── LocalProtocolError    we did: a method was called when it may not be
    └── RemoteProtocolError   they did: what arrived is not what the protocol allows

Both keep the code of their parent; on the wire there is only one `protocol-error`.
"""

from __future__ import annotations

from nnsight_lab.errors import ProtocolError

__all__ = ["LocalProtocolError", "RemoteProtocolError"]


class LocalProtocolError(ProtocolError):
    """This side did what the protocol does not allow now."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol does not allow."""
