"""Models to explore, and what plain hooks and plain arithmetic say about them."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers

import nnsight_lab as nl
from tests.support.hooks import eager_patterns

__all__ = ["head_scores", "patterns_of", "plain", "random_gpt2", "stream_seen", "told"]


def random_gpt2(layers: int = 12, heads: int = 12, width: int = 96, positions: int = 1024) -> Any:
    """A GPT-2 with random weights, large enough that heads differ; no tokenizer."""
    torch.manual_seed(5)
    config = transformers.GPT2Config(
        n_layer=layers, n_head=heads, n_embd=width, n_positions=positions, vocab_size=211,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    module = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for block in module.transformer.h:
            block.attn.c_attn.weight.mul_(20)
    return module


def told(view: Any, **wanted: Any) -> list[Any]:
    """All that a view tells when it is asked once."""
    sheets: list[Any] = []
    view.ask(wanted, sheets.append)
    return sheets


def plain(lm: nl.LanguageModel) -> Any:
    """The torch module of a local model."""
    executor: Any = lm.executor
    return executor.module


def patterns_of(lm: nl.LanguageModel, ids: list[int]) -> list[torch.Tensor]:
    """`[head, query, key]` of each layer, by the model's own eager attention."""
    return [pattern[0] for pattern in eager_patterns(plain(lm), [ids])]


def head_scores(pattern: torch.Tensor, ids: list[int]) -> list[list[float]]:
    """Entropy, previous, induction and first of each head, written out position by position."""
    found: list[list[float]] = [[], [], [], []]
    count = len(ids)
    for head in pattern.double():
        sums = [0.0, 0.0, 0.0, 0.0]
        repeated = 0
        for query in range(count):
            row = [float(weight) for weight in head[query]]
            sums[0] -= sum(p * math.log(p) for p in row if p > 0)
            if query:
                sums[1] += row[query - 1]
                sums[3] += row[0]
            before = [place for place in range(query) if ids[place] == ids[query]]
            if before and before[-1] + 1 < query:
                repeated += 1
                sums[2] += row[before[-1] + 1]
        for kind, by in enumerate((count, count - 1, repeated, count - 1)):
            found[kind].append(sums[kind] / by if by else float("nan"))
    return found


def stream_seen(lm: nl.LanguageModel, ids: list[int], blocks: Any) -> torch.Tensor:
    """The stream before the first block and after each, `[layer, pos, d_model]`, by plain hooks."""
    seen: list[torch.Tensor] = []

    def before(_: Any, args: Any, kwargs: Any) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"])[0])

    def after(_: Any, __: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output)[0])

    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after) for block in blocks]
    with torch.no_grad():
        plain(lm)(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return torch.stack(seen).detach()
