"""What verbs cannot do together is refused, at the line that says it, with a way round.

The page: `docs/reference/language.md`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nnsight_lab.errors import GraphError, LabError, NotSaved, NotSupported, OpFailed
from tests.language.test_together_in_steps import ONE, OPTIONS, TWO
from tests.support.lines import assert_at


def test_what_a_generation_cannot_do_is_refused_at_its_line(anywhere: Any) -> None:
    lm = anywhere
    found: list[tuple[LabError, str]] = []
    with pytest.raises(NotSupported) as caught, lm.session():
        with lm.trace(ONE):
            lm.layers[1].output.save()
        with lm.generate(ONE, **OPTIONS):
            lm.logits[0, -1, 5].backward()  # back
    found.append((caught.value, "back"))
    with pytest.raises(NotSupported) as caught, lm.generate(ONE, **OPTIONS) as tracer:
        for _step in tracer.iter[1:]:
            lm.layers[2].mlp.source.mul_0.output.save()  # inside, later
    found.append((caught.value, "inside, later"))
    with pytest.raises(GraphError) as stopped, lm.generate(ONE, **OPTIONS) as tracer:
        for step in tracer.iter[:]:
            if step == 1:
                tracer.stop()
        lm.layers[0].output.save()  # after stop
    found.append((stopped.value, "after stop"))
    for error, line in found:
        assert_at(error, line)
        assert error.hint


def test_an_edit_with_the_value_of_a_step_that_did_not_happen_is_refused(anywhere: Any) -> None:
    """Not left out in silence: in another invoke, in another trace, as a skip, in a peek."""
    lm = anywhere
    many: dict[str, Any] = {"max_new_tokens": 40}  # the text ends well before
    with pytest.raises(OpFailed) as other, lm.generate(eos_token_id=580, **many) as tracer:
        with tracer.invoke(ONE):
            streams = [lm.layers[1].output[:, -1] for _ in tracer.iter[:]]
        with tracer.invoke(TWO):
            for step in tracer.iter[:]:
                lm.layers[2].output[:, -1] = streams[step]  # goes on alone
            tracer.result.save()
    with pytest.raises(OpFailed) as edit, lm.session():
        with lm.generate(ONE, **many) as tracer:
            streams = [lm.layers[1].output[:, -1] for _ in tracer.iter[:]]
        with lm.trace(TWO):
            lm.layers[2].output[:, -1] = streams[-1]  # edited
            lm.logits.save()
    with pytest.raises(OpFailed) as skip, lm.session():
        with lm.generate(ONE, **many) as tracer:
            streams = [lm.layers[1].output[:, -1:] for _ in tracer.iter[:]]
        with lm.trace([[5]]):
            lm.layers[2].skip(streams[-1])  # skipped
            lm.logits.save()
    with pytest.raises(NotSaved) as peek, lm.generate(ONE, **many) as tracer:
        for _step in tracer.iter[39]:
            float(lm.logits.sum())  # looked at
    for caught, line in (
        (other, "goes on alone"), (edit, "edited"), (skip, "skipped"), (peek, "looked at"),
    ):  # fmt: skip
        assert_at(caught.value, line)
        assert "did not happen" in caught.value.message
    with lm.session():
        with lm.generate(ONE, **many) as tracer:
            streams = [lm.layers[1].output[:, -1] for _ in tracer.iter[:]]
            mean: Any = torch.stack(streams).mean(0)  # of those there are
        with lm.trace(TWO):
            lm.layers[2].output[:, -1] = mean
            logits = lm.logits.save()
    assert torch.isfinite(logits).all()
