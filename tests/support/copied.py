"""What a tab of the explorer shows, by the names that its copied cell gives the same numbers."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import torch

from nnsight_lab.jupyter.explorer import Explorer, View
from tests.support.explored import told

__all__ = ["FIRST", "SET", "cells_of", "sae_weights", "said", "shown_by_name"]

_SOURCE = "The capital of Spain is Madrid. The capital of Japan is"

FIRST: dict[str, dict[str, Any]] = {
    "tokens": {"by": "surprisal"},
    "lens": {"top": 5, "targets": []},
    "attention": {"layer": 0, "head": 0, "start": 0, "end": 13},
    "patching": {
        "source": "", "part": "resid", "from": None, "to": None, "map": False,
        "metric": "difference", "answer": "", "other": "",
    },
    "steering": {
        "layer": 3, "strength": 1, "count": 12, "temperature": 0, "seed": 0, "toward": [], "away": [],
    },
    "norms": {"show": "norms", "at": "0", "skip": 1},
    "features": {"token": 1, "feature": None, "top": 10},
}  # fmt: skip
"""What each tab asks for as its controls stand when it is opened, as the browser says it."""

SET: dict[str, dict[str, Any]] = {
    "tokens": {"by": "surprisal"},
    "lens": {"top": 3, "targets": [" Rome", 7]},
    "attention": {"layer": 3, "head": 1},
    "patching": {**FIRST["patching"], "source": _SOURCE, "from": [2, 4], "to": [2, 1]},
    "steering": {
        **FIRST["steering"], "count": 4, "strength": 1.5, "toward": [" Rome"], "away": ["A", "B"],
    },
    "norms": {
        "show": "cosines", "at": "2", "skip": 0, "direction": "difference", "of": " Paris",
        "minus": " Rome",
    },
    "features": {"token": 1, "feature": 11, "top": 6},
}  # fmt: skip
"""The same with something chosen."""


def sae_weights(dtype: torch.dtype = torch.float32, width: int = 128) -> dict[str, torch.Tensor]:
    """A sparse autoencoder as four tensors."""
    made = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (width, 96), "b_enc": (96,), "W_dec": (96, width), "b_dec": (width,)}
    return {
        name: (torch.randn(*shape, generator=made) / 10).to(dtype) for name, shape in shapes.items()
    }


def said(explorer: Explorer, kind: str, view: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """What a click on *Copy as code* or *Figure* is answered."""
    answers: queue.Queue[dict[str, Any]] = queue.Queue()
    explorer._publish = (  # type: ignore[method-assign]
        lambda kind, content, buffers=(), *, keep: answers.put(content)
    )
    explorer._hear(kind, {"view": view, "request": 1, "wanted": wanted}, [])
    return answers.get(timeout=60)


def cells_of(code: str) -> list[str]:
    """The cells that copied code becomes."""
    return code.split("\n# %%\n")


def shown_by_name(view: View, wanted: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the tab is told, by the names of the copied cell."""
    sheets = told(view, **wanted)
    plain, arrays = sheets[-1].plain, dict(sheets[-1].arrays)
    found: dict[str, Any] = {}
    match view.name:
        case "tokens":
            found = {"surprisal": arrays["numbers"][1:]}
        case "lens":
            found = {f"lens_{name}": arrays[name] for name in ("probabilities", "entropy")}
            found["lens_ids"] = np.array(plain["ids"])[arrays["tops"]]
            if plain["targets"]:
                found["lens_target_probabilities"] = np.moveaxis(arrays["chances"], 0, -1)
                found["lens_target_ranks"] = np.moveaxis(arrays["ranks"], 0, -1)
        case "attention":
            layers = [sheet.arrays["scores"] for sheet in sheets if sheet.topic.startswith("layer")]
            names = ("entropy", "previous", "induction", "first")
            scores = np.stack(layers, axis=1)
            found = {f"attention_{name}": score for name, score in zip(names, scores, strict=True)}
            (head,) = [sheet for sheet in sheets if sheet.topic == "head"]
            found["attention_pattern"] = head.arrays["pattern"]
        case "norms":
            kinds = {
                "norms": "stream",
                "cosines": "stream",
                "points": "plane",
                "explained": "plane",
            }
            found = {f"{kinds[name]}_{name}": array for name, array in arrays.items()}
        case "features":
            found = {f"feature_{name}": array for name, array in arrays.items()}
            found["feature_ids"] = np.array(plain["features"])
        case "patching":
            rows = [arrays[f"{name}_chances"] for name in ("target", "patched")
                    if f"{name}_chances" in arrays]  # fmt: skip
            found = {"patched_probabilities": np.stack(rows)}
            if "source_chances" in arrays:
                found["source_probabilities"] = arrays["source_chances"][None]
            if "change" in arrays:
                found["patched_change"] = arrays["change"]
        case "steering":
            found = {"steering_along": arrays["along"]}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}
