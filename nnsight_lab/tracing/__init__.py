"""How Python becomes a graph.

    tracer.py         the `with` block: records, runs at its end, fills in the saved names
    envoy.py          `lm.layers[2].attn`: names to addresses
    proxy.py          recorded values, which behave like tensors without data
    operators.py      what Python's operators and conversions mean on a recorded value
    peeks.py          a value that Python needs at once, and edits that would contradict it
    conversions.py    what Python gets: numbers, text, arrays, sizes
    calls.py          how a call is written down, and whether its result is a view
    cells.py          what a recorded value stands for, so that edits reach all its views
    recorder.py       writes nodes, infers shapes, refuses what cannot be
    aliases.py        the user's own names for modules
    caches.py         what many modules gave, at once
    show.py           values printed during the run
    saving.py         `nl.save`, also of what a list comes to hold
    source.py         the user's own line
    names.py          which variable holds which saved value
    module_source.py  operations inside a module's forward
    einops_values.py  lets einops take recorded values for tensors

Torch is known here, but no model class and no executor: shapes come from a `ModuleTree`.
"""

from nnsight_lab.tracing.envoy import Envoy
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.tracer import Tracer

__all__ = ["Envoy", "Proxy", "Recorder", "Tracer"]
