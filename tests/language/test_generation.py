"""Generation: a block that stands in every forward pass, one step after another.

Step 0 is the prompt's forward pass, each further one adds one position. What is read and edited is
compared with hooks that count steps over `transformers`' own `generate`.

The page: `docs/reference/generation.md`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from tests.support.family_models import FAMILY_NAMES, family_model
from tests.support.fixtures import IDS
from tests.support.generation_hooks import generated
from tests.support.hooks import eager_patterns
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_differs, assert_exactly, assert_same

SHORT = [[11, 2, 60]]
DIRECTION = 20 * torch.arange(32.0).sin()
CAPITAL = "The capital of"


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_likeliest_tokens_are_those_of_generate(name: str) -> None:
    """Alone and in a batch of unequal prompts, for every family."""
    module = family_model(name).module
    lm = nl.LanguageModel(module)
    rows = [*IDS, *SHORT]

    with lm.generate(IDS, max_new_tokens=8, eos_token_id=[]) as tracer:
        alone = tracer.result.save()
    with lm.generate(rows, max_new_tokens=8, eos_token_id=[]) as tracer:
        both = tracer.result.save()

    expected = generated(module, rows, max_new_tokens=8, eos_token_id=None)
    assert_exactly(both, expected.ids)
    assert_exactly(alone, generated(module, IDS, max_new_tokens=8, eos_token_id=None).ids)


def test_every_step_is_read_in_a_loop(lm: nl.LanguageModel, family: SmallModel) -> None:
    streams: list[Any] = []
    ids: list[Any] = []
    with lm.generate(IDS, max_new_tokens=5, eos_token_id=[]) as tracer:
        prompt = lm.layers[1].output.save()  # outside a loop: the prompt's forward pass
        for _step in tracer.iter[:]:
            streams.append(lm.layers[1].output[:, -1].save())
            ids.append(lm.tokens.save())
        stacked: Any = torch.stack(streams)
        mean = stacked.mean(0).save()
        out = tracer.result.save()

    block = family.at(family.block, 1)
    expected = generated(family.module, IDS, see=(block,), eos_token_id=None)
    assert_same(prompt, expected.seen[block][0], atol=1e-5)
    assert len(streams) == 5
    for stream, seen in zip(streams, expected.seen[block], strict=True):
        assert_same(stream, seen[:, -1], atol=1e-5)
    assert_same(
        mean, torch.stack([seen[:, -1] for seen in expected.seen[block]]).mean(0), atol=1e-5
    )
    assert_exactly(out, expected.ids)
    assert_exactly(torch.stack(ids, 1), expected.ids[:, 6:])


def test_an_edit_at_one_step_changes_what_follows(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.generate(IDS, max_new_tokens=6, eos_token_id=[]) as tracer:
        logits = []
        for step in tracer.iter[:]:
            if step == 2:
                lm.layers[1].output[:, -1] += DIRECTION
            logits.append(lm.logits[:, -1].save())
        out = tracer.result.save()

    def change(step: int, stream: torch.Tensor) -> torch.Tensor:
        return stream + DIRECTION if step == 2 else stream

    edit = {family.at(family.block, 1): change}
    expected = generated(
        family.module, IDS, after=edit, max_new_tokens=6, eos_token_id=None,
        output_logits=True, return_dict_in_generate=True,
    ).ids  # fmt: skip
    clean = generated(family.module, IDS, max_new_tokens=6, eos_token_id=None).ids
    assert_exactly(out, expected.sequences)
    for mine, theirs in zip(logits, expected.logits, strict=True):
        assert_same(mine, theirs, atol=1e-4)
    assert torch.equal(out[:, :8], clean[:, :8])
    assert not torch.equal(out, clean)


@pytest.mark.parametrize(
    ("key", "steps"),
    [
        (2, [2]),
        (-1, [4]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2, 4]),
        (slice(-2, None), [3, 4]),
        ([0, 2], [0, 2]),
    ],
)
def test_steps_are_chosen_as_in_a_list(
    lm: nl.LanguageModel, family: SmallModel, key: int | slice | list[int], steps: list[int]
) -> None:
    seen, went = [], []
    with lm.generate(IDS, max_new_tokens=5, eos_token_id=[]) as tracer:
        for step in tracer.iter[key]:
            went.append(step)
            seen.append(lm.layers[0].output[:, -1].save())

    block = family.at(family.block, 0)
    expected = generated(family.module, IDS, see=(block,), eos_token_id=None).seen[block]
    assert went == steps
    for step, stream in zip(steps, seen, strict=True):
        assert_same(stream, expected[step][:, -1], atol=1e-5)


def test_all_is_every_step_and_a_loop_may_be_left(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=4, eos_token_id=[]) as tracer:
        ids = [lm.tokens.save() for _ in tracer.all()]
        for _step in tracer.all():
            break
        after = lm.layers[0].output.save()  # a loop that was left: step 0 again

    assert len(ids) == 4
    assert after.shape == (1, 6, 32)


def test_attention_while_decoding(lm: nl.LanguageModel, family: SmallModel) -> None:
    """One query position; as many keys as the text has so far."""
    with lm.generate(IDS, max_new_tokens=3, eos_token_id=[]) as tracer:
        patterns = [lm.layers[2].attn.pattern.save() for _ in tracer.iter[:]]
        out = tracer.result.save()

    assert [tuple(pattern.shape) for pattern in patterns] == [
        (1, 4, 6, 6), (1, 4, 1, 7), (1, 4, 1, 8),
    ]  # fmt: skip
    whole = eager_patterns(family.module, out[:, :-1].tolist())[2]
    assert_same(patterns[2], whole[:, :, -1:], atol=1e-5)


def test_the_sampled_ids_may_be_written(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.generate(IDS, max_new_tokens=4, eos_token_id=[]) as tracer:
        for step in tracer.iter[:]:
            if step == 0:
                lm.tokens = 7
            if step == 1:
                lm.tokens[:] = torch.tensor([9])
        out = tracer.result.save()

    forced = [[*IDS[0], 7, 9]]
    clean = generated(family.module, IDS, max_new_tokens=4, eos_token_id=None).ids
    expected = generated(family.module, forced, max_new_tokens=2, eos_token_id=None).ids
    assert_exactly(out, expected)
    assert not torch.equal(out, clean)
    assert tracer.run.tokens[:2] == ((7,), (9,))


def test_a_value_of_one_step_goes_into_a_later_one(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.generate(IDS, max_new_tokens=4, eos_token_id=[]) as tracer:
        carried = lm.layers[0].output[:, -1]
        for _step in tracer.iter[2]:
            lm.layers[0].output[:, -1] = carried
        logits = [lm.logits[:, -1].save() for _ in tracer.iter[:]]

    kept: list[torch.Tensor] = []

    def change(step: int, stream: torch.Tensor) -> torch.Tensor:
        kept.append(stream[:, -1:].clone())
        return kept[0] if step == 2 else stream

    edit = {family.at(family.block, 0): change}
    expected = generated(
        family.module, IDS, after=edit, max_new_tokens=4, eos_token_id=None,
        output_logits=True, return_dict_in_generate=True,
    ).ids  # fmt: skip
    for mine, theirs in zip(logits, expected.logits, strict=True):
        assert_same(mine, theirs, atol=1e-4)
    clean = generated(
        family.module, IDS, max_new_tokens=4, eos_token_id=None,
        output_logits=True, return_dict_in_generate=True,
    ).ids  # fmt: skip
    assert_differs(logits[2], clean.logits[2])


# Sampling


def test_sampling_with_a_seed_draws_what_generate_draws(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.generate(
        IDS, max_new_tokens=8, temperature=1.5, top_k=20, top_p=0.9, seed=3, eos_token_id=[]
    ) as tracer:
        out = tracer.result.save()

    options: dict[str, Any] = {"do_sample": True, "temperature": 1.5, "top_k": 20, "top_p": 0.9}
    expected = generated(
        family.module, IDS, seed=3, max_new_tokens=8, eos_token_id=None, **options
    ).ids
    greedy = generated(family.module, IDS, max_new_tokens=8, eos_token_id=None).ids
    assert_exactly(out, expected)
    assert not torch.equal(out, greedy)


def test_a_row_of_a_batch_draws_what_it_draws_alone(lm: nl.LanguageModel) -> None:
    def sampled(prompts: list[list[int]]) -> torch.Tensor:
        with lm.generate(
            prompts, max_new_tokens=6, do_sample=True, seed=5, eos_token_id=[]
        ) as tracer:
            out = tracer.result.save()
        found: torch.Tensor = out
        return found

    both = sampled([*IDS, *SHORT])

    assert_exactly(both[:1], sampled(IDS))
    assert_exactly(both[1:, 3:], sampled(SHORT))


def test_without_a_seed_every_row_draws_its_own(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS * 4, max_new_tokens=12, temperature=3.0, eos_token_id=[]) as tracer:
        out = tracer.result.save()

    assert len({tuple(row) for row in out.tolist()}) > 1


# Several prompts


def test_each_invoke_generates_as_if_alone(lm: nl.LanguageModel, family: SmallModel) -> None:
    results, streams = [], []
    with lm.generate(max_new_tokens=5, eos_token_id=[]) as tracer:
        with tracer.invoke(IDS):
            for step in tracer.iter[:]:
                if step == 1:
                    lm.layers[1].output[:, -1] += DIRECTION
            results.append(tracer.result.save())
        with tracer.invoke(SHORT):
            for _step in tracer.iter[:]:
                streams.append(lm.layers[2].output.save())
                pattern = lm.layers[0].attn.pattern.save()
            results.append(tracer.result.save())

    def change(step: int, stream: torch.Tensor) -> torch.Tensor:
        return stream + DIRECTION if step == 1 else stream

    first = generated(
        family.module, IDS, after={family.at(family.block, 1): change}, eos_token_id=None
    )
    block = family.at(family.block, 2)
    second = generated(family.module, SHORT, see=(block,), eos_token_id=None)
    assert_exactly(results[0], first.ids)
    assert_exactly(results[1], second.ids)
    for mine, theirs in zip(streams, second.seen[block], strict=True):
        assert_same(mine, theirs, atol=1e-5)
    assert pattern.shape == (1, 4, 1, 7)


def test_a_value_goes_from_one_generation_to_another(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.generate(max_new_tokens=3, eos_token_id=[]) as tracer:
        with tracer.invoke(IDS):
            for _step in tracer.iter[1]:
                carried = lm.layers[1].output[:, -1]
        with tracer.invoke(SHORT):
            for _step in tracer.iter[1]:
                lm.layers[1].output[:, -1] = carried
            for _step in tracer.iter[2]:
                patched = lm.logits[:, -1].save()

    block = family.at(family.block, 1)
    source = generated(family.module, IDS, see=(block,), eos_token_id=None).seen[block][1]

    def change(step: int, stream: torch.Tensor) -> torch.Tensor:
        return source if step == 1 else stream

    options: dict[str, Any] = {
        "eos_token_id": None,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    expected = generated(family.module, SHORT, after={block: change}, **options).ids
    clean = generated(family.module, SHORT, **options).ids
    assert_same(patched, expected.logits[2], atol=1e-4)
    assert_differs(patched, clean.logits[2])


# Here, through bytes, on a server


def test_a_generation_is_the_same_everywhere(
    anywhere: nl.LanguageModel, tiny: nl.LanguageModel
) -> None:
    def steered(lm: nl.LanguageModel) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, str]:
        direction = torch.linspace(-2, 2, 128)
        seen: list[Any] = []
        with lm.generate(
            [CAPITAL, "Anna"], max_new_tokens=6, temperature=0.8, seed=1, eos_token_id=16
        ) as tracer:
            for step in tracer.iter[:]:
                if step in (1, 2):
                    lm.layers[1].output[:, -1] += direction
                if step == 4:
                    lm.tokens[0] = 21
                seen.append(lm.layers[3].output[:, -1].save())
            stacked: Any = torch.stack(seen)
            mean = stacked.mean(0).save()
            out = tracer.result.save()
        text = f"{tracer.run.steps} {tracer.run.tokens} {tracer.run.missing}"
        return seen, mean, out, text

    here, there = steered(tiny), steered(anywhere)

    assert here[3] == there[3]
    assert_exactly(there[1], here[1])
    assert_exactly(there[2], here[2])
    assert len(here[0]) == len(there[0])
    assert all(map(torch.equal, here[0], there[0]))


def test_a_text_ends_early_everywhere(anywhere: nl.LanguageModel) -> None:
    end = anywhere.tokenizer(CAPITAL + " France is")["input_ids"][-1]
    with anywhere.generate(CAPITAL + " France", max_new_tokens=9, eos_token_id=end) as tracer:
        ids = [lm_tokens.save() for lm_tokens in (anywhere.tokens for _ in tracer.iter[:])]
        out = tracer.result.save()

    assert out[0, -1] == end
    assert len(ids) == tracer.run.steps < 9
    assert tracer.run.missing
    assert "end of sequence" in repr(tracer.run)


def test_a_recorded_generation_runs_again(anywhere: nl.LanguageModel) -> None:
    with anywhere.generate(CAPITAL, max_new_tokens=4) as tracer:
        for step in tracer.iter[:]:
            anywhere.layers[step % 3].output[:, -1] *= 0.5
        out = tracer.result.save()

    again = anywhere.run(nl.Graph.from_bytes(tracer.graph.to_bytes()), CAPITAL, max_new_tokens=4)

    assert_exactly(again["out"], out)
