"""What a trace costs beside hand-written hooks: `make bench`. A script, not a test.

Every layer's residual stream is read and one position is edited, four ways, on the bundled model:
by hooks on the plain module, by a recorded block, by running a graph recorded before, and on a
server when `--server URL --token T` says where. The plain forward pass is the yardstick.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import nnsight_lab as nl

__all__: list[str] = []

_PROMPT = "When Mary and John went to the store, John gave a drink to"


def _times_ms(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Each way once a round, so that what else the machine does falls on all of them."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(repeats + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if round_:  # the first is not counted: caches, lazy imports
                times[name].append((time.perf_counter() - began) * 1e3)
    return times


def _forward(module: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = module(ids).logits
    return logits


def _by_hooks(lm: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same reads and the same edit, as one would write them by hand."""
    kept: dict[str, torch.Tensor] = {}
    handles = []
    for index, block in enumerate(lm.module.model.layers):

        def after(_: object, __: object, output: Any, index: int = index) -> Any:
            resid = output[0] if isinstance(output, tuple) else output
            if index == 1:
                resid = resid.clone()
                resid[:, -1] *= 0.5
            kept[f"h{index}"] = resid.clone()
            return (resid, *output[1:]) if isinstance(output, tuple) else resid

        handles.append(block.register_forward_hook(after))
    try:
        kept["logits"] = _forward(lm.module, ids)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def _by_trace(lm: Any, layers: int) -> Any:
    with lm.trace(_PROMPT) as tracer:
        lm.layers[1].output[:, -1] *= 0.5
        hidden = [lm.layers[index].output.save() for index in range(layers)]
        logits = lm.logits.save()
    return tracer, hidden, logits


def main() -> None:
    """Measure each way, check that they agree, and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=50)
    options.add_argument("--threads", type=int, default=1)  # more share their noise
    options.add_argument("--server")
    options.add_argument("--token")
    chosen = options.parse_args()

    torch.set_num_threads(chosen.threads)
    lm = nl.LanguageModel("tiny")
    layers = len(lm.module.model.layers)
    ids = lm.tokenizer(_PROMPT, return_tensors="pt").input_ids
    tracer, hidden, logits = _by_trace(lm, layers)
    by_hand = _by_hooks(lm, ids)
    pairs = [*zip(hidden, (by_hand[f"h{i}"] for i in range(layers)), strict=True)]
    apart = max(float((a - b).abs().max()) for a, b in [*pairs, (logits, by_hand["logits"])])

    ways: dict[str, Callable[[], object]] = {
        "plain forward pass": lambda: _forward(lm.module, ids),
        "hooks by hand": lambda: _by_hooks(lm, ids),
        "recorded and run": lambda: _by_trace(lm, layers),
        "graph run again": lambda: lm.run(tracer.graph, _PROMPT),
    }
    if chosen.server:
        remote = nl.connect(chosen.server, token=chosen.token).model("tiny")
        ways["on the server"] = lambda: _by_trace(remote, layers)

    print(f"{chosen.threads} thread(s), {chosen.repeats} rounds; apart: {apart:.1e}")
    print(f"{'milliseconds':<20} {'median':>8} {'least':>8}")
    for name, times in _times_ms(ways, chosen.repeats).items():
        print(f"{name:<20} {statistics.median(times):8.2f} {min(times):8.2f}")


if __name__ == "__main__":
    main()
