"""Generation together with other verbs, in this process, through bytes and on a server.

The oracle is hooks that count steps over `transformers`' own `generate`.

The page: `docs/reference/generation.md`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import NotSupported
from tests.language.test_together import DIRECTION, SAE, block
from tests.support.generation_hooks import Generated, generated
from tests.support.hooks import hooked
from tests.support.lines import assert_at
from tests.support.tensors import assert_differs, assert_exactly, assert_same

ONE = [[1, 669, 935, 1593, 401, 1349]]
"""The capital of France is"""
TWO = [[1, 717, 524, 767, 480, 2099, 2001, 1955, 1893]]
"""When Mary and John went to the store"""
STEPS = 4
OPTIONS: dict[str, Any] = {"max_new_tokens": STEPS, "eos_token_id": []}


def by_hand(
    tiny: Any, ids: list[list[int]] = ONE, see: tuple[str, ...] = (), **options: Any
) -> Generated:
    see = (*see, "lm_head")
    return generated(tiny.module, ids, max_new_tokens=STEPS, eos_token_id=None, see=see, **options)


def logits_of(lm: Any, tracer: Any) -> list[Any]:
    """The last logits of every step, to be saved."""
    return [lm.logits[:, -1].save() for _ in tracer.iter[:]]


def assert_steps(logits: list[Any], expected: Generated, plain: Generated) -> None:
    """Step by step what the hooks see, and not what the model says by itself."""
    assert len(logits) == STEPS
    for mine, theirs in zip(logits, expected.seen["lm_head"], strict=True):
        assert_same(mine, theirs[:, -1], atol=1e-3)
    assert_differs(logits[-1], plain.seen["lm_head"][-1][:, -1])


def test_a_module_of_your_own_in_every_step(anywhere: Any, tiny: Any) -> None:
    lm, sae = anywhere, SAE().eval()
    features = []
    with lm.generate(ONE, **OPTIONS) as tracer:
        for _step in tracer.iter[:]:
            h = lm.layers[2].output
            made: Any = torch.relu(sae.encoder(h[:, -1]))
            features.append(made.save())
            lm.layers[2].output = sae(h)
        logits = logits_of(lm, tracer)
        ids = tracer.result.save()

    seen: list[torch.Tensor] = []

    def splice(_: int, h: torch.Tensor) -> torch.Tensor:
        seen.append(torch.relu(sae.encoder(h[:, -1])).detach())
        found: torch.Tensor = sae(h).detach()
        return found

    expected = by_hand(tiny, after={block(2): splice})
    assert_exactly(ids, expected.ids)
    assert_steps(logits, expected, by_hand(tiny))
    assert len(features) == STEPS
    for mine, theirs in zip(features, seen, strict=True):
        assert_same(mine, theirs, atol=1e-3)


def test_a_choice_at_each_step(anywhere: Any, tiny: Any) -> None:
    """`nl.cond` decides in the graph, at every step anew."""
    lm = anywhere
    plain = by_hand(tiny, see=(block(1),))
    norms = sorted(float(h[:, -1].norm()) for h in plain.seen[block(1)])
    limit = (norms[0] + norms[-1]) / 2
    tests = []
    with lm.generate(ONE, **OPTIONS) as tracer:
        for _step in tracer.iter[:]:
            h = lm.layers[2].output
            test = lm.layers[1].output[:, -1].norm() > limit
            lm.layers[2].output = nl.cond(test, lambda h=h: h + DIRECTION, lambda h=h: h)
            tests.append(test.save())
        logits = logits_of(lm, tracer)
        ids = tracer.result.save()

    chosen: list[bool] = []
    streams: list[torch.Tensor] = []

    def look(_: int, h: torch.Tensor) -> torch.Tensor:
        streams.append(h)
        return h

    def change(_: int, h: torch.Tensor) -> torch.Tensor:
        chosen.append(bool(streams[-1][:, -1].norm() > limit))
        return h + DIRECTION if chosen[-1] else h

    expected = by_hand(tiny, after={block(1): look, block(2): change})
    assert_exactly(ids, expected.ids)
    assert [bool(test) for test in tests] == chosen
    assert set(chosen) == {True, False}
    assert_steps(logits, expected, plain)


def test_a_while_loop_at_a_step(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.generate(ONE, **OPTIONS) as tracer:
        for _step in tracer.iter[1:3]:
            h = lm.layers[2].output
            lm.layers[2].output = nl.while_(lambda x: x.norm() > 20, lambda x: x / 2, h)
        logits = logits_of(lm, tracer)
        ids = tracer.result.save()

    def shrink(step: int, h: torch.Tensor) -> torch.Tensor:
        while step in (1, 2) and h.norm() > 20:
            h = h / 2
        return h

    expected = by_hand(tiny, after={block(2): shrink})
    assert_exactly(ids, expected.ids)
    assert_steps(logits, expected, by_hand(tiny))


def test_python_decides_from_step_to_step(anywhere: Any, tiny: Any) -> None:
    """A peek at one step may decide what later steps do, never what came before it."""
    lm = anywhere
    norms: list[float] = []
    with lm.generate(ONE, **OPTIONS) as tracer:
        for step in tracer.iter[:]:
            if step > 0 and norms[-1] > 0:
                lm.layers[2].output[:, -1] += step * DIRECTION
            norms.append(float(lm.layers[3].output[:, -1].norm()))
        ids = tracer.result.save()

    expected = by_hand(
        tiny,
        after={block(2): lambda step, h: h + step * DIRECTION},
        see=(block(3),),
    )
    assert_exactly(ids, expected.ids)
    seen = [float(h[:, -1].norm()) for h in expected.seen[block(3)]]
    assert norms == pytest.approx(seen, rel=1e-3)
    assert tracer.run.peeks.count == STEPS


def test_a_stored_edit_and_invokes_in_a_generation(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.edit() as steered:
        lm.layers[2].output[:, -1] += DIRECTION
    with steered.generate(**OPTIONS) as tracer:
        with tracer.invoke(ONE):
            mine = logits_of(steered, tracer)
            first = tracer.result.save()
        with tracer.invoke(TWO):
            for step in tracer.iter[:]:
                if step == 1:
                    steered.layers[4].output[:, -1] *= 3
            theirs = logits_of(steered, tracer)
            second = tracer.result.save()

    def steer(_: int, h: torch.Tensor) -> torch.Tensor:
        h = h.clone()
        h[:, -1] += DIRECTION
        return h

    def triple(step: int, h: torch.Tensor) -> torch.Tensor:
        h = h.clone()
        h[:, -1] *= 3 if step == 1 else 1
        return h

    after = {block(2): steer}
    expected = by_hand(tiny, after=after)
    other = by_hand(tiny, TWO, after={**after, block(4): triple})
    assert_exactly(first, expected.ids)
    assert_exactly(second, other.ids)
    assert_steps(mine, expected, by_hand(tiny))
    assert_steps(theirs, other, by_hand(tiny, TWO))


def test_a_value_of_one_invoke_steers_another_at_each_step(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.generate(**OPTIONS) as tracer:
        with tracer.invoke(ONE):
            streams = [lm.layers[1].output[:, -1] for _ in tracer.iter[:]]
        with tracer.invoke(TWO):
            for step in tracer.iter[:]:
                lm.layers[2].output[:, -1] = streams[step]
            logits = logits_of(lm, tracer)
    seen = by_hand(tiny, see=(block(1),)).seen[block(1)]

    def put(step: int, h: torch.Tensor) -> torch.Tensor:
        h = h.clone()
        h[:, -1] = seen[step][:, -1]
        return h

    expected = by_hand(tiny, TWO, after={block(2): put})
    assert_steps(logits, expected, by_hand(tiny, TWO))


def test_a_skip_at_a_step(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.generate(ONE, **OPTIONS) as tracer:
        for _step in tracer.iter[1:]:
            lm.layers[3].skip(lm.layers[3].input)
        logits = logits_of(lm, tracer)
        ids = tracer.result.save()
    kept: list[torch.Tensor] = []

    def keep(_: int, h: torch.Tensor) -> torch.Tensor:
        kept.append(h)
        return h

    def past(step: int, h: torch.Tensor) -> torch.Tensor:
        return kept[-1] if step else h

    expected = by_hand(tiny, after={block(2): keep, block(3): past})
    assert_exactly(ids, expected.ids)
    assert_steps(logits, expected, by_hand(tiny))


def test_a_cache_of_each_step(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.generate(ONE, **OPTIONS) as tracer:
        caches = [tracer.cache(modules=[lm.layers[1], lm.layers[2].mlp]) for _ in tracer.iter[:]]
    paths = (block(1), f"{block(2)}.mlp")
    seen = by_hand(tiny, see=paths).seen
    for step, cache in enumerate(caches):
        assert_same(cache["layers.1"].output, seen[paths[0]][step], atol=1e-4)
        assert_same(cache["layers.2.mlp"].output, seen[paths[1]][step], atol=1e-4)


def test_a_value_is_shown_at_every_step(
    anywhere: Any, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = anywhere
    with lm.generate(ONE, **OPTIONS) as tracer:
        for _step in tracer.iter[:]:
            nl.show(lm.tokens, "next")
        tracer.result.save()
    new = by_hand(tiny).ids[0, -STEPS:].tolist()
    assert capsys.readouterr().out.splitlines() == [f"next: tensor([{id}])" for id in new]


def test_an_operation_inside_a_module_at_the_prompts_step(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.generate(ONE, **OPTIONS) as tracer:
        lm.layers[2].mlp.source.mul_0.output[:] = 0
        logits = logits_of(lm, tracer)
    zeroed = by_hand(
        tiny, after={f"{block(2)}.mlp": lambda step, h: h if step else torch.zeros_like(h)}
    )
    assert_steps(logits, zeroed, by_hand(tiny))
    with lm.edit() as edited:
        lm.layers[2].mlp.source.mul_0.output[:] = 0
    with edited.trace(ONE):
        once = edited.logits.save()
    after = {f"{block(2)}.mlp": torch.zeros_like}
    assert_same(once, hooked(tiny.module, ONE, after=after)["logits"], atol=1e-4)
    with pytest.raises(NotSupported) as caught:
        with edited.generate(ONE, **OPTIONS) as tracer:
            tracer.result.save()
    assert caught.value.hint


def test_a_loop_of_the_graph_over_a_steps_items(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with lm.generate(ONE, **OPTIONS) as tracer:
        for _step in tracer.iter[:]:
            h = lm.layers[2].output

            def halve(at: Any, h: Any = h) -> Any:
                h[0, -1, at] = h[0, -1, at] / 2

            nl.foreach((h[0, -1] > 1).nonzero()[:, 0], halve)
        logits = logits_of(lm, tracer)
        ids = tracer.result.save()

    def halved(_: int, h: torch.Tensor) -> torch.Tensor:
        h = h.clone()
        h[0, -1] = torch.where(h[0, -1] > 1, h[0, -1] / 2, h[0, -1])
        return h

    expected = by_hand(tiny, after={block(2): halved})
    assert_exactly(ids, expected.ids)
    assert_steps(logits, expected, by_hand(tiny))


def test_all_of_it_in_one_session(anywhere: Any, tiny: Any) -> None:
    """A gradient, a choice and a cache steer a generation of an edited view."""
    lm = anywhere
    with lm.edit() as steered:
        lm.layers[4].output[:, -1] += DIRECTION
    with lm.session() as session:
        with lm.trace(TWO) as tracer:
            cache = tracer.cache(modules="layers.1")
            h = lm.layers[2].output
            with lm.logits[0, -1, 5].backward():
                push = h.grad[:, -1]
            push = nl.cond(push.norm() > 0, lambda: 200 * push, lambda: push * 0).save()
        with steered.generate(ONE, **OPTIONS) as tracer:
            for _step in tracer.iter[:]:
                steered.layers[2].output[:, -1] += push
            logits = logits_of(steered, tracer)

    def steer(_: int, h: torch.Tensor) -> torch.Tensor:
        h = h.clone()
        h[:, -1] += DIRECTION
        return h

    def pushed(_: int, h: torch.Tensor) -> torch.Tensor:
        h = h.clone()
        h[:, -1] += push
        return h

    expected = by_hand(tiny, after={block(2): pushed, block(4): steer})
    assert_steps(logits, expected, by_hand(tiny, after={block(4): steer}))
    assert_differs(push, torch.zeros_like(push))
    assert cache["layers.1"].output.shape == (1, 9, 128)
    assert session.run.steps == 1 + STEPS


# In this process only


@pytest.mark.one_way
def test_a_local_function_at_every_step(tiny: nl.LanguageModel) -> None:
    lm, calls = tiny, []

    def clipped(h: torch.Tensor) -> torch.Tensor:
        calls.append(h.shape)
        return torch.from_numpy(h.numpy().clip(-1, 1))

    with lm.generate(ONE, **OPTIONS) as tracer:
        for _step in tracer.iter[:]:
            h = lm.layers[2].output
            lm.layers[2].output = nl.local_fn(clipped, like=h)(h)
        ids = tracer.result.save()
    assert_exactly(ids, by_hand(tiny, after={block(2): lambda _, h: h.clamp(-1, 1)}).ids)
    assert [shape[1] for shape in calls] == [6, 1, 1, 1]


def test_a_local_function_in_a_session_and_not_on_a_server(
    tiny: nl.LanguageModel, served: nl.LanguageModel
) -> None:
    def session_on(lm: nl.LanguageModel) -> Any:
        with lm.session():
            with lm.trace(ONE):
                h = lm.layers[2].output
            with lm.generate(TWO, **OPTIONS) as tracer:
                lm.layers[2].output[:, -1] = nl.local_fn(lambda x: x * 2)(h)[:, -1]  # local
                ids = tracer.result.save()
        return ids

    assert session_on(tiny).shape == (1, 9 + STEPS)
    with pytest.raises(NotSupported) as caught:
        session_on(served)
    assert_at(caught.value, "local")
