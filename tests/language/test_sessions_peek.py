"""Peeks in the traces of a session: allowed, forbidden in one of them, and of sampled tokens.

The page: `docs/reference/sessions.md`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from nnsight_lab.errors import ValueNotKnown
from tests.support.lines import assert_at

CLEAN = [[3, 10, 40, 7, 21]]


@pytest.mark.parametrize("prompts", [[CLEAN], []])
def test_one_of_its_traces_may_forbid_peeks(lm: Any, prompts: list[Any]) -> None:
    with pytest.raises(ValueNotKnown) as caught, lm.session():
        with lm.trace(CLEAN):
            assert float(lm.layers[0].output.norm()) > 0
        with lm.trace(*prompts, peek=False) as tracer, _open(tracer, prompts):
            float(lm.layers[0].output.norm())  # forbidden
    assert_at(caught.value, "forbidden")


def test_after_such_a_trace_peeks_go_on(lm: Any) -> None:
    with lm.session() as session:
        with lm.trace(CLEAN, peek=False):
            h = lm.layers[0].output
        assert float(h.norm()) > 0
    assert session.run.peeks.count == 1


def _open(tracer: Any, prompts: list[Any]) -> AbstractContextManager[None]:
    return nullcontext() if prompts else tracer.invoke(CLEAN)
