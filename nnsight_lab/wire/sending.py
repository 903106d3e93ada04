"""The large constants of one job as its client sends them: only what was asked for, once.

Frames are handed out one at a time, so that a cancelled job sends no more of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from nnsight_lab.contract import Sending
from nnsight_lab.ir import TensorData
from nnsight_lab.wire.faults import RemoteProtocolError
from nnsight_lab.wire.frames import Frame, FrameKind, frames_of
from nnsight_lab.wire.messages import BlobHead

__all__ = ["BlobSender"]


class BlobSender:
    """The constants a job names, and the frames of those that are still to be sent."""

    def __init__(self, job: int, blobs: Mapping[str, TensorData], chunk_bytes: int) -> None:
        self._job = job
        self._chunk_bytes = chunk_bytes
        self._left = {digest: (place, blobs[digest]) for place, digest in enumerate(blobs)}
        self._frames: deque[Frame] = deque()
        self._sent = 0
        self._total = 0
        self._stopped = False

    @staticmethod
    def heads(blobs: Mapping[str, TensorData]) -> tuple[BlobHead, ...]:
        """How a submission names them."""
        return tuple(BlobHead(digest, data.dtype, data.shape) for digest, data in blobs.items())

    def asked(self, digests: tuple[str, ...]) -> None:
        """The server lacks these.

        Raises:
            RemoteProtocolError: the job has no such constant, or has sent it already.
        """
        for digest in digests:
            found = self._left.pop(digest, None)
            if found is None:
                raise RemoteProtocolError("The server asks for what the job does not have.")
            place, data = found
            if not self._stopped:
                chunk = self._chunk_bytes
                frames = frames_of(FrameKind.BLOB, self._job, data.data, chunk, stream=place)
                self._frames += frames
                self._total += len(data.data)

    def next(self) -> tuple[Frame, Sending] | None:
        """The next frame, and how far the job is with it; None when nothing is to be sent now."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self._sent += len(frame.payload)
        return frame, Sending(self._sent, self._total)

    def stop(self) -> None:
        """The job is to end: send nothing more."""
        self._stopped = True
        self._frames.clear()
