"""Executors: what carries out a run request, here or at the end of a wire.

    local.py      LocalExecutor: PyTorch in this process
    loading.py    a name or folder to a model and tokenizer
    host.py       hooks on a torch module, attached for one run
    sites.py      which hook serves which address, and how to take and put its value
    attention.py  q, k, v and pattern, from inside the attention call
    inside.py     values a module's own code keeps to itself
    source.py     torch functions inside a module's forward, heard while it runs
    source_measure.py  which there are, and what they are called
    families/     standard names of each model family
    measure.py    a model's module tree, by running it once on very small inputs
    certify.py    standard names, checked on the model itself when it loads
    remote.py     RemoteExecutor: the lab's server

No notebooks, no vLLM, nothing about how graphs are recorded.
"""

__all__: list[str] = []
