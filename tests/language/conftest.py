"""The models these pages run on, a server with the bundled one, and the three ways to run."""

from tests.server.conftest import lab
from tests.support.anywhere import anywhere
from tests.support.fixtures import family, gpt2, llama, lm, tiny

__all__ = ["anywhere", "family", "gpt2", "lab", "llama", "lm", "tiny"]
