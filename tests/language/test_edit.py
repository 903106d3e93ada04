"""`model.edit()`: edits that are recorded once, and that every later trace begins with."""

from __future__ import annotations

from typing import Any

import einops
import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, GraphError, LabError, NotSupported, ShapeMismatch
from nnsight_lab.ir import Constant
from tests.support.hooks import forward, hooked, outputs_seen, tensor_of
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import D_MODEL, SmallModel
from tests.support.tensors import assert_differs, assert_exactly, assert_same

IDS, SHORT = [[5, 17, 3, 42, 8, 29]], [[11, 2, 60]]
DIRECTION = torch.linspace(-3, 3, D_MODEL)
PROMPT = "The capital of France is"


def steer(stream: torch.Tensor) -> torch.Tensor:
    """The same edit, as a hook has it."""
    changed = stream.clone()
    changed[:, -1] += DIRECTION
    return changed


def test_an_edited_model_is_another_view_of_the_same_weights(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.edit() as edited:
        lm.layers[1].output[:, -1] += DIRECTION

    block = family.at(family.block, 1)
    for prompt in (IDS, SHORT):  # of any size
        with edited.trace(prompt):
            logits = edited.logits.save()
        with lm.trace(prompt):
            untouched = lm.logits.save()
        assert_same(logits, hooked(family.module, prompt, after={block: steer})["logits"])
        assert_same(untouched, forward(family.module, prompt))
        assert_differs(logits, untouched)
    assert edited.module is lm.module


def test_it_runs_the_same_anywhere(anywhere: nl.LanguageModel) -> None:
    with anywhere.edit() as edited:
        edited.layers[2].mlp.output *= 0

    with edited.trace(PROMPT):
        stored = edited.logits.save()
    with anywhere.trace(PROMPT):
        clean = anywhere.logits.save()
        with_in = anywhere.layers[2].mlp.output
    with anywhere.trace(PROMPT):
        anywhere.layers[2].mlp.output *= 0
        written = anywhere.logits.save()

    assert_exactly(stored, written)
    assert_differs(stored, clean)
    assert not with_in.came_back


def test_a_trace_reads_what_was_edited(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.edit() as edited:
        lm.layers[1].output[:] = 0.5

    with edited.trace(IDS):
        seen = edited.layers[1].output.save()
        edited.layers[1].output[:, 0] += 1.0  # and goes on from there
        both = edited.layers[1].output.save()

    assert_exactly(seen, torch.full((1, 6, D_MODEL), 0.5))
    assert_exactly(both[:, 0], torch.full((1, D_MODEL), 1.5))


def test_edits_stack_in_the_order_they_were_made(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.edit() as once:
        lm.layers[1].output *= 2
    with once.edit() as twice:
        once.layers[1].output += 1

    block = family.at(family.block, 1)
    with twice.trace(IDS):
        stream = twice.layers[1].output.save()
        logits = twice.logits.save()

    plain = tensor_of(outputs_seen(family.module, IDS, block)[block])
    assert_same(stream, plain * 2 + 1)
    expected = hooked(family.module, IDS, after={block: lambda h: h * 2 + 1})["logits"]
    assert_same(logits, expected)
    assert (len(lm.edits), len(once.edits), len(twice.edits)) == (0, 1, 2)


def test_inplace_edits_the_model_itself_until_they_are_cleared(llama: SmallModel) -> None:
    lm = nl.LanguageModel(llama.module)
    with lm.edit(inplace=True) as same:
        lm.layers[1].output[:, -1] += DIRECTION

    assert same is lm
    with lm.trace(IDS):
        logits = lm.logits.save()
    assert_differs(logits, forward(llama.module, IDS))

    with lm.edit() as more:
        lm.layers[0].output *= 0
    lm.clear_edits()
    with lm.trace(IDS):
        cleared = lm.logits.save()
    assert_same(cleared, forward(llama.module, IDS))
    assert lm.edits == ()
    assert len(more.edits) == 2  # it keeps what it was made with


def test_every_invoke_begins_with_the_edits(lm: nl.LanguageModel, family: SmallModel) -> None:
    """Each prompt's own last position is edited, not that of the padded batch alone."""
    with lm.edit() as edited:
        lm.layers[1].output[:, -1] += DIRECTION

    with edited.trace() as tracer:
        with tracer.invoke(IDS):
            long = edited.logits.save()
        with tracer.invoke(SHORT):
            edited.layers[2].output[:, 0] *= 0
            short = edited.logits.save()

    def drop(stream: torch.Tensor) -> torch.Tensor:
        changed = stream.clone()
        changed[:, 0] *= 0
        return changed

    one, two = family.at(family.block, 1), family.at(family.block, 2)
    assert_same(long, hooked(family.module, IDS, after={one: steer})["logits"], atol=1e-5)
    expected = hooked(family.module, SHORT, after={one: steer, two: drop})["logits"]
    assert_same(short, expected, atol=1e-5)
    assert_differs(short, hooked(family.module, SHORT, after={one: steer})["logits"])


def test_the_graph_of_a_trace_holds_the_edits(lm: nl.LanguageModel) -> None:
    """So it gives the same wherever it is run, on the edited model and on the plain one."""
    with lm.edit() as edited:
        lm.layers[1].output[:, -1] += DIRECTION
    with edited.trace(IDS) as tracer:
        logits = edited.logits.save()

    assert_exactly(lm.run(tracer.graph, IDS)["logits"], logits)
    assert_exactly(edited.run(tracer.graph, IDS)["logits"], logits)


def test_any_operation_on_any_part_can_be_stored(lm: nl.LanguageModel, family: SmallModel) -> None:
    """Heads, weights, modules out of order, and values read earlier in the model."""
    with lm.edit() as edited:
        early = lm.layers[0].output
        h = lm.layers[1].output
        width = h.shape[-1]
        assert width == D_MODEL
        heads = h.unflatten(-1, (4, width // 4))
        heads[:, :, 2] = 0
        h += lm.norm(early) * lm.norm.weight.abs().mean()
    with lm.trace(IDS):
        early = lm.layers[0].output
        h = lm.layers[1].output
        h.unflatten(-1, (4, 8))[:, :, 2] = 0
        h += lm.norm(early) * lm.norm.weight.abs().mean()
        expected = lm.logits.save()
    with edited.trace(IDS):
        logits = edited.logits.save()

    assert_exactly(logits, expected)
    assert_differs(logits, forward(family.module, IDS))


def test_sizes_of_the_prompt_are_those_of_each_prompt(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """As code for any model is written: `batch, pos, _ = h.shape`."""

    def heads_off(h: Any) -> None:
        batch, pos, width = h.shape
        assert width == D_MODEL
        h.view(batch, pos, 4, width // 4)[:, :, 1] = 0
        h[:, pos - 1] += h.sum(1) / pos
        h += h.size(1) * 2 - h.numel() % 7
        h[:, : pos // 2] *= 0.5
        assert pos == h.shape[1]
        assert pos > 0

    with lm.edit() as edited:
        heads_off(lm.layers[1].output)
    for prompt in (IDS, SHORT, [[7, 8, 9, 10], [1, 2, 3, 4]]):
        with edited.trace(prompt) as tracer:
            logits = edited.logits.save()
        with lm.trace(prompt):
            heads_off(lm.layers[1].output)
            expected = lm.logits.save()
        assert_exactly(logits, expected)
        assert_differs(logits, forward(family.module, prompt))
        assert "Tensor.size" not in str(tracer.graph)


def test_einops_works_on_prompts_of_any_size(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.edit() as edited:
        h = lm.layers[1].output
        heads = einops.rearrange(h, "b p (head d) -> b p head d", head=4)
        h[:] = einops.rearrange(heads.flip(2), "b p head d -> b p (head d)")
    for prompt in (IDS, SHORT):
        with edited.trace(prompt):
            logits = edited.logits.save()
        flip = {family.at(family.block, 1): lambda h: h.unflatten(-1, (4, 8)).flip(2).flatten(-2)}
        assert_same(logits, hooked(family.module, prompt, after=flip)["logits"])


def test_a_wrapped_module_is_edited_without_knowing_its_inputs() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    net = nl.wrap(module)
    with net.edit() as edited:
        net[0].output[:, 0] = 7.0
    with net.edit() as filled:
        net[0].output = 7.0
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))

    with edited.trace(x):
        out = edited.output.save()

    hidden = module[0](x).detach()
    hidden[:, 0] = 7.0
    assert_same(out, module[2](module[1](hidden)).detach())
    assert_differs(out, module(x).detach())
    with filled.trace(x):
        out = filled.output.save()
    assert_same(out, module[2](torch.full((2, 4), 7.0)).detach())


def test_what_a_model_begins_with_is_printed(llama: SmallModel) -> None:
    lm = nl.LanguageModel(llama.module)
    with lm.edit() as edited:
        lm.layers[1].output *= 2
        lm.layers[2].mlp.output *= 2

    assert "stored edit" not in repr(lm)
    assert "1 stored edit>" in repr(edited)
    assert "layers.1.output, layers.2.mlp.output" in repr(edited.edits[0])
    assert "test_edit.py" in repr(edited.edits[0])


def test_a_constant_is_in_the_graph_once_however_many_prompts_there_are(
    lm: nl.LanguageModel,
) -> None:
    with lm.edit() as edited:
        lm.layers[1].output[:, -1] += DIRECTION

    with edited.trace() as tracer:
        for _ in range(3):
            with tracer.invoke(IDS):
                edited.logits.save()

    constants = [node for node in tracer.graph if isinstance(node, Constant)]
    assert len(constants) == 1
    assert len(tracer.graph.writes()) == 3


# What cannot be stored


def test_nothing_is_saved_in_an_edit_block(lm: nl.LanguageModel) -> None:
    with pytest.raises(GraphError, match="does not run") as caught, lm.edit():
        lm.logits.save()  # save in an edit

    assert_at(caught.value, "save in an edit")
    with pytest.raises(GraphError, match="does not run"), lm.edit():
        found = nl.save([])
        found.append(lm.logits)
    assert frames_of_ours(caught.value) <= 1


@pytest.mark.parametrize("use", ["range", "len", "iteration", "parts", "question", "bytes"])
def test_a_size_of_the_prompt_that_python_needs_at_once_is_refused(
    lm: nl.LanguageModel, use: str
) -> None:
    """What is unrolled or decided for one prompt would be wrong for the next."""

    def block(h: Any) -> Any:
        _, pos, _ = h.shape
        if use == "range":
            return list(range(pos))  # of one size
        if use == "len":
            return len(h)
        if use == "iteration":
            return list(h)
        if use == "parts":
            return h.unbind(1)
        if use == "question":
            return pos > 1010
        return h.nbytes

    with pytest.raises(BadInput, match="any size") as caught, lm.edit():
        block(lm.layers[0].output)

    assert caught.value.hint
    assert caught.value.where is not None
    assert caught.value.where.file == __file__
    assert frames_of_ours(caught.value) <= 1
    if use == "range":
        assert_at(caught.value, "of one size")


def test_an_edit_that_does_not_fit_a_prompt_names_its_own_line(lm: nl.LanguageModel) -> None:
    with lm.edit() as edited:
        lm.layers[0].output[:, 5] = 0.0  # the sixth position

    with pytest.raises(LabError) as caught, edited.trace(SHORT):
        edited.logits.save()

    assert isinstance(caught.value, ShapeMismatch)
    assert_at(caught.value, "the sixth position")
    with edited.trace(IDS):  # and nothing is left open
        assert edited.logits.shape == (1, 6, 61)


def test_a_gradient_cannot_be_stored(lm: nl.LanguageModel) -> None:
    with pytest.raises(NotSupported, match="gradient") as caught, lm.edit():
        h = lm.layers[0].output
        lm.logits[0, -1, 3].backward()
        h += h.grad  # a gradient
    assert_at(caught.value, "a gradient")


def test_an_edit_block_is_no_place_for_a_trace_nor_a_trace_for_one(lm: nl.LanguageModel) -> None:
    with pytest.raises(GraphError, match="already open"), lm.edit(), lm.trace(IDS):
        pass
    with pytest.raises(GraphError, match="already open"), lm.trace(IDS), lm.edit():
        pass


def test_a_block_that_raises_stores_nothing(lm: nl.LanguageModel) -> None:
    with pytest.raises(ZeroDivisionError), lm.edit(inplace=True):
        lm.layers[0].output *= 0
        _ = 1 / 0

    assert lm.edits == ()
    with lm.trace(IDS):
        assert lm.logits.shape == (1, 6, 61)
