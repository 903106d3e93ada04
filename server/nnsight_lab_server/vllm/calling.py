"""Which modules of the Hugging Face model a graph may call on vLLM, out of their order.

    samples = samples_to_bytes(samples_of(module, tokens, paths))      # where Hugging Face's model is
    callable = Callables.from_plain(worker.lab_check(samples))         # compared in the worker
    check_calls(graph, tree, callable)                                 # before a run is queued

A module whose work differs, or that vLLM has none like, is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save

from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import Apply, Graph, ModuleTree
from nnsight_lab.ir.nodes import nodes_within
from nnsight_lab_server.vllm.calls import Sample
from nnsight_lab_server.vllm.routes import Route

__all__ = ["Callables", "check_calls", "samples_from_bytes", "samples_to_bytes"]


@dataclass(frozen=True, slots=True)
class Callables:
    """What was found: where calls go, and for modules without a route, why they have none."""

    routes: Mapping[str, Route] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Plain data."""
        routes = {path: asdict(route) for path, route in self.routes.items()}
        return {"routes": routes, "reasons": dict(self.reasons)}

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Callables:
        """The same again."""
        routes = {path: _route(found) for path, found in plain["routes"].items()}
        return Callables(routes, dict(plain["reasons"]))


def _route(plain: Mapping[str, Any]) -> Route:
    columns = plain["columns"]
    pieces = None if columns is None else tuple((start, stop) for start, stop in columns)
    return Route(plain["path"], pieces, plain["factor"], plain["function"])


def samples_to_bytes(samples: Mapping[str, Sample]) -> bytes:
    """What went into modules and came out, for the way to the workers."""
    pairs = {f"{side}:{path}": pair[side] for path, pair in samples.items() for side in (0, 1)}
    return save({name: tensor.cpu().contiguous().clone() for name, tensor in pairs.items()})


def samples_from_bytes(data: bytes) -> dict[str, Sample]:
    """The same in the worker."""
    tensors: dict[str, torch.Tensor] = load(data)
    # What safetensors gives has another order in every process. Workers that share a model compare
    # together, so each has to take the same module next.
    paths = sorted(name[2:] for name in tensors if name.startswith("0:"))
    return {path: (tensors[f"0:{path}"], tensors[f"1:{path}"]) for path in paths}


def check_calls(graph: Graph, tree: ModuleTree, callables: Callables) -> None:
    """Check that every module a graph calls does on vLLM what it does on Hugging Face.

    Raises:
        NotSupported: one does not, or cannot be called by itself; the error has the line.
    """
    for node in graph.nodes:
        for call in nodes_within(node):
            if not isinstance(call, Apply):
                continue
            path = tree.module_of.get(call.path, call.path)
            if path not in callables.routes:
                reason = callables.reasons.get(path, "it takes more than one tensor")
                raise NotSupported(
                    f"On vLLM {call.path} cannot be called: {reason}.",
                    hint="Serve the model with --engine auto or transformers as well, which can.",
                    node=node.id,
                ).at(call.where or node.where)
