"""A vLLM engine behind a real server gives what the model gives at home, or says no before it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

import nnsight_lab as nl
from nnsight_lab.contract import Done, Failed, Generation, RunRequest, Saved, TokenRows
from nnsight_lab.errors import (
    BadInput,
    Cancelled,
    LabError,
    LimitExceeded,
    NotSupported,
    OpFailed,
)
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.ir import Address, Graph, Output, Read
from nnsight_lab_server.config import ServerLimits
from tests.server.lab_server import TOKEN, Run, Serving, reads, serving
from tests.server.vllm.vllm_server import vllm_engine

PROMPT = "The old man put the book on"
NEAR = 1e-4


@pytest.fixture(scope="module")
def lab() -> Iterator[Serving]:
    with serving(("tiny", vllm_engine), limits=ServerLimits(run_s=20.0)) as running:
        yield running


@pytest.fixture(scope="module")
def there(lab: Serving) -> Any:
    return nl.connect(lab.url, token=TOKEN).model("tiny")


@pytest.fixture(scope="module")
def here() -> nl.LanguageModel:
    return nl.LanguageModel("tiny")


def same(one: Any, other: Any) -> bool:
    assert one.shape == other.shape
    return bool((one - other).abs().max() <= NEAR)


def test_its_card_says_what_it_can(there: Any) -> None:
    able = there.card.capabilities

    assert able.engine == "vllm"
    assert {"trace", "generate", "tokens"} <= able.features
    assert not {"gradient", "source", "local_fn"} & able.features


def test_reads_and_edits_are_those_of_the_model_at_home(there: Any, here: Any) -> None:
    found = {}
    for where, lm in (("there", there), ("here", here)):
        with lm.trace(PROMPT):
            stream = lm.layers[2].output.save()
            neurons = lm.layers[1].mlp.neurons.save()
            lm.layers[3].output[:, -1] += 3.0
            logits = lm.logits.save()
        with lm.trace(PROMPT):
            plain = lm.logits.save()
        found[where] = (stream, neurons, logits, plain)

    assert all(map(same, found["there"], found["here"]))
    assert (found["there"][2] - found["there"][3]).abs().max() > 0.1


def test_prompts_of_unequal_length_are_edited_as_at_home(there: Any, here: Any) -> None:
    def edited(lm: Any, factor: float) -> Any:
        with lm.trace([[5, 7, 9], list(range(20, 40))]):
            lm.layers[0].output[:] *= factor
            lm.layers[1].output[:, :, 3] = lm.layers[1].output[:, :, 3] * 2 + 1
            lm.layers[2].output[1:] *= factor
            logits = lm.logits[:, -1].save()
        return logits

    assert same(edited(there, 0.5), edited(here, 0.5))
    assert not same(edited(here, 0.5), edited(here, 1.0))


def test_an_edit_in_one_request_is_gone_from_the_next(there: Any) -> None:
    def plain() -> torch.Tensor:
        with there.trace(PROMPT):
            logits: torch.Tensor = there.logits.save()
        return logits

    before = plain()
    with there.trace(PROMPT):
        there.layers[0].output[:] = 0.0
        _ = there.logits.save()
    after = plain()

    assert torch.equal(before, after)


def test_a_generation_streams_its_tokens_and_values_step_by_step(there: Any, here: Any) -> None:
    found = {}
    for where, lm in (("there", there), ("here", here)):
        with lm.generate(PROMPT, max_new_tokens=6) as tracer:
            rows = [lm.layers[1].output[:, -1].save() for _ in tracer.iter[:]]
        found[where] = rows, tracer.run.tokens

    assert found["there"][1] == found["here"][1]
    assert len(found["there"][0]) == len(found["here"][0]) == 6
    assert all(map(same, found["there"][0], found["here"][0]))


def test_tokens_come_after_the_values_of_their_step(lab: Serving) -> None:
    client = lab.client()
    executor = RemoteExecutor(client, "tiny")
    request = RunRequest("s", reads("layers.1.output"), TokenRows(((3, 4, 5),), Generation(3)))
    run = Run(executor, request)
    last = run.end()
    kinds = [type(event).__name__ for event in run.events]
    client.close()

    assert isinstance(last, Done)
    assert kinds.index("Saved") < kinds.index("Done")


def test_a_session_keeps_its_values_on_the_server(there: Any, here: Any) -> None:
    found = []
    for lm in (there, here):
        with lm.session():
            with lm.trace("The cat sat on the mat"):
                donor = lm.layers[2].output[:, -1]
            with lm.trace(PROMPT):
                lm.layers[2].output[:, -1] = donor
                logits = lm.logits[:, -1].save()
        found.append(logits)

    assert same(*found)


def test_sixteen_at_once_give_what_each_gives_alone(lab: Serving) -> None:
    def one(number: int) -> torch.Tensor:
        lm = nl.connect(lab.url, token=TOKEN).model("tiny")
        with lm.trace("word " * (number + 3)):
            lm.layers[number % 6].output[:, 0] += float(number)
            logits: torch.Tensor = lm.logits.save()
        return logits

    alone = [one(number) for number in range(16)]
    with ThreadPoolExecutor(16) as threads:
        together = list(threads.map(one, range(16)))

    assert all((a - b).abs().max() <= 1e-4 for a, b in zip(alone, together, strict=True))


def test_an_empty_trace_needs_no_engine(there: Any) -> None:
    with there.trace(PROMPT) as tracer:
        pass

    assert tracer.run.steps == 1


def test_a_failing_graph_ends_alone_and_names_its_line(there: Any) -> None:
    with pytest.raises(OpFailed) as caught, there.trace(PROMPT):
        h = there.layers[1].output
        _ = torch.linalg.inv(h[0, 0].outer(h[0, 0]) * 0.0).save()  # here
    with there.trace(PROMPT):
        logits = there.logits.save()

    assert "# here" in str(caught.value)
    assert logits.isfinite().all()


def refused_gradient(lm: Any) -> None:
    with lm.trace(PROMPT):
        h = lm.layers[1].output
        with lm.logits.sum().backward():
            _ = h.grad.save()  # here


def refused_source(lm: Any) -> None:
    with lm.trace(PROMPT):
        _ = lm.model.layers[0].mlp.source.mul_0.output.save()  # here


def refused_padding(lm: Any) -> None:
    with lm.trace(["one two three", "one"]):
        _ = lm.layers[1].output.mean(1).save()  # here


@pytest.mark.parametrize("program", [refused_gradient, refused_source, refused_padding])
def test_what_it_cannot_do_is_refused_before_it_is_queued(program: Any, there: Any) -> None:
    with pytest.raises(NotSupported) as caught:
        program(there)

    assert "# here" in str(caught.value)
    assert caught.value.hint


def test_a_prompt_that_is_too_long_is_refused(there: Any) -> None:
    with pytest.raises(LabError) as caught, there.trace([list(range(3, 203))]):
        _ = there.logits.save()

    assert isinstance(caught.value, BadInput | LimitExceeded)


def long_run(lab: Serving) -> tuple[Run, RemoteExecutor]:
    """A run of a hundred steps, under way."""
    executor = RemoteExecutor(lab.client(), "tiny")
    rows = TokenRows(((3, 4, 5),), Generation(100, stop_ids=()))
    everywhere = tuple(
        Read(id=step, address=Address("layers.1", "output"), step=step) for step in range(100)
    )
    graph = Graph(everywhere, tuple(Output(f"h{step}", step) for step in range(100)))
    run = Run(executor, RunRequest("long", graph, rows))
    run.wait_for(Saved)
    return run, executor


def is_idle(lab: Serving) -> bool:
    """Whether nothing is left of any run, in the server and in vLLM; soon."""
    engine = next(iter(lab.catalogue)).engine
    pause = threading.Event()
    for _ in range(500):
        if engine.under_way == (0, 0):
            return True
        pause.wait(0.02)
    return False


def test_a_run_that_is_cancelled_ends_and_leaves_nothing(lab: Serving) -> None:
    run, executor = long_run(lab)
    executor.cancel("long")
    last = run.end()
    executor.client.close()

    assert isinstance(last, Failed)
    assert isinstance(last.error, Cancelled)
    assert is_idle(lab)


def test_a_client_that_goes_leaves_no_run_behind(lab: Serving) -> None:
    run, executor = long_run(lab)
    executor.client.close()
    last = run.end()

    assert isinstance(last, Failed)
    assert is_idle(lab)
