"""`Relay`: what one stage of a pipeline saw of the runs, on its way to the next. One machine.

Every engine step that holds rows of a run sends one parcel from each stage to the next, empty or
not, so that both know which belongs to which step.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Any

import torch
from safetensors.torch import load, save

from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.rows import Piece

__all__ = ["Passed", "Relay"]

_WAIT_MS = 120_000


@dataclass(frozen=True, slots=True)
class Passed:
    """Rows of a run came by a moment: the pieces, and of each address their rows in that order."""

    run: str
    part: int
    moment: int
    pieces: list[Piece]
    rows: dict[Address, torch.Tensor]


class Relay:
    """A worker's place in the pipeline. before, after: addresses of the sockets on either side."""

    def __init__(self, stage: int = 0, before: str | None = None, after: str | None = None) -> None:
        self.stage = stage
        self._from: Any = None
        self._to: Any = None
        if before is None and after is None:
            return
        import zmq

        self._context = zmq.Context()
        if before is not None:
            self._from = self._context.socket(zmq.PULL)
            self._from.setsockopt(zmq.RCVTIMEO, _WAIT_MS)
            self._from.bind(before)
        if after is not None:
            self._to = self._context.socket(zmq.PUSH)
            self._to.connect(after)

    @property
    def is_last(self) -> bool:
        """Whether no stage comes after this one."""
        return self._to is None

    def receive(self) -> list[Passed]:
        """What the stage before saw of the step; nothing, for the first."""
        return [] if self._from is None else _read(self._from.recv())

    def send(self, passed: list[Passed]) -> None:
        """Hand on what has been seen of the step, here and before."""
        if self._to is not None:
            self._to.send(_bytes(passed))


def _bytes(passed: list[Passed]) -> bytes:
    tensors: dict[str, torch.Tensor] = {}
    plain = []
    for each in passed:
        names = []
        for address, rows in each.rows.items():
            name = str(len(tensors))
            names.append([list(address), name])
            tensors[name] = rows.detach().to("cpu").contiguous()
        pieces = [astuple(piece) for piece in each.pieces]
        plain.append([each.run, each.part, each.moment, pieces, names])
    head = json.dumps(plain).encode()
    return len(head).to_bytes(8, "little") + head + (save(tensors) if tensors else b"")


def _read(data: bytes) -> list[Passed]:
    end = 8 + int.from_bytes(data[:8], "little")
    tensors = load(data[end:]) if len(data) > end else {}
    return [
        Passed(
            run,
            part,
            moment,
            [Piece(*piece) for piece in pieces],
            {Address(*address): tensors[name] for address, name in names},
        )
        for run, part, moment, pieces, names in json.loads(data[8:end])
    ]
