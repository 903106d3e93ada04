"""The same tasks with other libraries, as their documentation does them; those that are installed.

Nothing of these is imported by the package or its tests. `make bench PEERS=1` installs them. A task
a library has no way of doing is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import torch

import nnsight_lab as nl
from tests.benchmarks.tasks import Task, Way

__all__ = ["ways_of"]

Parts = Mapping[str, Any]


def ways_of(task: Task) -> Iterator[tuple[str, Way]]:
    """How each installed peer does a task."""
    kind = task.name.split(",")[0]
    for name, makers in _PEERS.items():
        if find_spec(name) is not None and kind in makers:
            yield name, makers[kind](task.parts)


# --- nnsight: the 0.8 spelling


def _nnsight_model(parts: Parts) -> Any:
    from nnsight import NNsight

    return NNsight(copy.deepcopy(parts.get("model", parts.get("net"))))


def _nnsight_empty(parts: Parts) -> Way:
    model, x = _nnsight_model(parts), parts["x"]

    def way() -> list[torch.Tensor]:
        with torch.no_grad(), model.trace(x):
            pass
        return []

    return way


def _nnsight_mlp(parts: Parts) -> Way:
    import nnsight

    model, x = _nnsight_model(parts), parts["x"]

    def way() -> list[torch.Tensor]:
        with torch.no_grad():
            with model.trace(x):
                kept = nnsight.save([])
                for block in model:
                    kept.append(block.output)
        return list(kept)

    return way


def _nnsight_save(parts: Parts) -> Way:
    import nnsight

    model, rows = _nnsight_model(parts), torch.tensor([parts["ids"]])

    def way() -> list[torch.Tensor]:
        with torch.no_grad():
            with model.trace(rows, use_cache=False):
                kept = nnsight.save([])
                for layer in model.transformer.h:
                    kept.append(layer.output)
                kept.append(model.output.logits)
        return list(kept)

    return way


def _nnsight_attribution(parts: Parts) -> Way:
    import nnsight

    model = _nnsight_model(parts)
    good, bad = (torch.tensor([parts[name]]) for name in ("ids", "corrupted"))
    one, two = parts["pair"]

    def way() -> list[torch.Tensor]:
        with torch.no_grad():
            with model.trace(bad, use_cache=False):
                other = nnsight.save([])
                for layer in model.transformer.h:
                    other.append(layer.output)
        with model.trace(good, use_cache=False):
            kept = nnsight.save([])
            for layer in model.transformer.h:
                kept.append(layer.output)
            last = model.output.logits[0, -1]
            grads = nnsight.save([])
            with (last[one] - last[two]).backward():
                for value in reversed(kept):
                    grads.append(value.grad)
        pairs = zip(other, kept, reversed(grads), strict=True)
        scores = [((bad - good.detach()) * grad).sum(-1) for bad, good, grad in pairs]
        return scores

    return way


def _nnsight_steered(parts: Parts) -> Way:
    from nnsight import LanguageModel

    tokenizer = nl.LanguageModel("tiny").tokenizer  # it insists on one
    model = LanguageModel(copy.deepcopy(parts["model"]), tokenizer=tokenizer)
    rows, direction, place = torch.tensor([parts["ids"]]), parts["direction"], parts["layer"]

    def way() -> list[torch.Tensor]:
        with torch.no_grad():
            with model.generate(rows, max_new_tokens=20, do_sample=False, pad_token_id=0) as tracer:
                for _ in tracer.iter[:20]:
                    model.transformer.h[place].output[:] += direction
                out = tracer.result.save()
        return [out]

    return way


# --- TransformerLens: the bridge around a Hugging Face model


def _bridge(parts: Parts) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        "gpt2",
        hf_model=copy.deepcopy(parts["model"]),
        tokenizer=nl.LanguageModel("tiny").tokenizer,  # it insists on one
    )


def _lens_save(parts: Parts) -> Way:
    model, rows = _bridge(parts), torch.tensor([parts["ids"]])
    names = [f"blocks.{place}.hook_resid_post" for place in range(model.cfg.n_layers)]

    def way() -> list[torch.Tensor]:
        with torch.no_grad():
            logits, cache = model.run_with_cache(rows, names_filter=lambda name: name in names)
        return [*(cache[name] for name in names), logits]

    return way


def _lens_attribution(parts: Parts) -> Way:
    model = _bridge(parts)
    good, bad = (torch.tensor([parts[name]]) for name in ("ids", "corrupted"))
    one, two = parts["pair"]
    names = [f"blocks.{place}.hook_resid_post" for place in range(model.cfg.n_layers)]

    def way() -> list[torch.Tensor]:
        with torch.no_grad():
            _, other = model.run_with_cache(bad, names_filter=lambda name: name in names)
        kept: dict[str, torch.Tensor] = {}

        def keeps(name: str) -> Callable[..., None]:
            return lambda value, hook: kept.update({name: value})

        with model.hooks(fwd_hooks=[(name, keeps(name)) for name in names]):
            last = model(good)[0, -1]
        grads = torch.autograd.grad(last[one] - last[two], [kept[name] for name in names])
        pairs = zip(names, grads, strict=True)
        return [((other[name] - kept[name].detach()) * grad).sum(-1) for name, grad in pairs]

    return way


def _lens_steered(parts: Parts) -> Way:
    model, rows, direction = _bridge(parts), torch.tensor([parts["ids"]]), parts["direction"]
    name = f"blocks.{parts['layer']}.hook_resid_post"

    def way() -> list[torch.Tensor]:
        def steer(value: torch.Tensor, hook: Any) -> torch.Tensor:
            moved: torch.Tensor = value + direction
            return moved

        with torch.no_grad(), model.hooks(fwd_hooks=[(name, steer)]):
            out = model.generate(
                rows, max_new_tokens=20, do_sample=False, verbose=False, return_type="tokens",
                stop_at_eos=False, prepend_bos=False,
            )  # fmt: skip
        return [out]

    return way


# --- pyvene


def _pyvene_model(parts: Parts, places: list[int], act: Callable[..., torch.Tensor]) -> Any:
    import pyvene

    # It takes the gradients off the model it is given, so it gets one of its own.
    return pyvene.IntervenableModel(
        [{"component": f"transformer.h[{place}].output", "intervention": act} for place in places],
        model=copy.deepcopy(parts["model"]),
    )


def _pyvene_save(parts: Parts) -> Way:
    kept: list[torch.Tensor] = []

    def keep(base: torch.Tensor, source: Any) -> torch.Tensor:
        kept.append(base)
        return base

    whole = _pyvene_model(parts, list(range(parts["model"].config.n_layer)), keep)
    rows = {"input_ids": torch.tensor([parts["ids"]])}

    def way() -> list[torch.Tensor]:
        kept.clear()
        with torch.no_grad():
            _, counterfactual = whole(rows)
        return [*kept, counterfactual.logits]

    return way


def _pyvene_steered(parts: Parts) -> Way:
    direction = parts["direction"]
    whole = _pyvene_model(parts, [parts["layer"]], lambda base, source: base + direction)
    rows = {"input_ids": torch.tensor([parts["ids"]])}

    def way() -> list[torch.Tensor]:
        with torch.no_grad():
            _, out = whole.generate(
                rows, max_new_tokens=20, do_sample=False, pad_token_id=0,
                intervene_on_prompt=True,
            )  # fmt: skip
        return [out]

    return way


_PEERS: dict[str, dict[str, Callable[[Parts], Way]]] = {
    "nnsight": {
        "empty trace": _nnsight_empty,
        "12 saves": _nnsight_mlp,
        "save all layers": _nnsight_save,
        "attribution patching": _nnsight_attribution,
        "20 steered tokens": _nnsight_steered,
    },
    "transformer_lens": {
        "save all layers": _lens_save,
        "attribution patching": _lens_attribution,
        "20 steered tokens": _lens_steered,
    },
    "pyvene": {"save all layers": _pyvene_save, "20 steered tokens": _pyvene_steered},
}
