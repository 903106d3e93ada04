"""Workers that do not do what the others do, to see that nobody waits for them for ever."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nnsight_lab_server.vllm.calling import samples_from_bytes
from nnsight_lab_server.vllm.extension import LabWorker

__all__ = ["ABSENT_ONCE", "AbsentOnce", "Disagreeing"]

ABSENT_ONCE = "NNSIGHT_LAB_TEST_ABSENT_ONCE"
"""Names a file in the environment: while it is there, a second worker is to be absent."""


class Disagreeing(LabWorker):
    """On the second worker every module is expected to give something else."""

    def lab_check(self, samples: bytes) -> dict[str, Any]:
        given = samples_from_bytes(samples)
        if self.rank == 1:
            given = {path: (into, out + 1.0) for path, (into, out) in given.items()}
        return self.lab.compared(given).to_plain()


class AbsentOnce(LabWorker):
    """The second worker leaves the first alone in what needs both, one time."""

    def lab_check(self, samples: bytes) -> dict[str, Any]:
        file = Path(os.environ[ABSENT_ONCE])
        if self.rank == 1 and file.exists():
            file.unlink()
            return {"routes": {}, "reasons": {}}
        return super().lab_check(samples)
