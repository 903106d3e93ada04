"""A worker that is told something else than the others, to see that they stay together."""

from __future__ import annotations

from typing import Any

from nnsight_lab_server.vllm.calling import samples_from_bytes
from nnsight_lab_server.vllm.extension import LabWorker

__all__ = ["Disagreeing"]


class Disagreeing(LabWorker):
    """On the second worker every module is expected to give something else."""

    def lab_check(self, samples: bytes) -> dict[str, Any]:
        given = samples_from_bytes(samples)
        if self.rank == 1:
            given = {path: (into, out + 1.0) for path, (into, out) in given.items()}
        return self.lab.compared(given).to_plain()
