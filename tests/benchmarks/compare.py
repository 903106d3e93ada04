"""What this package costs beside hand-written hooks, and beside its peers: `make bench`.

    make bench                    hooks and this package
    make bench PEERS=1            also nnsight, TransformerLens and pyvene, where installed
    make bench ARGS="--only save --rounds 10"

Prints, for each task, the ratio of process time to hooks in the same round: median and quartiles.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from tests.benchmarks import peers
from tests.benchmarks.rounds import Ratio, measured
from tests.benchmarks.tasks import Task, Way, tasks

__all__: list[str] = []


def main() -> None:
    """Check that all ways agree, measure them, and print a table a task."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", help="tasks whose name holds this")
    options.add_argument("--rounds", type=int, help="instead of each task's own number")
    options.add_argument("--threads", type=int, default=1)  # more share their noise
    options.add_argument("--peers", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"ratios of process time, median [quartiles]; {chosen.threads} thread(s)")
    for task in tasks():
        if chosen.only in task.name:
            ways = dict(task.ways)
            if chosen.peers:
                ways |= dict(peers.ways_of(task))
            rounds = chosen.rounds or task.rounds
            print(f"\n{task.name}   ({rounds} rounds of {task.calls})")
            apart = dict(_apart(task, ways))
            for ratio in measured(ways, rounds, task.calls):
                print(_line(task, ratio, apart[ratio.name]))


def _apart(task: Task, ways: dict[str, Way]) -> Iterator[tuple[str, float]]:
    """How far each way's numbers are from the baseline's."""
    expected = next(iter(ways.values()))()
    for name, way in ways.items():
        found = way()
        if len(found) != len(expected):
            raise SystemExit(f"{task.name}: {name} gave {len(found)} tensors.")
        pairs = zip(found, expected, strict=True)
        yield name, max((_difference(one, other) for one, other in pairs), default=0.0)


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.detach().double() - other.detach().double()).abs().max())


def _line(task: Task, ratio: Ratio, apart: float) -> str:
    spread = f"[{ratio.low:.2f} to {ratio.high:.2f}]"
    line = f"  {ratio.name:<18} {ratio.median:6.3f} {spread:<16} {ratio.ms:9.3f} ms"
    if ratio.name == "nnsight_lab" and task.goal is not None:
        line += f"   goal {task.goal:.2f}{'' if ratio.median <= task.goal else ': missed'}"
    return line + (f"   apart {apart:.0e}" if apart else "")


if __name__ == "__main__":
    main()
