"""The workers that share one model, tensor parallel: what each has, and what all have together.

Every worker runs the same graph on the same rows in the same order, so each of these calls is made
by all of them or by none. With one worker they do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["gathered", "largest", "own_part", "ranks"]


def ranks() -> int:
    """How many workers share each layer; 1 where vLLM has not started."""
    try:
        from vllm.distributed import get_tensor_model_parallel_world_size

        return int(get_tensor_model_parallel_world_size())
    except (ImportError, AssertionError):
        return 1


def gathered(tensor: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """The parts of all workers, one after another along an axis."""
    if ranks() == 1:
        return tensor
    from vllm.distributed import tensor_model_parallel_all_gather

    whole: torch.Tensor = tensor_model_parallel_all_gather(tensor.contiguous(), dim)
    return whole


def own_part(whole: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """This worker's part of what was gathered."""
    if ranks() == 1:
        return whole
    from vllm.distributed import get_tensor_model_parallel_rank

    own: torch.Tensor = whole.chunk(ranks(), dim)[get_tensor_model_parallel_rank()]
    return own.contiguous()


def largest(numbers: Sequence[float]) -> list[float]:
    """Of each number, the largest that any worker has. It wakes no GPU."""
    if ranks() == 1:
        return [*numbers]
    from vllm.distributed import get_tp_group

    found = torch.tensor(numbers, dtype=torch.float64)
    group = get_tp_group().cpu_group
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX, group=group)
    return list(map(float, found))
