"""Engines: what runs a graph in the server.

    base.py                 the Engine protocol, and what some engines can beside
    offered.py              the engines that can be asked for
    transformers_engine.py  PyTorch and transformers, CPU or GPU
    vllm_engine.py          vLLM, many runs at once
    vllm_run.py             one of them, seen from the server

An engine knows one model and nothing of clients, queues or sockets.
"""

__all__: list[str] = []
