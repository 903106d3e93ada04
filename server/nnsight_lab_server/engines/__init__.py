"""Engines: what runs a graph in the server.

    base.py                 the Engine protocol
    transformers_engine.py  PyTorch and transformers, CPU or GPU

An engine knows one model and nothing of clients, queues or sockets.
"""

__all__: list[str] = []
