"""Executors: what carries out a run request, here or at the end of a wire.

    local.py           LocalExecutor: PyTorch in this process
    loading.py         a name or folder to a model and tokenizer
    given.py           which inputs are alike, and which a model refuses
    batch.py           prompts of unequal length as one padded batch

    host.py            hooks on a torch module, attached for one run
    listen.py          what a forward pass hands to a run, and takes back from it
    skipping.py        modules that do not run
    attention.py       q, k, v and pattern, from inside the attention call
    inside.py          values a module's own code keeps to itself
    source.py          torch functions inside a module's forward, heard while it runs
    generate.py        the forward passes of a generation
    sampling.py        the next token of each row

    sites.py           which hook serves which address, and how to take and put its value
    measure.py         a model's module tree, by running it once on very small inputs
    decoding.py        the same of a pass that adds one position to a cache
    source_measure.py  which operations are inside a forward, and what they are called
    turns.py           one run at a time, and none that was cancelled while it waited
    untouched.py       what a module keeps in its attributes, put back after a look
    families/          standard names of each model family
    certify.py         standard names, checked on the model itself when it loads

    eject/             an experiment as a program of plain PyTorch
    remote.py          RemoteExecutor: the lab's server
    remote_client.py   one connection to a lab, shared by its models
    remote_link.py     the socket of it
    remote_values.py   saved values from the wire to torch

No notebooks, no vLLM, nothing about how graphs are recorded.
"""

__all__: list[str] = []
