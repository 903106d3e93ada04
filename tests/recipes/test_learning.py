"""Probes and the tuned lens: learned from what hooks see, judged on prompts that were held out."""

from __future__ import annotations

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab import errors
from nnsight_lab.recipes import linear_probe, logit_lens, tuned_lens
from nnsight_lab.recipes.probes import fit_logistic
from tests.recipes.by_hand import ids_of, plain, stream

COUNTRIES = "France Germany Spain Italy Japan China Russia Egypt Brazil Canada".split()
FACTS = [f"The {what} of {one} is" for one in COUNTRIES for what in ("capital", "language")]
KINDS = ["capital" if "capital" in fact else "language" for fact in FACTS]


def test_accuracies_are_those_of_the_weights_on_hooked_activations(
    either: nl.LanguageModel, tiny: nl.LanguageModel
) -> None:
    found = linear_probe(either, FACTS, KINDS, seed=1)
    acts = torch.stack([stream(tiny.module, ids_of(tiny, fact))[:, -1] for fact in FACTS])
    target = torch.tensor([found.classes.index(kind) for kind in KINDS])

    assert sorted([*found.train_prompts, *found.test_prompts]) == list(range(len(FACTS)))
    assert len(found.test_prompts) == 6
    for row in range(len(found.layers)):
        right = (acts[:, row] @ found.weight[row].T + found.bias[row]).argmax(-1) == target
        assert found.test[row] == right[found.test_prompts].float().mean()
        assert found.train[row] == right[found.train_prompts].float().mean()
    assert found.chance == 0.5
    # Every prompt ends in the same word: before block 0 there is nothing to tell them apart by.
    assert found.test[0] == 0.5
    assert found.test[1:].min() == 1.0


def test_the_fit_is_the_minimum_of_what_it_says_it_minimises() -> None:
    draw = torch.Generator().manual_seed(0)
    given = torch.randn(60, 5, generator=draw) * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0]) + 4
    target = (given[:, 1] + 5 * torch.randn(60, generator=draw) > 4).long()
    weight, bias = fit_logistic(given, target, penalty=0.5)

    spread = given.std(0, correction=0)
    scaled = ((given - given.mean(0)) / spread).double().requires_grad_(False)
    w = (weight * spread).double().requires_grad_()
    b = (bias + weight @ given.mean(0)).double().requires_grad_()
    with torch.enable_grad():
        chance = torch.nn.functional.cross_entropy(scaled @ w.T + b, target, reduction="sum")
        slopes = torch.autograd.grad(chance + 0.25 * w.square().sum(), [w, b])
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-3
    assert w.abs().max() > 0.3


def test_labels_that_say_nothing_are_not_found(tiny: nl.LanguageModel) -> None:
    """Held-out prompts tell: learned by heart, and no better than a coin elsewhere."""
    draw = torch.Generator().manual_seed(3)
    labels = (torch.rand(len(FACTS), generator=draw) > 0.5).tolist()
    found = linear_probe(tiny, FACTS, labels, test=0.4, penalty=0.01)

    assert found.train[-1] == 1.0
    assert found.test[1:].mean() < 0.8


def test_the_direction_of_a_probe_points_to_the_second_class(tiny: nl.LanguageModel) -> None:
    found = linear_probe(tiny, FACTS, KINDS)
    at = stream(tiny.module, ids_of(tiny, FACTS[1]))[1 + 3, -1]  # a language
    other = stream(tiny.module, ids_of(tiny, FACTS[0]))[1 + 3, -1]

    assert found.classes == ["capital", "language"]
    assert (at - other) @ found.direction(3) > 0
    assert float(found.direction(3).norm()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("labels", "said"),
    [(["a"] * 20, "nothing to tell apart"), (["a"] * 3, "3 labels"), (["a"] * 19 + ["b"], "split")],
)
def test_labels_that_cannot_be_learned_are_refused(
    tiny: nl.LanguageModel, labels: list[str], said: str
) -> None:
    with pytest.raises(errors.BadInput, match=said):
        linear_probe(tiny, FACTS, labels)


def divergence(tiny: nl.LanguageModel, text: str, row: int, fit: tuple[torch.Tensor, torch.Tensor]) -> float:  # fmt: skip
    """From the model's output, of the lens with a translator, by the model's own modules."""
    ids = ids_of(tiny, text)
    h = stream(tiny.module, ids)[row]
    with torch.no_grad():
        moved = h + h @ fit[0].T + fit[1]
        read = tiny.module.lm_head(tiny.module.model.norm(moved)).log_softmax(-1)
    wanted = plain(tiny.module, ids)[0].log_softmax(-1)
    return float((wanted.exp() * (wanted - read)).sum(-1).mean())


def test_a_tuned_lens_is_nearer_to_the_output_on_held_out_prompts(
    either: nl.LanguageModel, tiny: nl.LanguageModel
) -> None:
    """All prompts have six tokens, so the mean over prompts is the mean over positions."""
    prompts = FACTS[::2]
    lens = tuned_lens(either, prompts, steps=60, seed=4)
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(4)).tolist()
    held = [prompts[place] for place in order[:2]]

    assert lens.layers == ["embed", "0", "1", "2", "3", "4"]
    for row in (0, 2, 5):
        fit = (lens.weight[row], lens.bias[row])
        none = (torch.zeros(128, 128), torch.zeros(128))
        tuned, before = (
            sum(divergence(tiny, text, row, each) for text in held) / len(held)
            for each in (fit, none)
        )
        assert float(lens.tuned[row]) == pytest.approx(tuned, rel=1e-3, abs=1e-4)
        assert float(lens.plain[row]) == pytest.approx(before, rel=1e-3, abs=1e-4)
    assert (lens.tuned < lens.plain).all()


def test_a_tuned_lens_reads_through_its_translators(
    either: nl.LanguageModel, tiny: nl.LanguageModel
) -> None:
    lens = tuned_lens(tiny, FACTS[:6], steps=20)
    found, before = lens.lens(either, FACTS[0], top=3), logit_lens(either, FACTS[0], top=3)
    h = stream(tiny.module, ids_of(tiny, FACTS[0]))
    for row in range(6):
        moved = h[row] + h[row] @ lens.weight[row].T + lens.bias[row]
        with torch.no_grad():
            read = tiny.module.lm_head(tiny.module.model.norm(moved)).softmax(-1)
        torch.testing.assert_close(
            found.probabilities[row], read.topk(3).values, rtol=1e-3, atol=1e-5
        )
    torch.testing.assert_close(found.probabilities[6:], before.probabilities[6:])
    assert (found.probabilities[:6] - before.probabilities[:6]).abs().max() > 0.1


def test_a_tuned_lens_needs_prompts_to_be_judged_on(tiny: nl.LanguageModel) -> None:
    with pytest.raises(errors.BadInput, match="held out"):
        tuned_lens(tiny, ["Once"])
