"""What the module offers, what it refuses with a next step, and what it leaves behind: nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

import nnsight_lab.compat as nnsight
from nnsight_lab.compat.elsewhere import INSTEAD, NAMES
from nnsight_lab.errors import (
    AddressNotFound,
    BadInput,
    GraphError,
    LabError,
    NotSaved,
    NotSupported,
    ShapeMismatch,
)
from tests.compat.random_models import FRANCE, gpt2, ids, mlp, tokenizer
from tests.support.hooks import forward
from tests.support.tensors import assert_same

PLAIN: tuple[Any, ...] = ([], {}, (), 1, "a", torch.ones(1))


@pytest.fixture(scope="module")
def model() -> Any:
    return nnsight.LanguageModel(gpt2(), tokenizer=tokenizer())


@pytest.mark.parametrize("name", [*INSTEAD, "Langagemodel", "nothing_like_it"])
def test_a_name_that_is_not_here_says_what_to_write_instead(name: str) -> None:
    with pytest.raises(NotSupported, match=name) as caught:
        getattr(nnsight, name)

    assert caught.value.hint
    assert caught.value.where is not None
    assert caught.value.where.file == __file__


def test_a_name_that_is_nearly_one_is_offered() -> None:
    near = "LangageModel"

    with pytest.raises(NotSupported) as caught:
        getattr(nnsight, near)

    assert "nnsight.LanguageModel" in caught.value.hint
    assert all(hasattr(nnsight, name) for name in NAMES)
    assert not hasattr(nnsight, "__wrapped__")


@pytest.mark.parametrize(
    "verb",
    [
        lambda model: model.trace(FRANCE, blocking=False),
        lambda model: model.trace(FRANCE, labels=[1]),
        lambda model: model.trace(FRANCE, backend=object()),
        lambda model: model.generate(FRANCE, num_beams=3),
        lambda model: model.generator.streamer,
        lambda model: nnsight.LanguageModel("tiny", task="fill-mask"),
        lambda model: nnsight.NNsight(mlp()).trace(torch.ones(1, 4), remote=True),
    ],
)
def test_an_option_that_is_not_here_is_refused(verb: Any, model: Any) -> None:
    with pytest.raises((NotSupported, BadInput)) as caught:
        verb(model)

    assert caught.value.hint
    assert caught.value.where is not None
    assert caught.value.where.file == __file__


def test_a_model_given_as_a_module_is_on_no_server(model: Any) -> None:
    with pytest.raises(BadInput, match="by name"):
        model.trace(FRANCE, remote=True)


def test_errors_are_at_the_users_line(model: Any) -> None:
    with pytest.raises(ShapeMismatch) as shape, model.trace(FRANCE):
        model.transformer.h[0].output[:] = torch.ones(5)
    with pytest.raises(AddressNotFound) as address, model.trace(FRANCE):
        model.transformer.h[0].mpl.output.save()
    with pytest.raises(GraphError) as outside:
        model.transformer.h[0].output.save()

    for caught in (shape, address, outside):
        error: LabError = caught.value
        assert error.where is not None
        assert error.where.file == __file__
        assert error.hint


def test_the_bodys_own_exception_comes_out_as_it_is(model: Any) -> None:
    with pytest.raises(ZeroDivisionError), model.trace(FRANCE):
        1 / 0  # noqa: B018

    with model.trace(FRANCE):
        logits = model.lm_head.output.save()
    assert_same(logits, forward(gpt2(), ids()))


def test_plain_values_have_save_inside_a_block_and_never_outside(model: Any) -> None:
    assert not any(hasattr(value, "save") for value in PLAIN)

    with model.trace(FRANCE):
        width = model.lm_head.output.shape[-1].save()
        values = [].save()  # type: ignore[attr-defined]
        values.append(model.lm_head.output)
        with nnsight.NNsight(mlp()).trace(torch.ones(1, 4)):
            pass
        assert hasattr([], "save")

    assert width == len(tokenizer())
    assert_same(values[0], forward(gpt2(), ids()))
    assert not any(hasattr(value, "save") for value in PLAIN)
    with pytest.raises(ZeroDivisionError), model.trace(FRANCE):
        1 / 0  # noqa: B018
    assert not hasattr([], "save")


def test_plain_values_are_left_alone_when_told_so(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnsight.CONFIG.APP, "PYMOUNT", False)

    with model.trace(FRANCE):
        assert not hasattr([], "save")
        values = nnsight.save([])
        values.append(model.lm_head.output)

    assert_same(values[0], forward(gpt2(), ids()))


def test_two_threads_trace_one_model_at_once(model: Any) -> None:
    prompts, found = [FRANCE, "The capital of Italy is"] * 2, {}

    def work(place: int) -> None:
        with model.trace(prompts[place]):
            values = [].save()  # type: ignore[attr-defined]
            values.append(model.lm_head.output)
        found[place] = values[0]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for place, prompt in enumerate(prompts):
        assert_same(found[place], forward(gpt2(), ids(prompt)))
    assert not hasattr([], "save")


def test_a_value_that_was_not_saved_does_not_come_back(model: Any) -> None:
    with model.trace(FRANCE):
        hidden = model.transformer.h[0].output

    with pytest.raises(NotSaved):
        hidden.sum().item()


def test_weights_are_loaded_when_they_are_first_needed() -> None:
    model: Any = nnsight.LanguageModel("tiny", device_map="cpu", torch_dtype=torch.float32)
    assert model._here is None

    with model.trace(FRANCE):
        logits = model.lm_head.output.save()

    assert_same(logits, forward(model._model, ids()))
    assert model.config.vocab_size == logits.shape[-1]
    assert model.device == torch.device("cpu")
    assert type(model._module) is type(model._model)


def test_the_tree_is_the_models_own(model: Any) -> None:
    assert model.transformer.h[0].attn.path == "model.transformer.h.0.attn"
    assert len(model.transformer.h) == 3
    assert [layer.path[-1] for layer in model.transformer.h] == ["0", "1", "2"]
    assert model.get("transformer.h.1.mlp").path == "model.transformer.h.1.mlp"
    assert model.transformer.h[0].mlp.parent.path == "model.transformer.h.0"
    assert torch.is_tensor(model.lm_head.weight)
    named = [f"model.{path}".rstrip(".") for path, _ in gpt2().named_modules()]
    assert sorted(path for path, _ in model.named_modules()) == sorted(named)


def test_a_call_outside_a_block_is_torchs(model: Any) -> None:
    hidden = torch.ones(1, 2, 32)

    assert_same(model.lm_head(hidden), gpt2().lm_head(hidden))


def test_a_block_adds_nothing_to_what_torch_says_it_can_do() -> None:
    """torch remembers its methods from when it is first asked, which may be in a block."""
    program = (
        "import torch, nnsight_lab.compat as nnsight\n"
        "model = nnsight.NNsight(torch.nn.Linear(2, 2))\n"
        "with model.trace(torch.zeros(1, 2)):\n"
        "    out = (model.output * 2).save()\n"
        "    known = torch.overrides.get_overridable_functions()\n"
        "names = {f.__name__ for group in known.values() for f in group}\n"
        "assert 'mul' in names and 'save' not in names, sorted(names)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
