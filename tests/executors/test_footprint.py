"""Outside a run we are not there: no hook, no setting, no flag is left, however a run ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab.contract import RunEvent, Saved, Started
from tests.support.fixtures import IDS
from tests.support.hooks import forward
from tests.support.small_models import SmallModel, small_gpt2, small_llama
from tests.support.tensors import assert_exactly


def _hooks(module: nn.Module) -> int:
    """Every hook of every kind on every part."""
    kinds = [name for name in vars(module) if name.endswith("_hooks") or "_hooks_" in name]
    assert "_forward_hooks" in kinds
    return sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)


def _traits(module: Any) -> dict[str, Any]:
    return {
        "hooks": _hooks(module),
        "attention": module.config._attn_implementation,
        "training": [part.training for part in module.modules()],
        "gradients": [weight.requires_grad for weight in module.parameters()],
        "grad mode": torch.is_grad_enabled(),
        "weights": [weight.detach().clone() for weight in module.parameters()],
        "forward": [part.forward.__func__ for part in module.modules()],
    }


@contextmanager
def _leaves_no_trace(module: Any) -> Iterator[None]:
    before, logits = _traits(module), forward(module, IDS)
    yield
    after = _traits(module)
    weights, weights_before = after.pop("weights"), before.pop("weights")
    assert after == before
    assert all(map(torch.equal, weights, weights_before))
    assert_exactly(forward(module, IDS), logits)


def _everything(lm: nl.LanguageModel) -> None:
    """A block that touches every kind of hook point."""
    with lm.trace(IDS):
        lm.layers[0].attn.q[:, 0] = 0.0
        lm.layers[1].attn.pattern[:, 0] *= 0.5
        lm.layers[1].input[:, 1] = 0.0
        lm.layers[2].output += 1.0
        lm.logits.save()


def _error_in_the_block(lm: nl.LanguageModel) -> None:
    with suppress(ZeroDivisionError), lm.trace(IDS):
        lm.layers[0].attn.pattern.save()
        _ = 1 / 0


def _failing_operation(lm: nl.LanguageModel) -> None:
    """`multi_margin`: an index found by the model is out of range when it runs."""
    with pytest.raises(nl.errors.OpFailed), lm.trace(IDS):
        where = lm.layers[1].attn.pattern.argmax() + 10_000
        lm.layers[1].output[0][where].save()
        lm.logits.save()


def _refused_graph(lm: nl.LanguageModel) -> None:
    with pytest.raises(nl.errors.ShapeMismatch), lm.trace(IDS):
        lm.layers[0].output += torch.ones(7)


def _interrupted(lm: nl.LanguageModel) -> None:
    """Ctrl-C in the middle of the forward pass."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    middle = lm.module.get_submodule(lm.tree.module_of["layers.1.mlp"])
    handle = middle.register_forward_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt), lm.trace(IDS):
            lm.layers[0].attn.pattern.save()
            lm.layers[0].attn.k.save()
            lm.logits.save()
    finally:
        handle.remove()


def _failing_model(lm: nl.LanguageModel) -> None:
    """An error of the model's own code, below a place that is listened to."""

    def fail(*_: Any) -> None:
        raise RuntimeError("out of luck")

    middle = lm.module.get_submodule(lm.tree.module_of["layers.1.mlp"])
    handle = middle.register_forward_pre_hook(fail)
    try:
        with pytest.raises(nl.errors.EngineFailed, match="out of luck"), lm.trace(IDS):
            lm.layers[0].attn.pattern.save()
            lm.layers[1].output += 1.0
            lm.logits.save()
    finally:
        handle.remove()


def _failing_backward(lm: nl.LanguageModel) -> None:
    """A loss that does not depend on the place: known when the gradient is taken."""
    with pytest.raises(nl.errors.OpFailed), lm.trace(IDS):
        beside = lm.layers[0].output * 2
        with lm.logits.sum().backward():
            beside.grad.save()


def _error_of_the_listener(lm: nl.LanguageModel) -> None:
    """Whoever is told of the values raises; in a notebook, a view of them."""
    with lm.trace(IDS, execute=False) as tracer:
        lm.layers[0].attn.pattern.save()
        lm.logits.save()

    def fail(event: RunEvent) -> None:
        if isinstance(event, Saved):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lm.run(tracer.graph, IDS, on_event=fail)


def _cancelled(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS, execute=False) as tracer:
        lm.layers[1].attn.pattern.save()
        lm.logits.save()

    def cancel(event: RunEvent) -> None:
        if isinstance(event, Started):
            for run in running:
                lm.executor.cancel(run)

    running: list[str] = []
    original = lm.executor.run

    def run(request: Any, emit: Any) -> None:
        running.append(request.id)
        original(request, emit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm.executor, "run", run)
        with pytest.raises(nl.errors.Cancelled):
            lm.run(tracer.graph, IDS, on_event=cancel)


ENDINGS: list[Callable[[nl.LanguageModel], None]] = [
    _everything, _error_in_the_block, _failing_operation, _failing_model, _failing_backward,
    _refused_graph, _interrupted, _error_of_the_listener, _cancelled,
]  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
def test_a_run_leaves_nothing_behind(
    lm: nl.LanguageModel, family: SmallModel, ending: Callable[[nl.LanguageModel], None]
) -> None:
    with _leaves_no_trace(family.module):
        ending(lm)
    with lm.trace(IDS):
        logits = lm.logits.save()
    assert_exactly(logits, forward(family.module, IDS))


@pytest.mark.parametrize("build", [small_llama, small_gpt2])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_models_choice_of_attention_is_kept(
    build: Callable[[], SmallModel], implementation: str
) -> None:
    """With either implementation: same numbers, same tuple, same setting afterwards."""
    module = build().module
    module.set_attn_implementation(implementation)
    lm = nl.LanguageModel(module)
    with _leaves_no_trace(module):
        with lm.trace(IDS):
            pattern = lm.layers[1].attn.pattern.save()
            handed_on = lm.get(lm.tree.module_of["layers.1.attn"]).output.save()
        with lm.trace(IDS):
            alone = lm.get(lm.tree.module_of["layers.1.attn"]).output.save()
    assert pattern.shape == (1, 4, 6, 6)
    if implementation == "eager":
        assert_exactly(handed_on[1], pattern)
        assert_exactly(alone[1], pattern)
    else:
        assert handed_on[1] is None
        assert alone[1] is None


def test_a_model_in_training_goes_on_training() -> None:
    """A run of a language model has no dropout; the flags are back afterwards, weights untouched."""
    module = small_gpt2(resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5).module
    expected = forward(module, IDS)
    module.train()
    lm = nl.LanguageModel(module)
    before = _traits(module)
    with lm.trace(IDS):
        logits = lm.logits.save()
    after = _traits(module)
    assert_exactly(logits, expected)
    assert all(after["training"])
    assert after["training"] == before["training"]
    assert not logits.requires_grad


def test_other_peoples_hooks_stay(llama: SmallModel) -> None:
    """A hook that was there before sees every run once, and is there after."""
    lm = nl.LanguageModel(llama.module)
    seen: list[tuple[int, ...]] = []
    handle = llama.module.model.layers[1].register_forward_hook(
        lambda _, __, output: seen.append(tuple(output.shape))
    )
    with lm.trace(IDS):
        lm.layers[1].output.save()
        lm.logits.save()
    handle.remove()
    assert seen == [(1, 6, 32)]


def test_a_plain_forward_in_another_thread_is_not_heard(llama: SmallModel) -> None:
    """While one thread runs a trace, another uses the model as if nothing were there."""
    lm = nl.LanguageModel(llama.module)
    expected = forward(llama.module, IDS)
    with lm.trace(IDS, execute=False) as tracer:
        lm.layers[1].output[:] = 0.0
        lm.layers[1].attn.q[:] = 0.0
        lm.layers[0].output.save()
        lm.logits.save()
    results: list[torch.Tensor] = []
    handle = llama.module.model.layers[0].mlp.register_forward_pre_hook(
        lambda *_: beside() if not results else None
    )

    def beside() -> None:
        def plain() -> None:
            handle.remove()
            results.append(forward(llama.module, IDS))

        thread = threading.Thread(target=plain)
        thread.start()
        thread.join(timeout=30)

    run = lm.run(tracer.graph, IDS)
    assert len(results) == 1
    assert_exactly(results[0], expected)
    assert run["saved_1"].abs().max() > 0
