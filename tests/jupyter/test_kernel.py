"""`%%trace` in a real kernel: bars, background cells, Interrupt, here and on a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.jupyter.kernels import Kernel, is_end, parent, real_kernel, text_of
from tests.server.lab_server import TOKEN, GatedEngine, Serving, serving, tiny_engine

PROMPT = '"The capital of France is"'

SLOW = """
slow = lm.module.model.layers[0].register_forward_pre_hook(lambda *_: time.sleep({s}) and None)
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with real_kernel() as kernel:
        yield kernel


@pytest.fixture
def slow(kernel: Kernel) -> Iterator[None]:
    """Each forward pass of the model takes a fifth of a second."""
    kernel.cell(SLOW.format(s=0.2))
    yield
    kernel.cell("slow.remove()")


@pytest.mark.usefixtures("slow")
def test_a_long_run_has_a_bar_that_goes_on_and_is_gone_at_the_end(kernel: Kernel) -> None:
    found = kernel.cell(f"%%trace lm {PROMPT} -g 8\nids = tracer.result")

    shown = [m for m in found if m["msg_type"] == "display_data"]
    updates = [m for m in found if m["msg_type"] == "update_display_data"]
    assert len(shown) == 1
    ids = {m["content"]["transient"]["display_id"] for m in (*shown, *updates)}
    assert len(ids) == 1
    texts = [m["content"]["data"]["text/plain"] for m in updates]
    assert sum("token" in text and "of 8" in text for text in texts) >= 2
    assert "width:" in updates[0]["content"]["data"]["text/html"]
    assert texts[-1] == updates[-1]["content"]["data"]["text/html"] == ""
    assert "saved ids" in text_of(found)


def test_a_short_run_has_none(kernel: Kernel) -> None:
    found = kernel.cell(f"%%trace lm {PROMPT}\nlogits = lm.logits")

    assert not [m for m in found if "display_data" in m["msg_type"]]
    assert "saved logits" in text_of(found)


@pytest.mark.usefixtures("slow")
def test_an_interrupt_ends_the_run_at_once(kernel: Kernel) -> None:
    sent = kernel.send(f"%%trace lm {PROMPT} -g 200\nids = tracer.result")
    kernel.until(lambda m: m["msg_type"] == "display_data")
    begun = time.monotonic()
    kernel.interrupt()
    found = kernel.until(lambda m: is_end(m, sent))

    assert time.monotonic() - begun < 1.0
    assert [m["content"]["ename"] for m in found if m["msg_type"] == "error"] == [
        "KeyboardInterrupt"
    ]
    hooks = kernel.cell(
        "slow.remove(); print('left', sum(len(m._forward_hooks) + "
        "len(m._forward_pre_hooks) for m in lm.module.modules()))"
    )
    assert "left 0" in text_of(hooks)
    assert "no run is under way" in text_of(kernel.cell("%nnl runs"))


@pytest.mark.usefixtures("slow")
def test_a_background_cell_returns_at_once_and_shows_its_end_under_itself(kernel: Kernel) -> None:
    begun = time.monotonic()
    sent = kernel.send(f"%%trace lm {PROMPT} --bg -g 8\nids = tracer.result\nids[0, -1]")
    kernel.until(lambda m: is_end(m, sent))
    assert time.monotonic() - begun < 1.0

    listed = text_of(kernel.cell("%nnl runs"))
    later = kernel.until(lambda m: "saved ids" in text_of([m]))

    assert "The capital of France is" in listed
    assert {parent(m) for m in later if m["msg_type"] == "stream"} == {sent}
    assert "tensor(" in text_of([m for m in later if m["msg_type"] == "display_data"])
    got = text_of(kernel.cell("print(type(ids).__name__, run.done, run['ids'] is ids)"))
    assert "Tensor True True" in got


@pytest.mark.usefixtures("slow")
def test_await_run_works_in_a_cell(kernel: Kernel) -> None:
    kernel.cell(f"%%trace lm {PROMPT} --bg -q --as later -g 4\nids = tracer.result")
    found = kernel.cell("done = await later\nprint(done is later, tuple(done['ids'].shape))")

    assert "True (1, 10)" in text_of(found)


def test_a_cell_that_awaits_may_trace(kernel: Kernel) -> None:
    found = kernel.cell(
        "import asyncio\n"
        f"text = await asyncio.sleep(0, {PROMPT})\n"
        "with lm.trace(text):\n    z = lm.logits.save()\n"
        "late = await asyncio.sleep(0, z.argmax(-1))\n"
        "ids = torch.tensor(lm.tokenize(text).rows)\n"
        "with torch.no_grad():\n    plain = lm.module(ids).logits\n"
        "print(bool(torch.equal(late, plain.argmax(-1))), float((z - plain).abs().max()) < 1e-5)"
    )

    assert "True True" in text_of(found)


def test_async_with_works_in_a_cell(kernel: Kernel) -> None:
    found = kernel.cell(
        f"async with lm.trace({PROMPT}):\n    z = lm.logits.save()\nprint(type(z).__name__)"
    )

    assert "Tensor" in text_of(found)


def test_a_failed_background_run_says_so_with_the_users_line(kernel: Kernel) -> None:
    kernel.cell("z = 'as before'")
    line = "z = torch.zeros(5).index_select(0, lm.logits[0, -1].argmax().reshape(1) + 100)"
    sent = kernel.send(f"%%trace lm {PROMPT} --bg\n{line}")
    found = kernel.until(lambda m: "op-failed" in text_of([m]))

    said = text_of(found)
    assert line in said
    assert "line 2" in said
    assert parent(found[-1]) == sent
    assert "as before" in text_of(kernel.cell("z"))


@pytest.fixture(scope="module")
def gated() -> GatedEngine:
    return GatedEngine(tiny_engine())


@pytest.fixture(scope="module")
def lab(gated: GatedEngine) -> Iterator[Serving]:
    with serving(("tiny", lambda: gated)) as running:
        yield running
    gated.open()


def test_an_interrupt_cancels_on_the_server_within_a_second(
    kernel: Kernel, lab: Serving, gated: GatedEngine
) -> None:
    kernel.cell(f"%nnl connect {lab.url} --token {TOKEN}")
    kernel.cell('there = lab.model("tiny")')
    gated.before.clear()
    gated.running.clear()
    gated.cancelled.clear()
    sent = kernel.send(f"%%trace there {PROMPT}\nlogits = there.logits")
    assert gated.running.wait(30)
    begun = time.monotonic()
    kernel.interrupt()
    found = kernel.until(lambda m: is_end(m, sent))
    ended = time.monotonic() - begun
    while not gated.cancelled and time.monotonic() - begun < 5:
        time.sleep(0.01)
    told = time.monotonic() - begun

    assert "KeyboardInterrupt" in text_of(found)
    assert gated.cancelled
    assert (ended < 1.0, told < 1.0) == (True, True), (ended, told)
    gated.open()
    gated.within.set()
    assert "saved logits" in text_of(kernel.cell(f"%%trace there {PROMPT}\nlogits = there.logits"))
