"""What each program must give, computed with PyTorch hooks on the plain model.

`EXPECTED[program]()` gives the entries of `results` that it knows; nothing of ours is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tests.compat.by_hand_gradients import WITH_GRADIENTS
from tests.compat.random_models import FRANCE, ITALY, gpt2, ids, llama, tokenizer
from tests.support.generation_hooks import generated
from tests.support.hooks import forward, hooked, inputs_seen, outputs_seen, tensor_of

__all__ = ["EXPECTED"]

Change = Callable[[torch.Tensor], torch.Tensor | None]


def logits_with(model: Any, after: Mapping[str, Change], text: str = FRANCE) -> torch.Tensor:
    """The logits of a run in which modules give something else."""
    found: torch.Tensor = hooked(model, ids(text), after=after)["logits"]
    return found


def _read_and_save() -> dict[str, Any]:
    model = gpt2()
    h = "transformer.h"
    seen = outputs_seen(
        model, ids(), "transformer.wte", f"{h}.0.attn", f"{h}.0.mlp", f"{h}.1", f"{h}.2"
    )
    given = inputs_seen(model, ids(), f"{h}.0", "transformer.ln_f")
    logits = forward(model, ids())
    return {
        "embedded": seen["transformer.wte"],
        "block_in": given[f"{h}.0"],
        "attention": tensor_of(seen[f"{h}.0.attn"]),
        "mlp": seen[f"{h}.0.mlp"],
        "hidden": tensor_of(seen[f"{h}.1"]),
        "last": tensor_of(seen[f"{h}.2"])[:, -1],
        "head": logits,
        "logits": logits,
        "doubled": given["transformer.ln_f"] * 2,
        "best": logits.argmax(-1),
        "again": logits,
        "kinds": [True, True, True],
    }


def _edits_in_place() -> dict[str, Any]:
    model = llama()
    layers = "model.layers"
    seen = outputs_seen(model, ids(), f"{layers}.0")
    before = tensor_of(seen[f"{layers}.0"])
    shifted = hooked(model, ids(), before={f"{layers}.2": lambda x: x + 1})
    return {
        "before": before,
        "after": torch.zeros_like(before),
        "zeroed": logits_with(model, {f"{layers}.0": torch.zeros_like}),
        "doubled": logits_with(model, {f"{layers}.1.mlp": lambda x: x * 2}),
        "ablated": logits_with(model, {f"{layers}.1.self_attn": _last_zeroed}),
        "shifted": shifted["logits"],
        "steered": logits_with(model, {f"{layers}.1": lambda x: x + torch.ones(32)}),
        "clean": forward(model, ids()),
    }


def _last_zeroed(value: torch.Tensor) -> None:
    value[:, -1] = 0


def _logit_lens() -> dict[str, Any]:
    model = gpt2()
    prompt = ids("The Eiffel Tower is in the city of")
    seen = outputs_seen(model, prompt, *(f"transformer.h.{layer}" for layer in range(3)))
    with torch.no_grad():
        logits = [model.lm_head(model.transformer.ln_f(tensor_of(x))) for x in seen.values()]
    together = torch.cat([each.softmax(-1) for each in logits])
    best, tokens = together.max(-1)
    return {"together": together, "best": best, "tokens": tokens}


def _activation_patching() -> dict[str, Any]:
    model = gpt2()
    paths = [f"transformer.h.{layer}" for layer in range(3)]
    clean = outputs_seen(model, ids(), *paths)
    logits, corrupted = forward(model, ids())[0, -1], forward(model, ids(ITALY))[0, -1]
    answer, wrong = logits.argmax(), corrupted.argmax()

    def patched(path: str, position: int) -> float:
        def change(value: torch.Tensor) -> None:
            value[:, position] = tensor_of(clean[path])[:, position]

        out = logits_with(model, {path: change}, ITALY)[0, -1]
        return float(out[answer] - out[wrong])

    table = [[patched(path, position) for position in range(len(ids()[0]))] for path in paths]
    return {"clean_logits": logits, "corrupted_logits": corrupted, "table": table}


def _several_invokes() -> dict[str, Any]:
    model = llama()
    clean = tensor_of(outputs_seen(model, ids(), "model.layers.1")["model.layers.1"])

    def change(value: torch.Tensor) -> None:
        value[:, -1] = clean[:, -1]

    logits, corrupted = forward(model, ids()), forward(model, ids(ITALY))
    patched = logits_with(model, {"model.layers.1": change}, ITALY)
    return {
        "clean": logits,
        "patched": patched,
        "corrupted": corrupted,
        "every": torch.cat([logits, patched, corrupted]),
        "batch": torch.cat([logits, corrupted]),
    }


def _unequal_prompts() -> dict[str, Any]:
    model = gpt2()
    short, long = "The capital is", "The capital of France is the city of"
    one = logits_with(model, {"transformer.h.0": _last_zeroed}, short)[:, -1]
    two = forward(model, ids(long))[:, -1]
    both = torch.cat([forward(model, ids(short))[:, -1], two])
    vocabulary = len(tokenizer())
    return {"one": one, "two": two, "both": both, "padded": (2, len(ids(long)[0]), vocabulary)}


def _at(steps: tuple[int, ...], change: Change) -> Callable[[int, torch.Tensor], torch.Tensor]:
    """An edit at some steps of a generation only."""

    def changed(step: int, value: torch.Tensor) -> torch.Tensor:
        new = change(value.clone()) if step in steps else value
        return value if new is None else new

    return changed


def _generation() -> dict[str, Any]:
    model = llama()
    layers = "model.layers"

    def steer(value: torch.Tensor) -> torch.Tensor:
        value[:, -1] += 3
        return value

    clean = generated(model, ids(), see=("lm_head",), max_new_tokens=4)
    zeroed = generated(
        model,
        ids(),
        see=(f"{layers}.2",),
        after={f"{layers}.1": _at((1, 2), torch.zeros_like)},
        max_new_tokens=4,
    )
    steered = generated(
        model, ids(), after={f"{layers}.0": _at((0, 1, 2, 3), steer)}, max_new_tokens=4
    )
    one = generated(
        model, ids(), after={f"{layers}.1.mlp": _at((1,), torch.zeros_like)}, max_new_tokens=3
    )
    return {
        "logits": [each[:, -1] for each in clean.seen["lm_head"]],
        "ids": clean.ids,
        "hidden": zeroed.seen[f"{layers}.2"][1:3],
        "steered": steered.ids,
        "shapes": [len(ids()[0]), 1, 1],
        "one_step": one.ids,
        "text": tokenizer().decode(clean.ids[0]),
    }


def _steering() -> dict[str, Any]:
    model, path = llama(), "model.layers.1"
    one = tensor_of(outputs_seen(model, ids("I love this city"), path)[path])[0, -1]
    two = tensor_of(outputs_seen(model, ids("I hate this city"), path)[path])[0, -1]
    direction = one - two
    edits = {path: lambda _, value: value + 4 * direction}
    plain = generated(model, ids(), max_new_tokens=5).ids
    steered = generated(model, ids(), after=edits, max_new_tokens=5).ids
    return {"direction": direction, "plain": plain, "steered": steered, "length": plain.shape[1]}


def _sessions() -> dict[str, Any]:
    model, path = gpt2(), "transformer.h.1"
    hidden = tensor_of(outputs_seen(model, ids(), path)[path])

    def change(value: torch.Tensor) -> None:
        value[:, -1] = hidden[:, -1]

    paths = [f"transformer.h.{layer}" for layer in range(3)]
    seen = outputs_seen(model, ids("one two three"), *paths)
    norms = [tensor_of(seen[path]).norm() for path in paths]
    return {"patched": logits_with(model, {path: change}, ITALY), "norms": norms}


def _stored_edits() -> dict[str, Any]:
    model = gpt2()

    def ones(value: torch.Tensor) -> None:
        value[:, -1] = 1

    clean = forward(model, ids())
    return {
        "clean": clean,
        "changed": logits_with(model, {"transformer.h.1.mlp": torch.zeros_like}),
        "in_place": logits_with(model, {"transformer.h.0": ones}),
        "cleared": clean,
    }


def _cache_and_scan() -> dict[str, Any]:
    model = gpt2()
    h = "transformer.h"
    edited = hooked(
        model, ids(), after={f"{h}.0.mlp": torch.zeros_like}, see=(f"{h}.0.mlp", f"{h}.1")
    )
    block = tensor_of(edited[f"{h}.1"])
    seen = outputs_seen(model, ids(), f"{h}.2.attn.c_proj", f"{h}.2")
    return {
        "keys": [f"model.{h}.0.mlp", f"model.{h}.1"],
        "mlp": edited[f"{h}.0.mlp"],
        "block": block,
        "short": block,
        "inside": True,
        "all": seen[f"{h}.2.attn.c_proj"],
        "head": forward(model, ids()),
        "half": tensor_of(seen[f"{h}.2"]).half(),
        "given": inputs_seen(model, ids(), f"{h}.2")[f"{h}.2"].half(),
        "width": 32,
        "shape": (1, len(ids()[0]), len(tokenizer())),
    }


def _stop_and_skip() -> dict[str, Any]:
    model = gpt2()
    given = inputs_seen(model, ids(), "transformer.h.1")["transformer.h.1"]
    hidden = tensor_of(outputs_seen(model, ids(), "transformer.h.0")["transformer.h.0"])
    return {
        "hidden": hidden,
        "skipped": logits_with(model, {"transformer.h.1": lambda _: given.clone()}),
    }


def _attached_sae() -> dict[str, Any]:
    model, path = gpt2(), "transformer.h.1"
    torch.manual_seed(1)
    encoder, decoder = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
    hidden = tensor_of(outputs_seen(model, ids(), path)[path])
    with torch.no_grad():
        features = torch.relu(encoder(hidden))
        rebuilt = decoder(features)
        clamped = features.clone()
        clamped[:, :, 7] = 10
        rebuilt_clamped = decoder(clamped)
    return {
        "features": features,
        "logits": logits_with(model, {path: lambda _: rebuilt}),
        "clamped": logits_with(model, {path: lambda _: rebuilt_clamped}),
    }


def _plain_python() -> dict[str, Any]:
    model = gpt2()
    paths = [f"transformer.h.{layer}" for layer in range(3)]
    seen = outputs_seen(model, ids(), *paths)
    hidden = tensor_of(seen[paths[0]])
    assert hidden.norm() > 1
    logits = forward(model, ids())
    return {
        "direction": hidden / hidden.norm(dim=-1, keepdim=True),
        "logits": logits_with(model, {paths[1]: lambda x: x * 0.5}),
        "token": int(logits[0, -1].argmax()),
        "shape": tuple(logits.shape),
        "norms": {place: float(tensor_of(seen[path]).norm()) for place, path in enumerate(paths)},
    }


def _token_ids() -> dict[str, Any]:
    model = gpt2()
    logits = forward(model, [[5, 6, 7, 8]])
    made = generated(model, [[5, 6, 7, 8]], max_new_tokens=2).ids
    same = dict.fromkeys(("tensor", "named", "plain", "mapping"), logits)
    return {**same, "generated": made}


def _inputs_and_tuples() -> dict[str, Any]:
    model, h = gpt2(), "transformer.h.1"
    attention, pattern = outputs_seen(model, ids(), f"{h}.attn")[f"{h}.attn"]
    tripled = hooked(model, ids(), before={f"{h}.mlp": lambda x: x * 3})["logits"]
    return {
        "given": inputs_seen(model, ids(), f"{h}.mlp")[f"{h}.mlp"],
        "tripled": tripled,
        "attention": attention,
        "pattern": pattern,
        "removed": logits_with(model, {f"{h}.attn": torch.zeros_like}),
        "blank": torch.zeros_like(tripled),
    }


def _module_source() -> dict[str, Any]:
    model = gpt2()
    act = "transformer.h.0.mlp.act"
    return {"inner": outputs_seen(model, ids(), act)[act], "logits": forward(model, ids())}


EXPECTED: dict[str, Callable[[], dict[str, Any]]] = {
    **WITH_GRADIENTS,
    "activation_patching": _activation_patching,
    "attached_sae": _attached_sae,
    "cache_and_scan": _cache_and_scan,
    "edits_in_place": _edits_in_place,
    "generation": _generation,
    "inputs_and_tuples": _inputs_and_tuples,
    "logit_lens": _logit_lens,
    "module_source": _module_source,
    "plain_python": _plain_python,
    "read_and_save": _read_and_save,
    "sessions": _sessions,
    "several_invokes": _several_invokes,
    "steering": _steering,
    "stop_and_skip": _stop_and_skip,
    "stored_edits": _stored_edits,
    "token_ids": _token_ids,
    "unequal_prompts": _unequal_prompts,
}
"""By the name of the program."""
