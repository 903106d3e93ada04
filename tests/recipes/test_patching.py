"""Patching gives, cell by cell, what a plain model with hooks gives; and can be watched and ended."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab import errors
from nnsight_lab.contract import Done
from nnsight_lab.models.under_way import watching
from nnsight_lab.recipes import (
    Cancel,
    PatchedRow,
    activation_patching,
    attribution_patching,
    patching_rows,
)
from tests.recipes.by_hand import (
    CLEAN,
    CORRUPT,
    D_HEAD,
    HEADS,
    LAYERS,
    close,
    difference,
    ids_of,
    part_of,
    patched,
    plain,
)
from tests.support.tensors import assert_differs

METRIC = (" Mary", " John")


def by_hand(tiny: nl.LanguageModel, part: str, layers: range) -> torch.Tensor:
    """The metric after each patch, one forward pass a cell: `[layer, column]`."""
    clean, corrupt = ids_of(tiny, CLEAN), ids_of(tiny, CORRUPT)
    rows = []
    for layer in layers:
        source = part_of(tiny.module, clean, part, layer)
        places: list[Any]
        if part == "heads":
            places = [(slice(None), slice(n * D_HEAD, (n + 1) * D_HEAD)) for n in range(HEADS)]
        else:
            places = [(n, slice(None)) for n in range(len(clean))]
        logits = [patched(tiny.module, corrupt, part, layer, at, source[at]) for at in places]
        rows.append([difference(tiny, found) for found in logits])
    return torch.tensor(rows)


@pytest.mark.parametrize("part", ["resid", "attn", "mlp", "heads"])
def test_every_cell_is_what_a_hook_gives(
    either: nl.LanguageModel, tiny: nl.LanguageModel, part: Any
) -> None:
    found = activation_patching(either, CLEAN, CORRUPT, METRIC, part=part)
    expected = by_hand(tiny, part, range(LAYERS))
    clean, corrupt = (
        difference(tiny, plain(tiny.module, ids_of(tiny, text))) for text in (CLEAN, CORRUPT)
    )

    close(found.patched, expected)
    assert found.clean == pytest.approx(clean, abs=1e-4)
    assert found.corrupt == pytest.approx(corrupt, abs=1e-4)
    close(found.effect, expected - corrupt)
    close(found.recovered, (expected - corrupt) / (clean - corrupt))
    assert found.effect.abs().max() > 1
    heads = [f"head {head}" for head in range(HEADS)]
    assert found.columns == (heads if part == "heads" else tiny.token_strings(CORRUPT)[0])


def test_a_row_in_several_runs_is_the_same_row(tiny: nl.LanguageModel) -> None:
    whole = activation_patching(tiny, CLEAN, CORRUPT, METRIC, layers=[4])
    pieces = activation_patching(tiny, CLEAN, CORRUPT, METRIC, layers=[-2], batch=4)

    assert pieces.layers == [4]
    close(pieces.effect, whole.effect)


def test_prompts_of_two_lengths_are_patched_where_they_are_paired(tiny: nl.LanguageModel) -> None:
    """The last position of a longer prompt, written into the last of this one."""
    longer = "The next day, When Mary and John went to the store, John gave a drink to"
    source = part_of(tiny.module, ids_of(tiny, longer), "resid", 4)[-1]
    ids = ids_of(tiny, CORRUPT)
    expected = patched(tiny.module, ids, "resid", 4, -1, source)

    found = activation_patching(tiny, longer, CORRUPT, METRIC, layers=[4], positions=[(-1, -1)])

    assert found.effect.shape == (1, 1)
    assert float(found.patched) == pytest.approx(difference(tiny, expected), abs=1e-3)
    assert abs(float(found.effect)) > 1
    with pytest.raises(errors.BadInput, match="The clean prompt has"):
        activation_patching(tiny, longer, CORRUPT, METRIC)


def test_a_metric_of_your_own_is_recorded(either: nl.LanguageModel, tiny: nl.LanguageModel) -> None:
    def surprise(logits: Any) -> Any:
        return -logits[:, -1].log_softmax(-1)[:, 524]

    found = activation_patching(either, CLEAN, CORRUPT, surprise, layers=[5], positions=[0, -1])
    logits = plain(tiny.module, ids_of(tiny, CLEAN))[0, -1]

    assert found.metric == "surprise"
    # After the last block, the last position is all there is.
    assert float(found.patched[0, 1]) == pytest.approx(
        -float(logits.log_softmax(-1)[524]), abs=1e-4
    )
    assert float(found.effect[0, 0]) == pytest.approx(0.0, abs=1e-4)
    assert abs(float(found.effect[0, 1])) > 1


def test_rows_arrive_one_by_one_and_only_when_asked_for(either: nl.LanguageModel) -> None:
    done = 0

    def count(_: Any, event: Any) -> None:
        nonlocal done
        done += isinstance(event, Done)

    with watching(count):
        rows = patching_rows(either, CLEAN, CORRUPT, METRIC)
        assert done == 0
        first = next(rows)
        assert done == 1
        second = next(rows)
        assert done == 2

    whole = activation_patching(either, CLEAN, CORRUPT, METRIC, layers=[0, 1])
    assert (first.layer, second.layer) == (0, 1)
    close(torch.stack([first.patched, second.patched]), whole.patched)


def test_cancelling_between_rows_keeps_what_has_arrived(either: nl.LanguageModel) -> None:
    cancel, rows = Cancel(), list[PatchedRow]()

    def take(row: PatchedRow) -> None:
        rows.append(row)
        if row.layer == 1:
            cancel.cancel()

    with pytest.raises(errors.Cancelled):
        activation_patching(either, CLEAN, CORRUPT, METRIC, on_row=take, cancel=cancel)

    assert [row.layer for row in rows] == [0, 1]
    assert cancel.asked


def test_cancelling_ends_the_run_that_is_under_way(tiny: nl.LanguageModel) -> None:
    """From another thread, while the model is in block 3."""
    cancel = Cancel()

    def from_outside(*_: Any) -> None:
        other = threading.Thread(target=cancel.cancel)
        other.start()
        other.join()

    reached: list[int] = []
    layers = tiny.module.model.layers
    handles = [
        layers[3].register_forward_hook(from_outside),
        layers[5].register_forward_hook(lambda *_: reached.append(5)),
    ]
    try:
        with pytest.raises(errors.Cancelled):
            activation_patching(tiny, CLEAN, CORRUPT, METRIC, layers=[4], cancel=cancel)
    finally:
        for handle in handles:
            handle.remove()
    assert reached == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"part": "neurons"}, "no part 'neurons'"),
        ({"layers": [6]}, "no layer 6"),
        ({"layers": []}, "no layers"),
        ({"positions": [40]}, "no position"),
        ({"positions": []}, "no positions"),
        ({"batch": 0}, "cannot have 0 prompts"),
        ({"metric": " Mary"}, "is no metric"),
        ({"metric": (" Mary", "Zanzibar")}, "is not one token"),
        ({"metric": lambda logits: logits.sum()}, "there are"),
    ],
)
def test_what_cannot_be_is_refused_with_a_next_step(
    tiny: nl.LanguageModel, arguments: dict[str, Any], said: str
) -> None:
    given = {"metric": METRIC, **arguments}
    with pytest.raises(errors.LabError, match=said) as caught:
        activation_patching(tiny, CLEAN, CORRUPT, **given)

    assert caught.value.hint


def gradient_by_hand(tiny: nl.LanguageModel, part: str, layer: int) -> torch.Tensor:
    """(clean - corrupt) times the gradient of the metric on the corrupt run: `[pos, d]`."""
    path = {"resid": "model.layers.{}", "mlp": "model.layers.{}.mlp"}.get(
        part, "model.layers.{}.self_attn.o_proj"
    )
    target = tiny.module.get_submodule(path.format(layer))
    held: list[torch.Tensor] = []

    def keep_input(_: Any, args: Any) -> Any:
        held.append(args[0].detach().requires_grad_())
        return (held[0],)

    def keep_output(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        held.append(output.detach().requires_grad_())
        return held[0]

    heads = part == "heads"
    handle = (
        target.register_forward_pre_hook(keep_input)
        if heads
        else target.register_forward_hook(keep_output)
    )
    mary, john = (ids_of(tiny, name)[-1] for name in METRIC)
    with torch.enable_grad():
        logits = tiny.module(torch.tensor([ids_of(tiny, CORRUPT)]), use_cache=False).logits
        (slope,) = torch.autograd.grad(logits[0, -1, mary] - logits[0, -1, john], held)
    handle.remove()
    clean, corrupt = (
        part_of(tiny.module, ids_of(tiny, text), part, layer) for text in (CLEAN, CORRUPT)
    )
    return (clean - corrupt) * slope[0]


@pytest.mark.parametrize("part", ["resid", "mlp", "heads"])
def test_attribution_is_gradient_times_change(
    either: nl.LanguageModel, tiny: nl.LanguageModel, part: Any
) -> None:
    found = attribution_patching(either, CLEAN, CORRUPT, METRIC, part=part)

    assert found.estimated
    assert found.effect.abs().max() > 1
    for layer in range(LAYERS):
        effect = gradient_by_hand(tiny, part, layer)
        expected = effect.unflatten(-1, (HEADS, D_HEAD)).sum((0, 2))
        close(found.effect[layer], expected if part == "heads" else effect.sum(-1))


def test_attribution_is_an_estimate_of_patching(tiny: nl.LanguageModel) -> None:
    """Close where a change is small: a hundredth of the way, both say the same."""
    exact = activation_patching(tiny, CLEAN, CORRUPT, METRIC, part="mlp")
    estimate = attribution_patching(tiny, CLEAN, CORRUPT, METRIC, part="mlp")
    both = torch.stack([exact.effect.flatten(), estimate.effect.flatten()])

    assert torch.corrcoef(both)[0, 1] > 0.95
    assert_differs(exact.effect, estimate.effect)
