"""A block keeps nothing: what it saved is yours, and goes with the last name you have for it.

The garbage collector is off in these tests: memory comes back at once, not when it next runs.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from tests.support.fixtures import IDS
from tests.support.small_models import small_llama

Refs = list["weakref.ref[Any]"]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def reads(lm: nl.LanguageModel) -> Refs:
    """Saves, among them one without a name, and in a list."""
    kept = []
    with lm.trace(IDS) as tracer:
        h = lm.layers[0].output.save()
        lm.layers[1].output.save()
        for layer in lm.layers:
            kept.append(layer.mlp.output.save())  # noqa: PERF401 - as users write it
    return [weakref.ref(each) for each in (h, kept[0], tracer, tracer.graph, tracer.run)]


def edits(lm: nl.LanguageModel) -> Refs:
    """A constant of the user's, which the block holds while it lasts."""
    steering = torch.ones(32)
    with lm.trace(IDS) as tracer:
        lm.layers[0].output[:, -1] += steering
        logits = lm.logits[:, -1].save()
    return [weakref.ref(each) for each in (steering, logits, tracer)]


def gradients(lm: nl.LanguageModel) -> Refs:
    with lm.trace(IDS) as tracer:
        h = lm.layers[0].output
        with lm.logits[0, -1, 3].backward():
            gradient = h.grad.save()
    return [weakref.ref(gradient), weakref.ref(tracer)]


def invokes(lm: nl.LanguageModel) -> Refs:
    with lm.trace() as tracer:
        with tracer.invoke(IDS):
            h = lm.layers[0].output
        with tracer.invoke(IDS):
            lm.layers[0].output = h * 2
            logits = lm.logits.save()
    return [weakref.ref(logits), weakref.ref(tracer)]


def error_in_the_block(lm: nl.LanguageModel) -> Refs:
    steering = torch.ones(32)
    with suppress(ZeroDivisionError), lm.trace(IDS) as tracer:
        (lm.layers[0].output + steering).save()
        _ = 1 / 0
    return [weakref.ref(steering), weakref.ref(tracer)]


def error_at_a_line(lm: nl.LanguageModel) -> Refs:
    with suppress(nl.errors.ShapeMismatch), lm.trace(IDS) as tracer:
        lm.layers[0].output += torch.ones(7)
    return [weakref.ref(tracer)]


def error_in_the_run(lm: nl.LanguageModel) -> Refs:
    """`index`: known only when the model runs, and out of range."""
    with suppress(nl.errors.OpFailed), lm.trace(IDS) as tracer:
        where = lm.layers[0].output.argmax() + 10_000
        lm.layers[1].output[0][where].save()
    return [weakref.ref(tracer)]


def error_in_the_model(lm: nl.LanguageModel) -> Refs:
    """Of the model's own code."""

    def fail(*_: Any) -> None:
        raise RuntimeError("out of luck")

    handle = lm.module.model.layers[1].mlp.register_forward_hook(fail)
    try:
        with suppress(nl.errors.EngineFailed), lm.trace(IDS) as tracer:
            lm.layers[0].output.save()
            lm.logits.save()
    finally:
        handle.remove()
    return [weakref.ref(tracer)]


BLOCKS: list[Callable[[nl.LanguageModel], Refs]] = [
    reads, edits, gradients, invokes, error_in_the_block, error_at_a_line, error_in_the_run,
    error_in_the_model,
]  # fmt: skip
by_name = pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel(small_llama().module)


@by_name
def test_what_a_block_saved_goes_with_its_last_name(
    lm: nl.LanguageModel, no_collector: None, block: Callable[[nl.LanguageModel], Refs]
) -> None:
    block(lm)
    gc.collect()

    assert [ref() for ref in block(lm)] == [None] * len(block(lm))
    assert gc.collect() == 0


@by_name
def test_a_hundred_blocks_leave_memory_as_it_was(
    lm: nl.LanguageModel, block: Callable[[nl.LanguageModel], Refs]
) -> None:
    for _ in range(20):
        block(lm)
    grown = []
    for _ in range(3):  # other threads of the process allocate too, but not always
        before = _in_use()
        for _ in range(100):
            block(lm)
        blocks, tensors = _in_use()
        assert tensors == before[1]
        grown.append(blocks - before[0])

    assert min(grown) < 300  # a trace that leaves three objects behind would show


def _in_use() -> tuple[int, int]:
    """Pieces of memory that Python holds, and how many tensors there are."""
    gc.collect()
    tensors = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
    return sys.getallocatedblocks(), tensors


def test_a_hundred_different_prompts_and_constants_leave_memory_as_it_was() -> None:
    """Schedules are kept, but only so many."""
    lm = nl.LanguageModel(small_llama().module)

    def run(number: int) -> None:
        with lm.trace([[3 + number % 50] * (1 + number % 7)]):
            lm.layers[0].output[:, -1] += torch.full((32,), float(number))
            lm.logits[:, -1].save()

    for number in range(80):
        run(number)
    before = _in_use()
    for number in range(80, 180):
        run(number)
    blocks, tensors = _in_use()

    assert tensors == before[1]
    assert blocks - before[0] < 1_000


@pytest.mark.parametrize("block", [None, *BLOCKS], ids=lambda b: b.__name__ if b else "unused")
def test_a_model_goes_with_its_last_name(
    no_collector: None, block: Callable[[nl.LanguageModel], Refs] | None
) -> None:
    lm = nl.LanguageModel(small_llama().module)
    if block is not None:
        block(lm)
    weights = weakref.ref(next(lm.module.parameters()))

    gone = [weakref.ref(lm), weakref.ref(lm.module)]
    del lm

    assert [ref() for ref in gone] == [None, None]
    assert weights() is None


def test_a_loaded_model_goes_with_its_last_name() -> None:
    lm = nl.LanguageModel("tiny")
    gone = weakref.ref(lm.module)
    with lm.trace("The capital of France is"):
        lm.logits[:, -1].save()

    del lm
    gc.collect()  # what transformers and tokenizers leave is theirs

    assert gone() is None


def test_a_wrapped_module_goes_with_its_last_name(no_collector: None) -> None:
    net = nl.wrap(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()))
    with net.trace(torch.ones(2, 3)):
        out = net.output.save()
    gone = weakref.ref(net.module)

    del net

    assert gone() is None
    assert out.shape == (2, 3)


def test_a_part_of_a_model_keeps_the_model() -> None:
    layers = nl.LanguageModel(small_llama().module).layers

    assert len(layers) == len(list(layers))
    assert "output" in repr(layers[0])


def test_what_was_recorded_before_an_error_can_be_looked_at(lm: nl.LanguageModel) -> None:
    with suppress(ZeroDivisionError), lm.trace(IDS) as tracer:
        lm.layers[0].output.save()
        _ = 1 / 0

    assert "read layers.0.output" in str(tracer.graph)
