"""An experiment as plain PyTorch with hooks: a Python program that runs without this package.

    program.py        the whole program, put together
    moments.py        what each hook does, and what no hook can
    places.py         an address as a hook: which module, how its value is taken and put back
    statements.py     a node as lines of Python
    control.py        conditions and loops as `if`, `for` and `while`
    expressions.py    arguments and operations as Python expressions
    constants.py      tensors of the graph as literals, or as base64 where they are long
    names.py          what each value is called
    printed.py        what a program must know of the model
    snippets.py       the few functions a program may need beside torch's

Text only: nothing here runs a model.
"""

from nnsight_lab.executors.eject.printed import printed_model
from nnsight_lab.executors.eject.program import PrintedModel, to_python

__all__ = ["PrintedModel", "printed_model", "to_python"]
