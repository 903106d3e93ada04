"""How far a run is: in words, and on lines for those that take long."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nnsight_lab as nl
from nnsight_lab.contract import (
    Accepted,
    Done,
    Generation,
    Queued,
    RunEvent,
    Saved,
    Sending,
    Started,
    Token,
    TokenRows,
)
from nnsight_lab.ir import Address, Graph, Output, Read
from nnsight_lab.models.following import Follower, TerminalLine
from nnsight_lab.models.progress import Progress
from nnsight_lab.models.under_way import RunUnderWay, watching

ROOT = Path(__file__).parents[2]
GRAPH = Graph((Read(id=0, address=Address("", "logits")),), (Output("a", 0), Output("b", 0)))


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel("tiny")


@pytest.mark.parametrize(
    ("event", "text", "share"),
    [
        (Accepted(), "accepted", None),
        (Sending(1_500_000, 6_000_000), "sending 1.5 of 6.0 MB", 0.25),
        (Queued(2), "queued, 2 before it", None),
        (Queued(0), "queued, the next to run", None),
        (Started(), "running", None),
        (Saved("a", None), "running, 1 of 2 values", 0.5),
        (Done(), "ended", 1.0),
    ],
)
def test_each_event_has_its_words(event: RunEvent, text: str, share: float | None) -> None:
    progress = Progress(GRAPH, TokenRows(((1,),)), time.perf_counter())
    progress.note(event)

    assert (progress.text, progress.share) == (text, share)


def test_a_generation_counts_its_tokens() -> None:
    progress = Progress(GRAPH, TokenRows(((1,),), Generation(4)), time.perf_counter())
    for event in (Started(), Token(0, (5,)), Saved("a", None), Token(1, (6,))):
        progress.note(event)

    assert (progress.text, progress.share) == ("running, token 2 of 4", 0.5)


class Noting:
    """A line that notes what is shown on it."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.ended = 0

    def show(self, text: str, share: float | None) -> None:
        self.shown.append(text)

    def end(self) -> None:
        self.ended += 1


def test_a_long_run_is_shown_and_a_short_one_not(lm: nl.LanguageModel) -> None:
    lines: list[Noting] = []

    def line_for(_: RunUnderWay) -> Noting:
        lines.append(Noting())
        return lines[-1]

    with watching(Follower(line_for)):
        with lm.trace("The capital"):
            lm.logits.save()
        assert lines == []
        handle = lm.module.model.layers[0].register_forward_pre_hook(lambda *_: time.sleep(0.9))
        with lm.trace("The capital"):
            lm.logits.save()
        handle.remove()

    assert len(lines) == 1
    assert lines[0].shown[0].startswith("tiny: running")
    assert lines[0].ended == 1


def test_the_line_of_an_interrupted_run_goes_as_well(lm: nl.LanguageModel) -> None:
    line = Noting()

    def interrupt(*_: object) -> None:
        time.sleep(0.9)
        raise KeyboardInterrupt

    handle = lm.module.model.layers[0].register_forward_pre_hook(interrupt)
    with watching(Follower(lambda _: line)):
        with pytest.raises(KeyboardInterrupt), lm.trace("The capital"):
            lm.logits.save()
        handle.remove()
        ends = time.monotonic() + 5
        while not line.ended and time.monotonic() < ends:
            time.sleep(0.02)

    assert line.shown
    assert line.ended == 1


def test_what_cannot_be_shown_does_not_end_the_run(lm: nl.LanguageModel) -> None:
    def broken(_: RunUnderWay) -> None:
        raise OSError

    handle = lm.module.model.layers[0].register_forward_pre_hook(lambda *_: time.sleep(0.8))
    with watching(Follower(broken)), lm.trace("The capital"):
        logits = lm.logits.save()
    handle.remove()

    assert logits.shape[-1] == lm.card.vocab


def test_a_line_of_a_terminal_is_written_over_and_cleared() -> None:
    stream = io.StringIO()
    line = TerminalLine(stream, wide=30)
    line.show("tiny: running", 0.5)
    line.show("x" * 100, None)
    line.end()

    first, second, last = stream.getvalue().split("\r\x1b[2K")[1:]
    assert first == "tiny: running [##########....."[:29]
    assert (len(second), last) == (29, "")


PROGRAM = """
import time, nnsight_lab as nl
lm = nl.LanguageModel("tiny")
lm.module.model.layers[0].register_forward_pre_hook(lambda *_: time.sleep(0.3) and None)
with lm.generate("The capital", max_new_tokens=4) as tracer:
    ids = tracer.result.save()
"""


@pytest.mark.parametrize(("terminal", "wanted"), [(True, True), (False, True), (True, False)])
def test_a_script_has_a_line_on_a_terminal_only(terminal: bool, wanted: bool) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'server'}"}
    environment["NNSIGHT_LAB_PROGRESS"] = "1" if wanted else "0"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        stderr=theirs if terminal else subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        check=False,
        timeout=120,
    )
    os.set_blocking(ours, False)
    try:
        said = os.read(ours, 100_000).decode() if terminal else done.stderr.decode()
    except BlockingIOError:
        said = ""
    os.close(ours)
    os.close(theirs)

    assert (done.returncode, done.stdout) == (0, b""), said
    assert ("tiny: running, token" in said) is (terminal and wanted)
    if terminal and wanted:
        assert said.endswith("\r\x1b[2K")
