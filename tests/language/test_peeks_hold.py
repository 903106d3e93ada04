"""What a peek gave is what the run at the end gives: random programs of looks, edits and prompts.

Each value that Python looks at is saved as well. Either an edit is refused as a contradiction, or
the saved value equals the one Python was given: nothing Python decided on was ever untrue.

The page: `docs/reference/peeks.md`.
"""

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import Any

import pytest

import nnsight_lab as nl
from nnsight_lab.errors import PeekContradicted, ValueNotKnown, WriteTooEarly
from tests.support.fixtures import IDS
from tests.support.lines import assert_at
from tests.support.small_models import LAYERS

CAPITAL = "The capital of France is"
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


def test_sampled_tokens_are_those_that_python_saw(tiny: nl.LanguageModel) -> None:
    """One prompt draws with a seed of its own, another in every block; the run draws the same."""
    seen = []
    for _ in range(4):
        with tiny.generate(CAPITAL, max_new_tokens=3, temperature=4.0, eos_token_id=[]) as tracer:
            first = int(tiny.tokens[0])
            text = tracer.result.save()
        assert int(text[0, -3]) == first
        seen.append(tuple(text[0, -3:].tolist()))
    assert len(set(seen)) > 1


@pytest.mark.parametrize("invokes", [True, False])
def test_what_several_rows_draw_anew_is_not_peeked(tiny: nl.LanguageModel, invokes: bool) -> None:
    rows = [CAPITAL, CAPITAL]
    with (
        pytest.raises(ValueNotKnown, match="draws other tokens") as caught,
        tiny.generate(*([] if invokes else [rows]), max_new_tokens=2, do_sample=True) as tracer,
        tracer.invoke(rows) if invokes else nullcontext(),
    ):
        assert float(tiny.layers[0].output.norm()) > 0  # of the prompt, so it holds
        int(tiny.tokens[0])  # drawn
    assert_at(caught.value, "drawn")
