"""Runs in the background: the block ends at once, `run` fills in, and waiting raises what failed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import Cancelled, LabError, NotSaved, NotSupported, OpFailed, TimedOut
from nnsight_lab.models.under_way import runs_under_way

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel("tiny")


@pytest.fixture
def held(lm: nl.LanguageModel) -> Iterator[threading.Event]:
    """The model does not go on before the event is set; the block of a test ends meanwhile."""
    go = threading.Event()
    assert lm.card.layers, "measured before it is held"

    def wait(*_: object) -> None:
        go.wait(20)

    handle = lm.module.model.layers[0].register_forward_pre_hook(wait)
    yield go
    go.set()
    handle.remove()


def plain(lm: nl.LanguageModel, prompt: str, change: float = 0.0) -> torch.Tensor:
    """The logits by hooks of one's own."""

    def add(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        return output + change

    handle = lm.module.model.layers[2].register_forward_hook(add)
    with torch.no_grad():
        logits: torch.Tensor = lm.module(**lm.tokenizer(prompt, return_tensors="pt")).logits
    handle.remove()
    return logits


def test_the_block_ends_while_the_run_goes_on(lm: nl.LanguageModel, held: threading.Event) -> None:
    with lm.trace(PROMPT).in_background() as tracer:
        lm.layers[2].output += 3.0
        logits = lm.logits.save()
        streams = [lm.layers[0].output.save()]
    run = tracer.run
    assert (run.done, len(run), "under way" in repr(run)) == (False, 0, True)
    with pytest.raises(NotSaved, match="not there yet"):
        run["logits"]
    with pytest.raises(NotSaved):
        logits.argmax(-1)
    held.set()

    assert run.wait() is run
    torch.testing.assert_close(run["logits"], plain(lm, PROMPT, 3.0))
    assert not torch.allclose(run["logits"], plain(lm, PROMPT))
    assert torch.equal(logits.argmax(-1), run["logits"].argmax(-1))
    assert type(streams[0]) is torch.Tensor
    assert "logits: float32" in repr(run)


def test_several_go_on_at_once_each_with_its_own_values(lm: nl.LanguageModel) -> None:
    runs = []
    for change in (1.0, 2.0, 3.0):
        with lm.trace(PROMPT).in_background() as tracer:
            lm.layers[2].output += change
            tracer.save(logits=lm.logits)
        runs.append(tracer.run)
    found = [run.wait()["logits"] for run in runs]  # all, before hooks of our own
    for change, logits in zip((1.0, 2.0, 3.0), found, strict=True):
        torch.testing.assert_close(logits, plain(lm, PROMPT, change))


def test_values_arrive_before_the_run_has_ended(lm: nl.LanguageModel) -> None:
    seen = threading.Event()
    go = threading.Event()

    def wait(*_: object) -> None:
        seen.set()
        go.wait(20)

    handle = lm.module.model.layers[3].register_forward_pre_hook(wait)
    with lm.trace(PROMPT).in_background() as tracer:
        tracer.save(h=lm.layers[1].output, logits=lm.logits)
    assert seen.wait(20)
    early = dict(tracer.run)
    go.set()
    handle.remove()
    assert list(early) == ["h"]
    assert torch.equal(early["h"], tracer.run.wait()["h"])


def test_a_failed_run_is_raised_by_who_waits_at_the_users_line(lm: nl.LanguageModel) -> None:
    with lm.trace(PROMPT).in_background() as tracer:
        place = lm.logits[0, -1].argmax() + 10_000
        torch.zeros(5).index_select(0, place.reshape(1)).save()  # type: ignore[attr-defined]
    with pytest.raises(OpFailed) as caught:
        tracer.run.wait()
    assert caught.value.where is not None
    assert "index_select" in caught.value.where.text
    assert "failed" in repr(tracer.run)
    told: list[LabError | None] = []
    tracer.run.when_done(told.append)
    assert isinstance(told[0], OpFailed)


def test_a_mistake_is_refused_when_the_block_ends(lm: nl.LanguageModel) -> None:
    with pytest.raises(LabError, match="reached before"):
        with lm.trace(PROMPT).in_background():
            lm.layers[0].output[:] = lm.layers[3].output


@pytest.mark.parametrize("begun", [True, False])
def test_it_can_be_cancelled(lm: nl.LanguageModel, held: threading.Event, begun: bool) -> None:
    with lm.trace(PROMPT).in_background() as tracer:
        lm.logits.save()
    while begun and not runs_under_way():
        time.sleep(0.01)
    tracer.run.cancel()
    held.set()
    with pytest.raises(Cancelled):
        tracer.run.wait()


def test_one_that_waits_for_its_turn_is_cancelled_at_once(
    lm: nl.LanguageModel, held: threading.Event
) -> None:
    with lm.trace(PROMPT).in_background() as first:
        lm.logits.save()
    with lm.trace(PROMPT).in_background() as second:
        lm.logits.save()
    second.run.cancel()
    with pytest.raises(Cancelled):
        second.run.wait(5)
    assert not first.run.done
    held.set()
    assert first.run.wait().done


def test_waiting_can_have_an_end(lm: nl.LanguageModel, held: threading.Event) -> None:
    with lm.trace(PROMPT).in_background() as tracer:
        lm.logits.save()
    with pytest.raises(TimedOut, match="goes on"):
        tracer.run.wait(0.05)
    held.set()
    assert tracer.run.wait().done


def test_a_run_that_was_waited_for_can_be_waited_for(lm: nl.LanguageModel) -> None:
    with lm.trace(PROMPT) as tracer:
        lm.logits.save()
    assert tracer.run.done
    assert tracer.run.wait() is tracer.run


def test_invokes_and_generations_go_on_too(lm: nl.LanguageModel) -> None:
    with lm.generate(max_new_tokens=3).in_background() as tracer:
        with tracer.invoke(PROMPT):
            ids = tracer.result.save()
    with lm.generate(PROMPT, max_new_tokens=3):
        here = lm.tokens.save()
    assert len(tracer.run.wait().tokens) == 3
    assert tracer.run["ids"].shape[1] == len(lm.tokenize(PROMPT).rows[0]) + 3
    assert ids[0, -3].item() == here[0].item()


@pytest.mark.parametrize("what", ["scan", "execute", "session"])
def test_what_has_no_run_of_its_own_is_refused(lm: nl.LanguageModel, what: str) -> None:
    with pytest.raises(NotSupported):
        if what == "session":
            with lm.session(), lm.trace(PROMPT).in_background():
                pass
        elif what == "scan":
            lm.scan(PROMPT).in_background()
        else:
            lm.trace(PROMPT, execute=False).in_background()


def test_autocast_does_not_go_along_and_is_refused(lm: nl.LanguageModel) -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(NotSupported, match="autocast"):
        with lm.trace(PROMPT).in_background():
            lm.logits.save()


def test_async_with_waits_and_lets_others_go_on(
    lm: nl.LanguageModel, held: threading.Event
) -> None:
    async def both() -> tuple[torch.Tensor, bool]:
        async def let_go() -> bool:
            waiting = bool(runs_under_way())
            held.set()
            return waiting

        async def trace() -> torch.Tensor:
            async with lm.trace(PROMPT):
                logits = lm.logits.save()
            assert type(logits) is torch.Tensor
            return logits

        task = asyncio.create_task(trace())
        while not runs_under_way():  # noqa: ASYNC110 - a run is no event of this loop
            await asyncio.sleep(0.01)
        return await asyncio.gather(task, let_go())

    logits, was_waiting = asyncio.run(both())
    assert was_waiting
    torch.testing.assert_close(logits, plain(lm, PROMPT))


def test_await_gives_the_run_and_raises_its_error(lm: nl.LanguageModel) -> None:
    async def waits() -> nl.Run:
        with lm.trace(PROMPT).in_background() as tracer:
            tracer.save(logits=lm.logits)
        return await tracer.run

    async def fails() -> None:
        async with lm.trace(PROMPT):
            place = lm.logits[0, -1].argmax() + 10_000
            torch.zeros(5).index_select(0, place.reshape(1)).save()  # type: ignore[attr-defined]

    torch.testing.assert_close(asyncio.run(waits())["logits"], plain(lm, PROMPT))
    with pytest.raises(OpFailed) as caught:
        asyncio.run(fails())
    assert caught.value.where is not None
    assert "index_select" in caught.value.where.text


def test_a_task_that_is_cancelled_cancels_its_run(
    lm: nl.LanguageModel, held: threading.Event
) -> None:
    ran: list[nl.Run] = []

    async def trace() -> None:
        async with lm.trace(PROMPT) as tracer:
            lm.logits.save()
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(0.05, task.cancel)
            ran.append(tracer)  # type: ignore[arg-type]

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(trace())
    held.set()
    with pytest.raises(Cancelled):
        ran[0].run.wait(10)
