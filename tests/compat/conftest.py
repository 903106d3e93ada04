"""The server that `remote=True` goes to."""

from tests.server.conftest import lab

__all__ = ["lab"]
