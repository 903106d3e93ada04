"""The tasks that are measured, by hand-written hooks and by this package.

A task is a name, the ways to do it (hooks first: the baseline), and how far a way may be from the
baseline in its numbers. Every way gives its result as a list of tensors, which are compared before
anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

import nnsight_lab as nl

__all__ = ["Task", "Way", "gpt2", "mlp", "tasks"]

Way: TypeAlias = Callable[[], list[torch.Tensor]]


@dataclass
class Task:
    """One thing to do, several ways.

    goal: the most our way may cost beside the baseline. calls: how often a round, for short ones.
    """

    name: str
    ways: dict[str, Way]
    goal: float | None = None
    calls: int = 1
    rounds: int = 30
    parts: dict[str, Any] = field(default_factory=dict)


def mlp() -> torch.nn.Sequential:
    """Twelve blocks of a linear map of 64 and a ReLU."""
    torch.manual_seed(0)
    blocks = [torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()) for _ in range(12)]
    return torch.nn.Sequential(*blocks)


def gpt2(layers: int, width: int, heads: int) -> Any:
    """A GPT-2 of random weights; 12 layers of 768 is the shape of GPT-2 small."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads)
    config.bos_token_id = config.eos_token_id = None
    return GPT2LMHeadModel(config).eval()


@contextmanager
def _hooked(modules: Any, hook: Callable[..., Any]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first(output: Any) -> torch.Tensor:
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _mlp_tasks() -> Iterator[Task]:
    net, x = mlp(), torch.randn(1, 64)
    wrapped = nl.wrap(net)

    def hooks() -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []
        with _hooked(net, lambda _, __, output: kept.append(output)), torch.no_grad():
            net(x)
        return kept

    def recorded() -> list[torch.Tensor]:
        with wrapped.trace(x):
            kept = [block.output.save() for block in wrapped]
        return kept

    with wrapped.trace(x) as tracer:
        for place, block in enumerate(wrapped):
            tracer.save(**{f"h{place}": block.output})

    def again() -> list[torch.Tensor]:
        return list(wrapped.run(tracer.graph, x).values())

    def plain() -> list[torch.Tensor]:
        with torch.no_grad():
            net(x)
        return []

    def empty() -> list[torch.Tensor]:
        with wrapped.trace(x):
            pass
        return []

    parts = {"net": net, "x": x}
    ways: dict[str, Way] = {"hooks": hooks, "nnsight_lab": recorded, "graph run again": again}
    yield Task("12 saves, 12-layer MLP", ways, 1.4, calls=20, parts=parts)
    ways = {"plain forward": plain, "nnsight_lab": empty}
    yield Task("empty trace, 12-layer MLP", ways, calls=20, parts=parts)


def _save_all(name: str, model: Any, ids: list[int], calls: int, rounds: int) -> Task:
    lm = nl.LanguageModel(model)
    rows = torch.tensor([ids])

    def hooks() -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []

        def keep(_: Any, __: Any, output: Any) -> None:
            kept.append(_first(output))

        with _hooked(model.transformer.h, keep), torch.no_grad():
            kept.append(model(rows, use_cache=False).logits)
        return kept

    def recorded() -> list[torch.Tensor]:
        with lm.trace(ids):
            kept = [layer.output.save() for layer in lm.layers]
            kept.append(lm.logits.save())
        return kept

    parts = {"model": model, "ids": ids}
    return Task(
        f"save all layers, {name}",
        {"hooks": hooks, "nnsight_lab": recorded},
        1.05,
        calls,
        rounds,
        parts,
    )


def _steered(name: str, model: Any, ids: list[int], layer: int, rounds: int) -> Task:
    lm = nl.LanguageModel(model)
    rows = torch.tensor([ids])
    torch.manual_seed(1)
    direction = torch.randn(model.config.n_embd)

    def hooks() -> list[torch.Tensor]:
        def steer(_: Any, __: Any, output: Any) -> Any:
            moved = _first(output) + direction
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        with _hooked([model.transformer.h[layer]], steer), torch.no_grad():
            return [model.generate(rows, max_new_tokens=20, do_sample=False, pad_token_id=0)]

    def recorded() -> list[torch.Tensor]:
        with lm.generate(ids, max_new_tokens=20) as tracer:
            for _ in tracer.iter[:]:
                lm.layers[layer].output[:] += direction
            out = tracer.result.save()
        return [out]

    parts = {"model": model, "ids": ids, "layer": layer, "direction": direction}
    return Task(
        f"20 steered tokens, {name}",
        {"hooks": hooks, "nnsight_lab": recorded},
        1.03,
        rounds=rounds,
        parts=parts,
    )


def _attribution(name: str, model: Any, ids: list[int], calls: int, rounds: int) -> Task:
    """Gradient of a logit difference at every layer, times the difference to a corrupted run."""
    lm = nl.LanguageModel(model)
    corrupted = [*ids[:2], (ids[2] + 1) % model.config.vocab_size, *ids[3:]]
    pair = (5, 9)

    def forward(prompt: list[int], keep: list[torch.Tensor]) -> torch.Tensor:
        hook = lambda _, __, output: keep.append(_first(output))  # noqa: E731
        with _hooked(model.transformer.h, hook):
            logits: torch.Tensor = model(torch.tensor([prompt]), use_cache=False).logits
        return logits

    def hooks() -> list[torch.Tensor]:
        other: list[torch.Tensor] = []
        with torch.no_grad():
            forward(corrupted, other)
        kept: list[torch.Tensor] = []
        logits = forward(ids, kept)
        loss = logits[0, -1, pair[0]] - logits[0, -1, pair[1]]
        grads = torch.autograd.grad(loss, kept)
        pairs = zip(other, kept, grads, strict=True)
        return [((bad - good.detach()) * grad).sum(-1) for bad, good, grad in pairs]

    def recorded() -> list[torch.Tensor]:
        with lm.trace(corrupted):
            other = [layer.output.save() for layer in lm.layers]
        with lm.trace(ids):
            kept = [layer.output for layer in lm.layers]
            logits = lm.logits[0, -1]
            with (logits[pair[0]] - logits[pair[1]]).backward():
                pairs = zip(other, kept, strict=True)
                scores = [((bad - good) * good.grad).sum(-1).save() for bad, good in pairs]
        return scores

    parts = {"model": model, "ids": ids, "corrupted": corrupted, "pair": pair}
    return Task(
        f"attribution patching, {name}",
        {"hooks": hooks, "nnsight_lab": recorded},
        1.05,
        calls,
        rounds,
        parts,
    )


def tasks() -> Iterator[Task]:
    """Every task, models made as they are needed."""
    yield from _mlp_tasks()
    ids = list(range(100, 116))
    for name, model, calls, rounds in (
        ("GPT-2-small shape", gpt2(12, 768, 12), 1, 30),
        ("4 layers of 128", gpt2(4, 128, 4), 4, 40),
    ):
        yield _save_all(name, model, ids, calls, rounds)
        yield _attribution(name, model, ids, calls, rounds)
        yield _steered(name, model, ids, model.config.n_layer // 2, rounds)
