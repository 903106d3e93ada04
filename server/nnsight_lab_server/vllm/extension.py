"""What vLLM's worker gains: a handful of calls, all named `lab_…`.

vLLM adds this class to the bases of its own worker (`worker_extension_cls`), on every platform and
for every executor. Nothing happens until `lab_install` is called.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from nnsight_lab_server.vllm.calling import Callables, samples_from_bytes
from nnsight_lab_server.vllm.install import mend_pipeline, missing, relay_of, sends
from nnsight_lab_server.vllm.lab import Lab
from nnsight_lab_server.vllm.served_bytes import served_from_bytes
from nnsight_lab_server.vllm.survey import SurveyWorker

__all__ = ["LabWorker"]


class LabWorker(SurveyWorker):
    """Calls for `collective_rpc`. `self` is vLLM's worker."""

    model_runner: Any
    rank: int

    def lab_selftest(self) -> list[str]:
        """What this version of vLLM lacks of all we rely on. Called first: requests may come then."""
        found = missing(self)
        if not found:
            mend_pipeline(self.model_runner)
        return found

    def lab_process(self) -> tuple[str, int]:
        """The machine and the process this worker is."""
        return socket.gethostname(), os.getpid()

    def lab_install(self, options: dict[str, Any]) -> None:
        """Hang the lab on this worker. options: where messages go (`send` or `channel`)."""
        if not hasattr(self, "lab"):
            relay = relay_of(options, self.rank)
            self.lab = Lab(self.model_runner, sends(options, self.rank), relay)

    def lab_remove(self) -> None:
        """Leave the worker as it was before the lab."""
        if hasattr(self, "lab"):
            self.lab.remove()
            del self.lab

    def lab_serve(self, served: Any) -> None:
        """Tell the lab what is known of the model; from now on, runs may come."""
        self.lab.serve(served_from_bytes(served) if isinstance(served, bytes) else served)

    def lab_check(self, samples: bytes) -> dict[str, Any]:
        """Compare modules with what Hugging Face's made of the same (`calling.Callables`)."""
        return self.lab.compared(samples_from_bytes(samples)).to_plain()

    def lab_able(self, callables: dict[str, Any]) -> dict[str, Any]:
        """Of calls that were compared before, or on a smaller model, those that this worker can."""
        return self.lab.able(Callables.from_plain(callables)).to_plain()

    def lab_forget(self, run: str) -> None:
        """Nothing more is wanted of a run."""
        self.lab.forget(run)

    def lab_stats(self) -> dict[str, int]:
        """How many runs are under way, and the like."""
        return self.lab.stats
