"""The models this room tests with."""

from tests.support.fixtures import family, gpt2, llama, lm, tiny

__all__ = ["family", "gpt2", "llama", "lm", "tiny"]
