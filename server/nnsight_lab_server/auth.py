"""Who may come in: one shared token, sent as a bearer header, compared in constant time.

The token itself is not kept, only its digest, so it can reach neither a log nor an error. It is
read from the `Authorization` header alone: a browser cannot forge that from another site, and
unlike an address it is written down nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping

__all__ = ["TokenAuth", "new_token"]

_LONGEST = 4_096


def new_token() -> str:
    """A token nobody can guess, fit for a command line and a notebook."""
    return secrets.token_urlsafe(24)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class TokenAuth:
    """Lets in whoever shows the token."""

    def __init__(self, token: str) -> None:
        if not token.strip() or len(token) > _LONGEST:
            raise ValueError("a token is 1 to 4096 characters, not all blank")
        self._expected = _digest(token)

    def __repr__(self) -> str:
        return "TokenAuth(<hidden>)"

    def allows(self, headers: Mapping[str, str]) -> bool:
        """Whether these request headers carry the token."""
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        # Digests have one length, so the time tells nothing about the token.
        same = hmac.compare_digest(_digest(shown[:_LONGEST].strip()), self._expected)
        return same and scheme.lower() == "bearer"
