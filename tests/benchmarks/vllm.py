"""What the lab costs in vLLM, beside vLLM itself: part of `make bench` where vLLM is installed.

    make bench                              hooks, this package, and vLLM
    python -m tests.benchmarks.vllm --only saved --rounds 10

Throughput is a ratio of process time in the same round; latency is wall time, and what it is more
than vLLM's own one-token request in the same round. Medians and quartiles.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import torch

from tests.benchmarks.rounds import Ratio, measured

__all__: list[str] = []

_PARTS = ("throughput", "latency")


def main() -> None:
    """Measure, and print a table a task."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", help="tasks whose name holds this")
    options.add_argument("--rounds", type=int, help="instead of each task's own number")
    options.add_argument("--threads", type=int, default=1)  # more share their noise
    options.add_argument("--part", choices=_PARTS, help="throughput or latency alone")
    chosen = options.parse_args()
    if find_spec("vllm") is None:
        print("\nvLLM is not installed, and is not measured: make bench VLLM=… installs it.")
    elif chosen.part is None:
        # vLLM reads once in a process whether it is to have processes of its own.
        for part in _PARTS:
            asked = [sys.executable, "-m", "tests.benchmarks.vllm", "--part", part, *sys.argv[1:]]
            subprocess.run(asked, check=True)
    else:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        torch.set_num_threads(chosen.threads)
        measure = _latency if chosen.part == "latency" else _throughput
        for line in measure(chosen.only, chosen.rounds):
            print(line, flush=True)


def _throughput(only: str, rounds: int | None) -> Iterator[str]:
    from tests.benchmarks.vllm_engines import Stock, checkpoint, engine
    from tests.benchmarks.vllm_throughput import tasks

    yield "\nvLLM: throughput by process time, median [quartiles]; one process, one thread, eager"
    with checkpoint() as made:
        served = engine(*made, one_process=True)
        for task in tasks(served, Stock(served)):
            if only not in task.name:
                continue
            count = rounds or task.rounds
            yield f"\n{task.name}   ({count} rounds)"
            for ratio in measured(task.ways, count, ready=task.ready):
                yield _line(ratio, task.goal)
        served.close()


def _latency(only: str, rounds: int | None) -> Iterator[str]:
    from tests.benchmarks.vllm_latency import latencies

    yield "\nvLLM: latency over loopback, a kept connection; vLLM in processes of its own"
    for found in latencies(rounds or 200):
        if only in found.name:
            spread = f"[{found.low:+.1f} to {found.high:+.1f}]"
            line = f"  {found.name:<30} {found.ms:7.1f} ms {found.more:+7.1f} {spread:<16}"
            if found.goal is not None:
                line += f"   goal +{found.goal:g}{'' if found.more <= found.goal else ': missed'}"
            yield line


def _line(ratio: Ratio, goal: float | None) -> str:
    kept = 1 / ratio.median
    spread = f"[{1 / ratio.high:.3f} to {1 / ratio.low:.3f}]"
    line = f"  {ratio.name:<18} {kept:6.3f} {spread:<18} {ratio.ms:9.1f} ms"
    if goal is not None and kept != 1.0:
        line += f"   goal {goal:.2f}{'' if kept >= goal else ': missed'}"
    return line


if __name__ == "__main__":
    main()
