"""One session, three ways: in this process, through bytes, and on a server as one request.

What flows from trace to trace, by hand: run the traces one by one with hooks, and carry tensors.

The page: `docs/reference/sessions.md`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import Emit, ModelCard, RunRequest, Several
from nnsight_lab.errors import PeekContradicted
from nnsight_lab.ir import ModuleSource
from nnsight_lab_server.engines.base import Engine
from tests.server.lab_server import TOKEN, serving, tiny_engine
from tests.support.generation_hooks import generated
from tests.support.hooks import forward, hooked, outputs_seen
from tests.support.tensors import assert_differs, assert_exactly, assert_same

CLEAN, CORRUPTED = [[3, 10, 40, 7, 21]], [[3, 11, 41, 7, 22]]
SHORT = [[9, 30, 12]]
BLOCK = "model.layers.2"


def clean_stream(module: Any, block: str = BLOCK) -> torch.Tensor:
    found: torch.Tensor = outputs_seen(module, CLEAN, block)[block]
    return found


def patched(module: Any) -> torch.Tensor:
    """The corrupted prompt with the clean stream at its last position, by hooks."""
    clean = clean_stream(module)

    def put(h: torch.Tensor) -> None:
        h[:, -1] = clean[:, -1]

    logits: torch.Tensor = hooked(module, CORRUPTED, after={BLOCK: put})["logits"]
    return logits


def patch(lm: Any, **options: Any) -> Any:
    """The session that most tests here look at."""
    with lm.session(**options) as session:
        with lm.trace(CLEAN):
            h = lm.layers[2].output
        with lm.trace(CORRUPTED):
            lm.layers[2].output[:, -1] = h[:, -1]
            lm.logits.save()
    return session


def logits_of(run: nl.Run) -> torch.Tensor:
    (found,) = run.values()
    assert isinstance(found, torch.Tensor)
    return found


class Counting:
    """The real engine, with a note of what it was asked to run."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.asked: list[RunRequest] = []

    def card(self) -> ModelCard:
        return self.engine.card()

    def source_of(self, path: str) -> ModuleSource:
        return self.engine.source_of(path)

    def run(self, request: RunRequest, emit: Emit) -> None:
        self.asked.append(request)
        self.engine.run(request, emit)

    def cancel(self, run_id: str) -> None:
        self.engine.cancel(run_id)

    def close(self) -> None:
        self.engine.close()


# What flows


def test_values_flow_between_traces(anywhere: Any, tiny: Any) -> None:
    logits = logits_of(patch(anywhere).run)

    assert_same(logits, patched(tiny.module), atol=1e-5)
    assert_differs(logits, forward(tiny.module, CORRUPTED))


def test_values_flow_into_generations_and_out_of_them(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.session() as session:
        with lm.trace(CLEAN):
            h = lm.layers[2].output[:, -1]
        with lm.generate(CORRUPTED, max_new_tokens=3, eos_token_id=[]) as tracer:
            for step in tracer.iter[:]:
                if step == 1:
                    lm.layers[2].output[:, -1] = h
                last = lm.layers[4].output[:, -1]
            ids = tracer.result.save()
        with lm.trace(SHORT):
            lm.layers[4].output[:, -1] = last
            logits = lm.logits.save()

    clean = clean_stream(tiny.module)

    def put(step: int, stream: torch.Tensor) -> torch.Tensor:
        if step == 1:
            stream = stream.clone()
            stream[:, -1] = clean[:, -1]
        return stream

    by_hand = generated(
        tiny.module, CORRUPTED, after={BLOCK: put}, see=("model.layers.4",),
        max_new_tokens=3, eos_token_id=None,
    )  # fmt: skip
    assert_exactly(ids, by_hand.ids)
    stream = by_hand.seen["model.layers.4"][2]

    def end(h: torch.Tensor) -> None:
        h[:, -1] = stream[:, -1]

    after = {"model.layers.4": end}
    assert_same(logits, hooked(tiny.module, SHORT, after=after)["logits"], atol=1e-4)
    assert session.run.steps == 5
    assert "3 traces, 3 tokens" in repr(session.run)


def test_an_invoke_of_one_trace_is_used_in_an_invoke_of_another(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.session():
        with lm.trace() as tracer:
            with tracer.invoke(SHORT):
                lm.logits[:, -1].save()
            with tracer.invoke(CLEAN):
                h = lm.layers[2].output[:, -1]
        with lm.trace() as tracer:
            with tracer.invoke(CORRUPTED):
                lm.layers[2].output[:, -1] = h
                logits = lm.logits.save()
            with tracer.invoke(SHORT):
                other = lm.logits.save()
    assert_same(logits, patched(tiny.module), atol=1e-4)
    assert_same(other, forward(tiny.module, SHORT), atol=1e-4)


def test_a_gradient_of_one_trace_steers_the_next(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.session():
        with lm.trace(CLEAN):
            h = lm.layers[2].output
            with lm.logits[0, -1, 5].backward():
                gradient = h.grad
        with lm.trace(CORRUPTED):
            lm.layers[2].output[:, -1] += 10 * gradient[:, -1]
            logits = lm.logits.save()

    kept: list[torch.Tensor] = []
    part = tiny.module.get_submodule(BLOCK)
    handle = part.register_forward_hook(lambda _, __, output: kept.append(output))
    loss = tiny.module(torch.tensor(CLEAN), use_cache=False).logits[0, -1, 5]
    handle.remove()
    (by_hand,) = torch.autograd.grad(loss, kept)

    def put(stream: torch.Tensor) -> None:
        stream[:, -1] += 10 * by_hand[:, -1]

    after = {BLOCK: put}
    assert_same(logits, hooked(tiny.module, CORRUPTED, after=after)["logits"], atol=1e-3)
    assert_differs(logits, forward(tiny.module, CORRUPTED))


def test_python_looks_at_values_of_a_session(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.session() as session:
        with lm.trace(CLEAN):
            h = lm.layers[2].output
            first = float(h.norm())
        with lm.trace(CORRUPTED):
            mine = lm.layers[2].output
            loud = bool(mine.norm() > h.norm())
            lm.layers[4].output[:, -1] *= 0.5 if loud else 2
            logits = lm.logits.save()
        between = float(h.sum())

    clean = clean_stream(tiny.module)
    corrupted = outputs_seen(tiny.module, CORRUPTED, BLOCK)[BLOCK]
    assert first == pytest.approx(float(clean.norm()), abs=1e-3)
    assert between == pytest.approx(float(clean.sum()), abs=1e-3)
    assert loud == bool(corrupted.norm() > clean.norm())

    def scale(stream: torch.Tensor) -> None:
        stream[:, -1] *= 0.5 if loud else 2

    after = {"model.layers.4": scale}
    assert_same(logits, hooked(tiny.module, CORRUPTED, after=after)["logits"], atol=1e-4)
    assert session.run.peeks.count == 3


def test_a_peek_of_one_trace_holds_back_no_edit_of_another(anywhere: Any) -> None:
    lm = anywhere
    with lm.session():
        with lm.trace(CLEAN):
            bool(lm.logits.sum() > 0)
        with lm.trace(CORRUPTED):
            lm.layers[0].output[:] = 0
            logits = lm.logits.save()
    assert logits.shape[1] == 5
    with pytest.raises(PeekContradicted), lm.session(), lm.trace(CLEAN):
        bool(lm.logits.sum() > 0)
        lm.layers[0].output[:] = 0


def test_each_trace_has_its_own_cache(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.session():
        with lm.trace(CLEAN) as tracer:
            before = tracer.cache(modules=[lm.layers[2], lm.layers[3]])
            h = lm.layers[2].output
        with lm.trace(CORRUPTED) as tracer:
            after = tracer.cache(modules=[lm.layers[2], lm.layers[3]])
            lm.layers[2].output[:] = h
    path = "model.layers.3"
    assert_same(before["layers.3"].output, outputs_seen(tiny.module, CLEAN, path)[path], atol=1e-4)
    assert_exactly(after["layers.2"].output, before["layers.2"].output)
    assert_same(after["layers.3"].output, before["layers.3"].output, atol=1e-5)


def test_a_trace_of_an_edited_model_begins_with_its_edits(anywhere: Any, tiny: Any) -> None:
    """The same weights with and without stored edits, in one session."""
    lm = anywhere
    with lm.edit() as steered:
        lm.layers[1].output[:] *= 2
    with lm.session():
        with lm.trace(CLEAN):
            plain = lm.logits.save()
            h = lm.layers[2].output
        with steered.trace(CLEAN):
            edited = steered.logits.save()
        with steered.trace(CORRUPTED):
            steered.layers[2].output[:] = h
            both = steered.logits.save()
        with lm.trace(CORRUPTED):
            after = lm.logits.save()

    def double(stream: torch.Tensor) -> None:
        stream *= 2

    by_hand = hooked(tiny.module, CLEAN, after={"model.layers.1": double})["logits"]
    assert_same(plain, forward(tiny.module, CLEAN), atol=1e-5)
    assert_same(edited, by_hand, atol=1e-4)
    assert_differs(edited, plain)
    assert_same(both, plain, atol=1e-4)  # the clean stream replaces what the edit made
    assert_same(after, forward(tiny.module, CORRUPTED), atol=1e-5)
    with steered.trace(CLEAN):
        again = steered.logits.save()
    assert_exactly(again, edited)


def test_a_module_is_skipped_in_one_trace_only(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.session():
        with lm.trace(CLEAN):
            h = lm.layers[2].output
        with lm.trace(CORRUPTED):
            lm.layers[2].skip(h)
            logits = lm.logits.save()
        with lm.trace(CORRUPTED):
            whole = lm.logits.save()
    clean = clean_stream(tiny.module)
    by_hand = hooked(tiny.module, CORRUPTED, after={BLOCK: lambda _: clean})["logits"]
    assert_same(logits, by_hand, atol=1e-5)
    assert_same(whole, forward(tiny.module, CORRUPTED), atol=1e-5)


# One request


def test_a_session_is_one_request_and_a_peek_another() -> None:
    counting = Counting(tiny_engine())
    with serving(("tiny", lambda: counting)) as running, nl.connect(running.url, TOKEN) as lab:
        lm = lab.model("tiny")
        patch(lm)
        (request,) = counting.asked
        assert isinstance(request.inputs, Several)
        assert [part.rows for part in request.inputs.parts] == [  # type: ignore[union-attr]
            tuple(map(tuple, CLEAN)), tuple(map(tuple, CORRUPTED)),
        ]  # fmt: skip
        with lm.session(), lm.trace(CLEAN):
            if lm.logits.sum() > 0:
                lm.logits.save()
    assert len(counting.asked) <= 3
