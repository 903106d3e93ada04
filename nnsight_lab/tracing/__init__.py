"""How Python becomes a graph.

    tracer.py         the `with` block: records, runs at its end, fills in the saved names
    openings.py       which recordings are open; invokes.py, when a prompt may be given
    awaited.py        blocks whose run goes on behind, and `async with`
    session.py        several traces in one recording
    steps.py          the forward passes of a generation; again.py, a block once more for each
    names.py          which variable holds which saved value
    saving.py         `nl.save`, also of what a list comes to hold
    sliders.py        `nl.slider`: numbers that may be moved without recording again
    show.py           values printed during the run
    caches.py         what many modules gave, at once

    envoy.py          `lm.layers[2].attn`: names to addresses
    aliases.py        the user's own names for modules
    repeats.py        modules that run more than once
    module_source.py  operations inside a module's forward
    attached.py       the user's own modules; local_calls.py, the user's own functions

    proxy.py          recorded values, which behave like tensors without data
    operators.py      what Python's operators and conversions mean on a recorded value
    fields.py         outputs with named parts
    peeks.py          a value that Python needs at once, and edits that would contradict it
    conversions.py    what Python gets: numbers, text, arrays, sizes
    einops_values.py  lets einops take recorded values for tensors
    numpy_values.py   numpy's functions on recorded values
    modes.py          `torch.no_grad()` and `torch.autocast` inside a block

    recorder.py       writes nodes, infers shapes, refuses what cannot be
    record.py         one operation; calls.py, how it is written down, and whether it is a view
    cells.py          what a recorded value stands for, so that edits reach all its views
    places.py         the model's places, and whose rows; whole_writes.py, tuples written whole
    skips.py          modules that do not run
    backward.py       backward passes and gradients
    parts.py          what a recorder owns, without keeping the recorder alive

    control.py        `nl.cond`, `nl.foreach`, `nl.while_`
    regions.py        nodes that are moved into a block
    branches.py       two branches become a choice
    loops.py          a body becomes a loop
    nests.py          what branches give, side by side

    source.py         the user's own line

Torch is known here, but no model class and no executor: shapes come from a `ModuleTree`.
"""

from nnsight_lab.tracing.envoy import Envoy
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.tracer import Tracer

__all__ = ["Envoy", "Proxy", "Recorder", "Tracer"]
