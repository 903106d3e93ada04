"""Random models that are the same in every process, with the bundled tokenizer: for programs
that run under this package and under nnsight itself. Imports neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

__all__ = ["FRANCE", "ITALY", "TOKENIZER", "gpt2", "ids", "llama", "mlp", "tokenizer"]

TOKENIZER = Path(__file__).parents[2] / "nnsight_lab" / "models" / "tiny" / "weights"


FRANCE = "The capital of France is"
ITALY = "The capital of Italy is"


def tokenizer() -> Any:
    """The bundled tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TOKENIZER, local_files_only=True)


def gpt2() -> Any:
    """Three layers of GPT-2; learned positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer()),
        n_positions=64,
        n_embd=32,
        n_layer=3,
        n_head=4,
        initializer_range=0.3,
        attn_implementation="eager",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return GPT2LMHeadModel(config).eval()


def llama() -> Any:
    """Three layers of Llama; rotary positions, grouped heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        max_position_embeddings=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        attn_implementation="eager",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def mlp() -> Any:
    """A module that is no language model."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


def ids(text: str = FRANCE) -> list[list[int]]:
    """A prompt as one row of ids."""
    return [list(tokenizer()(text)["input_ids"])]
