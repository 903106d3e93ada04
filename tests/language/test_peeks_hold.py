"""What a peek gave is what the run at the end gives: random programs of looks, edits and prompts.

Each value that Python looks at is saved as well. Either an edit is refused as a contradiction, or
the saved value equals the one Python was given: nothing Python decided on was ever untrue.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

import nnsight_lab as nl
from nnsight_lab.errors import PeekContradicted, WriteTooEarly
from tests.support.fixtures import IDS
from tests.support.small_models import LAYERS

PROMPTS = (IDS, [[9, 2, 44]], [[1, 2, 3, 4, 5, 6, 7, 8, 9]])


def place(lm: Any, draw: random.Random) -> Any:
    """A place of the model, anywhere in it."""
    layer = lm.layers[draw.randrange(LAYERS)]
    modules = (layer, layer.attn, layer.mlp, lm.embed, lm.lm_head)
    where = draw.randrange(len(modules) + 1)
    return modules[where].output if where < len(modules) else layer.attn.z


def step(lm: Any, draw: random.Random, seen: list[tuple[float, Any]], old: list[Any]) -> None:
    """One line: a look at a place or at an older value, or an edit."""
    kind = draw.random()
    if kind < 0.45:
        value = place(lm, draw)
        old.append(value[..., 0])
    elif kind < 0.6 and old:
        value = draw.choice(old) * 2
    elif kind < 0.7 and old:
        target = place(lm, draw)
        target[0, -1] += old[-1].abs().mean() * 0.1
        return
    else:
        target = place(lm, draw)
        target[0, -1] *= 0.5
        return
    number = value.float().mean()
    seen.append((float(number), number.save()))


def program(lm: Any, draw: random.Random, seen: list[tuple[float, Any]]) -> None:
    """Up to seven lines, in one prompt or in several."""
    if draw.random() < 0.5:
        with lm.trace(IDS):
            old: list[Any] = []
            for _ in range(7):
                step(lm, draw, seen, old)
        return
    with lm.trace() as tracer:
        carried: list[Any] = []
        for ids in PROMPTS:
            with tracer.invoke(ids):
                for _ in range(4):
                    step(lm, draw, seen, carried)


@pytest.mark.parametrize("seed", range(4))
def test_what_python_was_given_is_true_of_the_run(lm: nl.LanguageModel, seed: int) -> None:
    draw = random.Random(seed)
    looks, refused, edited = 0, 0, 0
    for _ in range(12):
        seen: list[tuple[float, Any]] = []
        try:
            program(lm, draw, seen)
        except (PeekContradicted, WriteTooEarly) as exc:
            refused += isinstance(exc, PeekContradicted)
            continue
        edited += 1
        for given, saved in seen:
            looks += 1
            assert float(saved) == pytest.approx(given, abs=1e-4, rel=1e-4)
    assert looks > 5
    assert edited > 1
    assert refused > 0
