"""Peeks on a server: each is a run of its own, and only what Python asked for travels."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import OpFailed, PeekContradicted
from tests.server.lab_server import TOKEN, WAIT_S, GatedEngine, Serving, serving, tiny_engine
from tests.support.lines import assert_at, frames_of_ours

PROMPT = "The capital of France is"
LONGER = "When Mary and John went to the store, John gave a drink to"


def halve_the_loud(lm: Any) -> tuple[Any, list[int], torch.Tensor]:
    """Halve the last position of each layer whose norm is above a limit; which, and the logits."""
    loud = []
    with lm.trace(PROMPT) as tracer:
        for index, layer in enumerate(lm.layers):
            h = layer.output[:, -1]
            if h.norm() > 60.0:
                loud.append(index)
                h *= 0.5
        best = int(lm.logits[0, -1].argmax())
        logits = lm.logits[0, -1].save()
    return tracer, [*loud, best], logits


def test_the_same_python_decides_the_same_there(lab: Serving) -> None:
    here = nl.LanguageModel("tiny")
    with nl.connect(lab.url, TOKEN) as connected:
        there = connected.model("tiny")
        ours, decided, logits = halve_the_loud(here)
        theirs, decided_there, logits_there = halve_the_loud(there)
        again = there.run(nl.Graph.from_bytes(ours.graph.to_bytes()), PROMPT)

    with here.trace(PROMPT):
        clean = here.logits[0, -1].save()
    assert decided == decided_there
    assert 1 < len(decided) < len(here.layers) + 1
    assert ours.graph == theirs.graph
    assert torch.equal(logits, logits_there)
    assert torch.equal(logits, again["logits"])
    assert not torch.allclose(logits, clean)


def test_one_number_travels_and_not_the_activation(lab: Serving) -> None:
    with nl.connect(lab.url, TOKEN) as connected:
        lm = connected.model("tiny")
        with lm.trace(PROMPT) as tracer:
            h = lm.layers[2].output
            assert h.norm() > 5  # one byte
            assert int(lm.logits[0, -1].argmax()) >= 0  # eight
            assert float(h.max()) > 0  # four
            assert 1e9 not in h  # one
            assert torch.equal(h, h)  # one
            assert (h > 0).nonzero().shape[1] == 3  # none: a size is no tensor
        run = tracer.run

    assert run.peeks.count == 6
    assert run.peeks.sent_bytes == 1 + 8 + 4 + 1 + 1
    assert run.peeks.seconds > 0


def test_prompts_may_come_after_a_peek(lab: Serving) -> None:
    """The second prompt is longer: the first is padded from then on, and decides the same."""
    here = nl.LanguageModel("tiny")
    with nl.connect(lab.url, TOKEN) as connected:
        for lm in (here, connected.model("tiny")):
            with lm.trace() as tracer:
                with tracer.invoke(PROMPT):
                    first = int(lm.logits[0, -1].argmax())
                    seen = lm.logits[0, -1].max().item()
                    top = lm.logits[0, -1].max().save()
                with tracer.invoke(LONGER):
                    second = int(lm.logits[0, -1].argmax())
            assert (first, second) == (_best(here, PROMPT), _best(here, LONGER))
            assert float(top) == pytest.approx(seen, abs=1e-5)


def _best(lm: Any, prompt: str) -> int:
    with torch.no_grad():
        logits = lm.module(**lm.tokenizer(prompt, return_tensors="pt")).logits
    return int(logits[0, -1].argmax())


def test_mistakes_of_a_peek_are_at_the_users_line(lab: Serving) -> None:
    with nl.connect(lab.url, TOKEN) as connected:
        lm = connected.model("tiny")
        with pytest.raises(OpFailed) as failed, lm.trace(PROMPT):
            h = lm.layers[0].output[0, :1, :1]
            wrong = torch.linalg.cholesky(h * 0 - torch.eye(3))  # not positive
            print(wrong)
        with pytest.raises(PeekContradicted) as late, lm.trace(PROMPT):
            bool(lm.logits.max() > 0)
            lm.layers[0].output[:] = 0  # too late

    assert_at(failed.value, "not positive")
    assert_at(late.value, "too late")
    assert frames_of_ours(failed.value) <= 1


def test_interrupting_a_peek_cancels_it_on_the_server() -> None:
    gated = GatedEngine(tiny_engine())
    gated.before.set()
    with serving(("tiny", lambda: gated)) as running, nl.connect(running.url, TOKEN) as connected:
        lm = connected.model("tiny")

        def interrupt() -> None:
            assert gated.saved.wait(WAIT_S)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt), lm.trace(PROMPT):
            bool(lm.layers[0].output.norm() > 0)
        while not gated.cancelled:
            connected.models()
        gated.open()

        with lm.trace(PROMPT):
            logits = lm.logits.save()
    assert logits.shape[-1] == 2188
