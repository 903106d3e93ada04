"""The models the language is tried on, and a server with the bundled one."""

from tests.server.conftest import lab
from tests.support.fixtures import family, gpt2, llama, lm, tiny

__all__ = ["family", "gpt2", "lab", "llama", "lm", "tiny"]
