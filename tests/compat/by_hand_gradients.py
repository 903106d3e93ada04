"""What the programs with gradients must give, by torch's autograd and hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.compat.random_models import ITALY, gpt2, ids, llama, mlp
from tests.support.hooks import inputs_seen, tensor_of

__all__ = ["WITH_GRADIENTS"]

Change = Callable[[torch.Tensor], torch.Tensor | None]


def _grads(model: Any, paths: list[str], change: Change | None = None) -> dict[str, torch.Tensor]:
    """The gradient of the last position's logsumexp at what modules give; `change` edits the last."""
    kept: dict[str, torch.Tensor] = {}

    def keep(path: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            kept[path] = tensor_of(output)

        return model.get_submodule(path).register_forward_hook(hook)

    handles = [keep(path) for path in paths]
    logits = model(torch.tensor(ids()), use_cache=False).logits
    for handle in handles:
        handle.remove()
    if change is not None:
        kept[paths[-1]].register_hook(change)
    found = torch.autograd.grad(logits[0, -1].logsumexp(-1), list(kept.values()))
    return dict(zip(kept, found, strict=True))


def _gradients() -> dict[str, Any]:
    model = gpt2()
    first, last = "transformer.h.0", "transformer.h.2"
    grads = _grads(model, [first, last])
    doubled = _grads(model, [first, last], lambda grad: grad * 2)[first]
    return {"first_grad": grads[first], "last_grad": grads[last], "doubled": doubled}


def _attribution_patching() -> dict[str, Any]:
    model = llama()
    paths = [f"model.layers.{layer}.self_attn.o_proj" for layer in range(3)]
    clean, corrupted = inputs_seen(model, ids(), *paths), inputs_seen(model, ids(ITALY), *paths)
    kept: list[torch.Tensor] = []
    handles = [
        model.get_submodule(path).register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        for path in paths
    ]
    logits = model(torch.tensor(ids(ITALY)), use_cache=False).logits
    for handle in handles:
        handle.remove()
    grads = torch.autograd.grad(logits[0, -1].max(), kept)
    effects = [
        (grad * (clean[path] - corrupted[path])).reshape(1, -1, 4, 8).sum(dim=(0, 3))
        for path, grad in zip(paths, grads, strict=True)
    ]
    return {"effects": effects}


def _plain_modules() -> dict[str, Any]:
    net = mlp()
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    first = net[0](x)
    hidden = net[1](first).detach()
    hidden[:, 0] = 5
    return {
        "first": first,
        "out": net(x),
        "edited": net[2](hidden),
        "grad": _grad_of(net, x),
        "count": 3,
        "plain": net(x),
        "weight": net[0].weight,
    }


def _grad_of(net: Any, x: torch.Tensor) -> Any:
    first = net[0](x)
    (found,) = torch.autograd.grad(net[2](net[1](first)).sum(), first)
    return found


WITH_GRADIENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "attribution_patching": _attribution_patching,
    "gradients": _gradients,
    "plain_modules": _plain_modules,
}
"""By the name of the program."""
