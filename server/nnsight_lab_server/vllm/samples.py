"""What modules of the Hugging Face model take and give, as bytes: calls on vLLM are tried on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import load, save

from nnsight_lab_server.vllm.calls import Sample, samples_of

__all__ = ["samples_bytes", "samples_from_bytes"]

_TOKENS = 4
_GIVEN, _EXPECTED = "given ", "expected "


def samples_bytes(module: torch.nn.Module) -> bytes:
    """Of every module that takes one tensor and gives one, on a few tokens."""
    paths = [path for path, _ in module.named_modules() if path]
    device = next(module.parameters()).device
    tokens = torch.arange(1, _TOKENS + 1, device=device)[None]
    return _to_bytes(samples_of(module, tokens, paths))


def _to_bytes(samples: Mapping[str, Sample]) -> bytes:
    tensors = {}
    for path, (given, expected) in samples.items():
        tensors[_GIVEN + path] = given.cpu().contiguous().clone()
        tensors[_EXPECTED + path] = expected.cpu().contiguous().clone()
    return save(tensors)


def samples_from_bytes(data: bytes) -> dict[str, Sample]:
    """What `samples_bytes` gave."""
    tensors = load(data)
    paths = (name.removeprefix(_GIVEN) for name in tensors if name.startswith(_GIVEN))
    return {path: (tensors[_GIVEN + path], tensors[_EXPECTED + path]) for path in paths}
