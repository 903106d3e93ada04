"""How a graph meets a forward pass.

    host.py         what the interleaver needs from whoever runs the model
    interleaver.py  evaluates a scheduled graph, moment by moment
    blocks.py       computes one node, and the branches and loops within one
    local_calls.py  calls the user's own functions
    gradients.py    which gradients a run takes, and at which values
    sweep.py        one backward pass, in which gradients are edited
    missing.py      values of steps that did not happen
    values.py       the table of one run's values
    last_holder.py  a value that nobody else has any more, which needs no copy

Written once for every engine: local PyTorch is one host, a hooked worker is another. Nothing here
knows a model class, a recorder, a socket, or a notebook.
"""

from nnsight_lab.runtime.host import Host
from nnsight_lab.runtime.interleaver import Interleaver
from nnsight_lab.runtime.values import Values

__all__ = ["Host", "Interleaver", "Values"]
