"""The wire: what a client and a lab's server say to each other, as bytes in and events out.

    limits     how much one side holds for the other     limits.py
    messages   control messages, as frozen data          messages.py
    codec      messages to JSON text and back            codec.py
    frames     graphs, constants, cards and values       frames.py
    uploads    what a client is sending a server         uploads.py, sending.py
    blobs      large constants a server keeps            blobs.py
    trees      model cards to JSON bytes and back        trees.py
    sources    what a forward calls, as plain data       sources.py
    values     a saved value: structure and tensors      values.py
    plain      plain data that may come from anybody     plain.py
    faults     who broke the protocol                    faults.py
    events     what received bytes mean                  events.py
    client     the protocol as a client speaks it        client.py
    server     the protocol as a server speaks it        server.py

No torch, no sockets, no asyncio, no threads, no clock: a connection is an object that is fed what
was received and says what to send. Names cross the wire, never code. Sockets are carried by
`nnsight_lab.executors.remote` and by the server.
"""

from nnsight_lab.wire.blobs import BlobStore
from nnsight_lab.wire.client import ClientConnection, Outgoing
from nnsight_lab.wire.faults import LocalProtocolError, RemoteProtocolError
from nnsight_lab.wire.frames import Frame
from nnsight_lab.wire.limits import WireLimits
from nnsight_lab.wire.messages import PROTOCOL, ModelSummary
from nnsight_lab.wire.server import ServerConnection
from nnsight_lab.wire.trees import decode_card, encode_card
from nnsight_lab.wire.values import Value

__all__ = [
    "PROTOCOL",
    "BlobStore",
    "ClientConnection",
    "Frame",
    "LocalProtocolError",
    "ModelSummary",
    "Outgoing",
    "RemoteProtocolError",
    "ServerConnection",
    "Value",
    "WireLimits",
    "decode_card",
    "encode_card",
]
