"""`Leftovers`: what requests of runs leave in vLLM's cache is gone before somebody else is given it.

A block of keys and values that is given back keeps what was in it, and attention multiplies what
lies after a text's end by zero. Zero times what vLLM computed itself is zero; zero times a `nan` or
`inf` that a run has written is not, and would be in another's numbers. So blocks of runs that edit
are noted, and emptied when they are given to a request anew. What a run only reads, vLLM computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

__all__ = ["Leftovers"]

_Blocks = Sequence[Sequence[int]]
"""Ids of blocks, by group of layers."""


class Leftovers:
    """The blocks of one worker's cache that edits may be in. runner: vLLM's model runner."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._left: set[int] = set()
        self._on_gpu = runner.device.type != "cpu"
        if self._on_gpu and not hasattr(runner, "_kv_block_zeroer"):
            runner._init_kv_zero_meta()  # noqa: SLF001 - what vLLM itself empties blocks with

    def clear(self, scheduled: Any, edited: Iterable[str]) -> None:
        """Empty what the requests of a step are newly given; note what edited ones are given."""
        given = [(id, set(blocks)) for id, blocks in self._given(scheduled)]
        dirty = sorted(self._left & {block for _, own in given for block in own})
        if dirty:
            self._empty(dirty)
            self._left.difference_update(dirty)
        edits = set(edited)
        for id, own in given:
            if id in edits:
                self._left |= own

    def _given(self, scheduled: Any) -> Iterator[tuple[str, Iterator[int]]]:
        """Each request that is given blocks in a step, and those it did not find in the cache."""
        for new in scheduled.scheduled_new_reqs:
            yield new.req_id, self._not_found(new.block_ids, new.num_computed_tokens)
        cached = scheduled.scheduled_cached_reqs
        for place, id in enumerate(cached.req_ids):
            blocks = cached.new_block_ids[place]
            if blocks is not None:
                again = id in cached.resumed_req_ids
                found = cached.num_computed_tokens[place] if again else 0
                yield id, self._not_found(blocks, found)

    def _not_found(self, blocks: _Blocks, computed: int) -> Iterator[int]:
        groups = self._runner.kv_cache_config.kv_cache_groups
        for group, own in zip(groups, blocks, strict=True):
            yield from own[computed // group.kv_cache_spec.block_size :]

    def _empty(self, blocks: list[int]) -> None:
        if self._on_gpu:
            self._runner._zero_block_ids(blocks)  # noqa: SLF001
            return
        count = self._runner.kv_cache_config.num_blocks
        for kept in self._caches():
            each = kept.shape[0] // count
            rows = torch.tensor([block * each + part for block in blocks for part in range(each)])
            kept.index_fill_(0, rows, 0)

    def _caches(self) -> Iterator[torch.Tensor]:
        seen: set[int] = set()
        for layer in self._runner.compilation_config.static_forward_context.values():
            kept = getattr(layer, "kv_cache", None)
            if isinstance(kept, torch.Tensor) and kept.data_ptr() not in seen:
                seen.add(kept.data_ptr())
                yield kept
