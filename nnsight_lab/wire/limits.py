"""How much one side of the wire will read or hold for the other. Checked before it is allocated.

Both sides carry one `WireLimits`; a server may be stricter than a client, and says so in its
`welcome`. What a *model* may be asked (prompt length, batch) is no business of the wire: see
`nnsight_lab_server.admission`.
"""

from __future__ import annotations

from dataclasses import dataclass

from nnsight_lab.settings import Settings

__all__ = ["WireLimits"]

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class WireLimits:
    """The bounds of one connection.

    chunk_bytes: payload of the binary frames we send.
    frame_bytes: largest payload of a binary frame we accept.
    text_bytes: largest control message.
    graph_bytes: largest graph, and half of what a connection may have under way.
    blob_bytes: large constants of one graph together, and half of those of unfinished jobs.
    card_bytes: largest model card, tokenizer included.
    result_bytes: saved tensors of one job, all together.
    jobs: unfinished jobs of one connection.
    tensors: tensors in one saved value.
    mistakes: broken messages after which the connection is closed.
    """

    chunk_bytes: int = 1 * _MIB
    frame_bytes: int = 4 * _MIB
    text_bytes: int = 8 * _MIB
    graph_bytes: int = 256 * _MIB
    blob_bytes: int = 2048 * _MIB
    card_bytes: int = 256 * _MIB
    result_bytes: int = 2048 * _MIB
    jobs: int = 64
    tensors: int = 10_000
    mistakes: int = 100

    @property
    def socket_bytes(self) -> int:
        """The largest websocket message to read at all.

        Twice what is accepted: a message somewhat too large is answered with a typed error, and
        only one far too large costs its sender the connection.
        """
        return 2 * max(self.text_bytes, self.frame_bytes)

    @staticmethod
    def from_settings(settings: Settings) -> WireLimits:
        """The limits that follow from the settings."""
        base = WireLimits()
        return WireLimits(
            chunk_bytes=min(settings.chunk_bytes, base.frame_bytes),
            graph_bytes=settings.message_bytes,
            blob_bytes=8 * settings.message_bytes,
            card_bytes=settings.message_bytes,
            result_bytes=8 * settings.message_bytes,
        )
