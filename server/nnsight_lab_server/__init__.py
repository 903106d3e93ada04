"""The lab's server: takes graphs from many people, checks them, and runs them on shared models.

    serve      start it: socket, uvicorn, the line to paste       serve.py
    app        the ASGI application and its four routes           app.py
    session    one websocket: messages in, events out             session.py
    outbox     what waits to be sent to one client                outbox.py
    admission  what is checked before a job is queued             admission.py
    routing    which engine of a model runs a job                 routing.py
    jobs       one worker and one fair queue per engine           jobs.py
    tale       what a client is told of one run                   tale.py
    restarts   after an engine has died                           restarts.py
    checking   a model on vLLM beside Hugging Face                checking.py
    catalogue  the models that are served, and their state        catalogue.py
    values     saved values from torch to the wire                values.py
    engines/   what runs a graph                                  engines/base.py
    vllm/      our part in vLLM's processes, and the way there    vllm/__init__.py
    auth       who may come in                                    auth.py
    config     limits and settings, frozen                        config.py

A graph is data: nothing here turns bytes into code, records experiments, or draws pictures.
The protocol itself is `nnsight_lab.wire`.
"""

__all__: list[str] = []
