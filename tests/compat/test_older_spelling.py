"""What programs written for nnsight 0.4 to 0.7 say otherwise than 0.8."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab.compat as nnsight
from nnsight_lab.errors import NotSupported
from tests.compat.random_models import FRANCE, gpt2, ids, llama, tokenizer
from tests.support.generation_hooks import generated
from tests.support.hooks import forward, hooked, outputs_seen
from tests.support.tensors import assert_differs, assert_same


@pytest.fixture
def model() -> Any:
    return nnsight.LanguageModel(llama(), tokenizer=tokenizer())


def test_next_goes_on_to_the_next_step(model: Any) -> None:
    expected = generated(llama(), ids(), see=("lm_head",), max_new_tokens=3).seen["lm_head"]

    with model.generate(FRANCE, max_new_tokens=3):
        first = model.lm_head.output.save()
        second = model.lm_head.next().output.save()
        third = model.lm_head.next().output.save()

    for found, seen in zip((first, second, third), expected, strict=True):
        assert_same(found[:, -1], seen[:, -1])


def test_tracer_next_goes_on_for_all_modules(model: Any) -> None:
    expected = generated(llama(), ids(), see=("model.layers.0",), max_new_tokens=2)

    with model.generate(FRANCE, max_new_tokens=2) as tracer:
        tracer.next()
        hidden = model.model.layers[0].output.save()

    assert_same(hidden, expected.seen["model.layers.0"][1])


def test_the_generators_output_are_the_ids(model: Any) -> None:
    with model.generate(FRANCE, max_new_tokens=3):
        found = model.generator.output.save()

    assert found.tolist() == generated(llama(), ids(), max_new_tokens=3).ids.tolist()


def test_the_steps_are_the_models_too(model: Any) -> None:
    with model.generate(FRANCE, max_new_tokens=3) as tracer:
        best = nnsight.list().save()
        for _ in model.all():
            best.append(model.lm_head.output[0, -1].argmax())
    with model.generate(FRANCE, max_new_tokens=3) as tracer:
        for _ in model.lm_head.iter[1:3]:
            model.lm_head.output[:] = 0
        ids_made = tracer.result.save()

    assert (
        torch.stack(best).tolist()
        == ids_made.new_tensor(
            generated(llama(), ids(), max_new_tokens=3).ids[0, -3:].tolist()
        ).tolist()
    )
    assert ids_made[0, -2:].tolist() == [0, 0]


def test_an_edit_gives_the_model_and_also_unpacks(model: Any) -> None:
    with model.edit() as edited:
        edited.model.layers[1].mlp.output[:] = 0
    with model.edit() as (tracer, taken):
        for _ in tracer.iter[:]:
            model.model.layers[1].mlp.output[:] = 0

    expected = hooked(llama(), ids(), after={"model.layers.1.mlp": torch.zeros_like})["logits"]
    for which in (edited, taken):
        with which.trace(FRANCE):
            logits = which.lm_head.output.save()
        assert_same(logits, expected)
    with model.trace(FRANCE):
        clean = model.lm_head.output.save()
    assert_same(clean, forward(llama(), ids()))
    assert_differs(clean, expected)
    assert [child.path for child in edited] == ["model.model", "model.lm_head"]


def test_apply_and_log(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with model.trace(FRANCE) as tracer:
        probabilities = nnsight.apply(torch.softmax, model.lm_head.output, dim=-1).save()
        nnsight.log(probabilities.sum())
        tracer.log(model.lm_head.output.shape)

    assert_same(probabilities, forward(llama(), ids()).softmax(-1))
    assert "tensor(" in capsys.readouterr().out


def test_a_branch_in_the_graph(model: Any) -> None:
    with model.trace(FRANCE):
        norm = model.model.layers[0].output.norm()
        scale = nnsight.cond(norm > 1, lambda: norm * 0, lambda: norm)
        model.model.layers[1].output *= scale
        logits = model.lm_head.output.save()

    assert_same(logits, hooked(llama(), ids(), after={"model.layers.1": lambda x: x * 0})["logits"])


def test_a_branch_as_a_block_is_written_as_an_if(model: Any) -> None:
    with pytest.raises(NotSupported, match="cond") as caught, model.trace(FRANCE):
        with nnsight.cond(model.lm_head.output.norm() > 1):
            pass

    assert "if value:" in caught.value.hint


def test_a_barrier_may_be_called_any_number_of_times() -> None:
    model: Any = nnsight.LanguageModel(gpt2(), tokenizer=tokenizer())
    with model.trace() as tracer:
        barrier = tracer.barrier(7)
        with tracer.invoke(FRANCE):
            barrier()
            hidden = model.transformer.wte.output
        with tracer.invoke("The capital of Italy is"):
            model.transformer.wte.output = hidden
            logits = model.lm_head.output.save()

    assert_same(logits, forward(gpt2(), ids()))


def test_a_cache_goes_by_path_and_by_attribute(model: Any) -> None:
    with model.trace(FRANCE) as tracer:
        cache = tracer.cache(modules=["model.model.layers.0", model.model.layers[1].mlp])

    path = "model.layers.0"
    seen = outputs_seen(llama(), ids(), path)[path]
    assert_same(cache["model.model.layers.0"].output, seen)
    assert_same(cache.model.model.layers[0].output, seen)
    assert list(cache) == ["model.model.layers.0", "model.model.layers.1.mlp"]


def test_a_stored_edit_holds_at_every_step_with_or_without_the_loop(model: Any) -> None:
    with model.edit() as plain:
        plain.model.layers[1].output[:, -1] += 3
    with model.edit() as (tracer, looped):
        for _ in tracer.iter[:]:
            looped.model.layers[1].output[:, -1] += 3

    def steered(_: int, value: torch.Tensor) -> torch.Tensor:
        value[:, -1] += 3
        return value

    expected = generated(llama(), ids(), after={"model.layers.1": steered}, max_new_tokens=4).ids
    for which in (plain, looped):
        with which.generate(FRANCE, max_new_tokens=4) as tracer:
            made = tracer.result.save()
        assert made.tolist() == expected.tolist()
