"""vLLM in processes of its own, beside a transformers engine: what dies is noticed, and comes back."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

import nnsight_lab as nl
from nnsight_lab.contract import Failed, Generation, RunRequest, Saved, TokenRows
from nnsight_lab.errors import EngineFailed
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.ir import Address, Graph, Output, Read
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.offered import served_model
from nnsight_lab_server.jobs import ModelState
from tests.server.lab_server import TOKEN, Run, Serving, serving_models

PROMPT = "The old man put the book on"
LONG_S = 240.0
STEP_S = 15


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, said: list[str]) -> Iterator[Serving]:
    file = tmp_path_factory.mktemp("options") / "vllm.toml"
    file.write_text(
        "batch_tokens = 64\ncontext = 128\nkv_cache_gib = 0.1\nconcurrency = 8\n"
        f"step_s = {STEP_S}\n"
    )
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("XDG_CACHE_HOME", str(file.parent))  # certificates are kept there
        model = served_model("tiny", "tiny", Settings(), engine="auto", file=file, say=said.append)
        yield stack.enter_context(serving_models((model,), wait_s=LONG_S))
    assert list(file.parent.glob("nnsight-lab/certificates/*.json"))


@pytest.fixture(scope="module")
def lm(lab: Serving) -> Any:
    return nl.connect(lab.url, token=TOKEN).model("tiny")


def workers_of_vllm() -> list[Any]:
    """The processes that compute for vLLM: started by the one that schedules, which we started."""
    psutil = importlib.import_module("psutil")
    ours = psutil.Process().children()
    return [
        process
        for scheduler in ours
        for process in scheduler.children()
        if "Worker" in process.name() or "spawn_main" in " ".join(process.cmdline())
    ]


def test_progress_was_told(lab: Serving, said: list[str]) -> None:
    assert [line.partition(": ")[2].split()[0] for line in said] == [
        "loading",
        "starting",
        "checking",
        "ready",
    ]


def test_a_run_goes_to_vllm_when_that_can_do_it(lm: Any) -> None:
    with lm.trace(PROMPT) as tracer:
        logits = lm.logits.save()

    assert logits.isfinite().all()
    assert tracer.run.engine == "vllm"
    assert tracer.run.why == ""


def test_a_gradient_goes_to_transformers_and_the_answer_says_why(lm: Any) -> None:
    with lm.trace(PROMPT) as tracer:
        h = lm.layers[1].output
        with lm.logits.sum().backward():
            grad = h.grad.save()

    assert grad.abs().sum() > 0
    assert tracer.run.engine == "transformers"
    assert "gradient" in tracer.run.why
    assert "transformers" in repr(tracer.run)


def test_large_constants_reach_the_workers_and_leave_nothing_behind(lab: Serving, lm: Any) -> None:
    random = torch.Generator().manual_seed(3)
    encoder = torch.randn(128, 4_096, generator=random) / 128**0.5
    with lm.trace(PROMPT) as tracer:
        there = (lm.layers[2].output @ encoder).relu().save()
    home = nl.LanguageModel("tiny")
    with home.trace(PROMPT):
        here = (home.layers[2].output @ encoder).relu().save()
    folder = next(iter(lab.catalogue)).engine.folder

    assert tracer.run.engine == "vllm"
    assert (there - here).abs().max() <= 1e-3
    assert [path.name for path in folder.iterdir()] == ["socket"]


def test_both_engines_give_the_same(lm: Any) -> None:
    with lm.trace(PROMPT) as tracer:
        there = lm.layers[3].output.save()
    home = nl.LanguageModel("tiny")
    with home.trace(PROMPT):
        here = home.layers[3].output.save()

    assert tracer.run.engine == "vllm"
    assert (there - here).abs().max() <= 1e-4


def long_run(lab: Serving) -> tuple[Run, RemoteExecutor]:
    """A run of a hundred steps, under way on vLLM."""
    executor = RemoteExecutor(lab.client(), "tiny")
    steps = range(100)
    nodes = tuple(Read(id=i, address=Address("layers.1", "output"), step=i) for i in steps)
    graph = Graph(nodes, tuple(Output(f"h{i}", i) for i in steps))
    rows = TokenRows(((3, 4, 5),), Generation(100, stop_ids=()))
    run = Run(executor, RunRequest("long", graph, rows))
    run.wait_for(Saved)
    return run, executor


def is_back(lab: Serving) -> bool:
    """Whether vLLM is ready once more; soon."""
    worker = next(iter(lab.catalogue))
    pause = threading.Event()
    for _ in range(int(LONG_S / 0.1)):
        if worker.state is ModelState.READY:
            return True
        pause.wait(0.1)
    return False


def test_a_killed_worker_is_noticed_and_the_engine_comes_back(
    lab: Serving, lm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="nnsight_lab_server")
    run, executor = long_run(lab)
    (victim,) = workers_of_vllm()
    victim.kill()
    killed = time.monotonic()
    last = run.end()
    noticed = time.monotonic() - killed
    state = next(iter(lab.catalogue)).state
    with lm.trace(PROMPT) as meanwhile:
        lm.logits.save()
    back = is_back(lab)
    with lm.trace(PROMPT) as after:
        logits = lm.logits.save()
    executor.client.close()

    assert isinstance(last, Failed)
    assert isinstance(last.error, EngineFailed)
    assert "restarts" in last.error.hint
    assert noticed < 2.0
    assert state is ModelState.RESTARTING
    assert meanwhile.run.engine == "transformers"
    assert "restarting" in meanwhile.run.why
    assert back
    assert after.run.engine == "vllm"
    assert logits.isfinite().all()


def test_a_step_that_never_ends_is_ended_and_the_engine_comes_back(
    lab: Serving, lm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="nnsight_lab_server")
    run, executor = long_run(lab)
    (victim,) = workers_of_vllm()
    victim.suspend()  # it is there, and does nothing
    hung = time.monotonic()
    last = run.end()
    noticed = time.monotonic() - hung
    back = is_back(lab)
    with lm.trace(PROMPT) as after:
        _ = lm.layers[1].output.save()
    executor.client.close()

    assert isinstance(last, Failed)
    assert isinstance(last.error, EngineFailed)
    assert noticed < 3 * STEP_S
    assert back
    assert after.run.engine == "vllm"
    assert not victim.is_running() or victim.status() == "zombie"
