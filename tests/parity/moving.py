"""Methods that move values between prompts, passes and directions: patching, steps, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.parity.case import Case, Ids
from tests.parity.method import Expected, Method, Values
from tests.support.family_models import LAYERS
from tests.support.hooks import forward, hooked, inputs_seen, outputs_seen, tensor_of

__all__ = ["MOVING"]

HEAD, STEPS = 2, 4
ONE, OTHER = 5, 23


def _patching(lm: Any, case: Case) -> Values:
    """From one prompt into another, and into one of another length."""
    with lm.trace() as tracer:
        with tracer.invoke(case.clean):
            h = lm.layers[1].output
            source = lm.logits.save()
        with tracer.invoke(case.corrupted):
            lm.layers[1].output[:, 4:7] = h[:, 4:7]
            logits = lm.logits.save()
        with tracer.invoke(case.other):
            lm.layers[1].output[:, -1] = h[:, -1]
            short = lm.logits.save()
    return {"source logits": source, "logits": logits, "short logits": short}


def _stream(case: Case, ids: Ids, layer: int) -> torch.Tensor:
    path = case.small.block.format(i=layer)
    found: torch.Tensor = tensor_of(outputs_seen(case.small.module, ids, path)[path])
    return found


def _put(h: torch.Tensor, key: Any, value: torch.Tensor) -> torch.Tensor:
    new = h.clone()
    new[key] = value
    return new


def _patching_by_hand(case: Case) -> Expected:
    small = case.small
    path, h = small.block.format(i=1), _stream(case, case.clean, 1)
    middle, end = (slice(None), slice(4, 7)), (slice(None), -1)
    logits = hooked(
        small.module, case.corrupted, after={path: lambda out: _put(out, middle, h[middle])}
    )["logits"]
    short = hooked(small.module, case.other, after={path: lambda out: _put(out, end, h[end])})
    clean, corrupted, other = (
        forward(small.module, ids) for ids in (case.clean, case.corrupted, case.other)
    )
    values = {"source logits": clean, "logits": logits, "short logits": short["logits"]}
    return Expected(values, {"logits": corrupted, "short logits": other})


def _heads(lm: Any, case: Case) -> Values:
    with lm.trace() as tracer:
        with tracer.invoke(case.clean):
            z = lm.layers[1].attn.z
        with tracer.invoke(case.corrupted):
            lm.layers[1].attn.z[:, :, HEAD] = z[:, :, HEAD]
            logits = lm.logits.save()
    return {"logits": logits}


def _heads_by_hand(case: Case) -> Expected:
    small = case.small
    path = small.attn_out.format(i=1)
    z = inputs_seen(small.module, case.clean, path)[path]
    head = (..., slice(HEAD * small.d_head, (HEAD + 1) * small.d_head))
    found = hooked(
        small.module, case.corrupted, before={path: lambda out: _put(out, head, z[head])}
    )
    return Expected({"logits": found["logits"]}, {"logits": forward(small.module, case.corrupted)})


def _generation(lm: Any, case: Case) -> Values:
    """Steered at every step; what was chosen is fed back."""
    logits = []
    with lm.generate(case.other, max_new_tokens=STEPS, eos_token_id=[]) as tracer:
        for _ in tracer.iter[:]:
            lm.layers[1].output[:, -1] += 2.0 * case.direction
            logits.append(lm.logits[:, -1].save())
        ids = tracer.result.save()
    return {"ids": ids, "logits": torch.stack(logits)}


def _greedy(
    case: Case, ids: Ids, steps: int, change: Callable[[torch.Tensor], torch.Tensor] | None
) -> Values:
    """Greedy choices without a cache: the whole text again at each step.

    change: of layer 1's output, from the prompt's last position on.
    """
    (row,) = ids
    at, text = len(row) - 1, list(row)
    path = case.small.block.format(i=1)
    logits = []

    def edit(h: torch.Tensor) -> torch.Tensor:
        return h if change is None else torch.cat((h[:, :at], change(h[:, at:])), dim=1)

    for _ in range(steps):
        found = hooked(case.small.module, [text], after={path: edit})["logits"][:, -1]
        logits.append(found)
        text.append(int(found.argmax(-1)))
    return {"ids": torch.tensor([text]), "logits": torch.stack(logits)}


def _generation_by_hand(case: Case) -> Expected:
    steered = _greedy(case, case.other, STEPS, lambda h: h + 2.0 * case.direction)
    return Expected(steered, {"logits": _greedy(case, case.other, STEPS, None)["logits"]})


def _gradients(lm: Any, case: Case) -> Values:
    """Attribution patching: (clean - corrupted) times the gradient, for each place."""
    values: Values = {}
    with lm.trace() as tracer:
        with tracer.invoke(case.clean):
            clean = [lm.layers[i].output for i in range(LAYERS)]
        with tracer.invoke(case.corrupted):
            corrupted = [lm.layers[i].output for i in range(LAYERS)]
            metric = lm.logits[0, -1, ONE] - lm.logits[0, -1, OTHER]
            with metric.backward():
                for i, (one, other) in enumerate(zip(clean, corrupted, strict=True)):
                    values[f"effect {i}"] = ((one - other) * other.grad).sum(-1).save()
    return values


def _gradients_by_hand(case: Case) -> Expected:
    module = case.small.module
    paths = [case.small.block.format(i=i) for i in range(LAYERS)]
    kept: list[torch.Tensor] = []
    handles = [
        module.get_submodule(path).register_forward_hook(
            lambda _, __, output: kept.append(tensor_of(output))
        )
        for path in paths
    ]
    logits = module(torch.tensor(case.corrupted), use_cache=False).logits
    for handle in handles:
        handle.remove()
    grads = torch.autograd.grad(logits[0, -1, ONE] - logits[0, -1, OTHER], kept)
    values = {
        f"effect {i}": ((_stream(case, case.clean, i) - kept[i].detach()) * grad).sum(-1)
        for i, grad in enumerate(grads)
    }
    return Expected(values)


def _session(lm: Any, case: Case) -> Values:
    """A deep value into an early place of the next trace, and a difference into a generation."""
    with lm.session():
        with lm.trace(case.clean):
            h = lm.layers[2].output[:, -1]
        with lm.trace(case.corrupted):
            lm.layers[0].output[:, -1] = h
            push = lm.layers[1].output[:, -1] - h
            logits = lm.logits.save()
        with lm.generate(case.other, max_new_tokens=STEPS, eos_token_id=[]) as tracer:
            for _ in tracer.iter[:]:
                lm.layers[1].output[:, -1] += push
            ids = tracer.result.save()
    return {"logits": logits, "ids": ids}


def _session_by_hand(case: Case) -> Expected:
    small = case.small
    end = (slice(None), -1)
    h = _stream(case, case.clean, 2)[end]
    late = small.block.format(i=1)
    found = hooked(
        small.module,
        case.corrupted,
        after={small.block.format(i=0): lambda out: _put(out, end, h)},
        see=(late,),
    )
    push = tensor_of(found[late])[end] - h
    ids = _greedy(case, case.other, STEPS, lambda out: out + push)["ids"]
    return Expected(
        {"logits": found["logits"], "ids": ids}, {"logits": forward(small.module, case.corrupted)}
    )


MOVING = (
    Method("patching across prompts", _patching, _patching_by_hand),
    Method("head patching", _heads, _heads_by_hand),
    Method("generation-time steering", _generation, _generation_by_hand),
    Method("attribution patching", _gradients, _gradients_by_hand),
    Method("session", _session, _session_by_hand),
)
