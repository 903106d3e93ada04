"""`import nnsight_lab.compat as nnsight`: programs written for nnsight 0.7 and 0.8, as they are.

    import nnsight_lab.compat as nnsight

    model = nnsight.LanguageModel("tiny", dispatch=True)
    with model.trace("The capital of France is"):
        hidden = model.model.layers[1].output.save()

    models.py     NNsight, LanguageModel, TransformersModel: one model, here and on a lab's server
    envoy.py      modules by the model's own paths, with nnsight's verbs on each
    tracers.py    the blocks: trace, generate, session, edit, and their invokes and steps
    edits.py      model.edit()
    shared.py     what a model, its modules and its edited copies have in common
    prompts.py    what trace, generate and invoke are given
    caches.py     tracer.cache(): keys that begin with `model.`
    sources.py    module.source: the calls inside a forward
    saving.py     save, and `.save()` on plain Python values inside a block
    helpers.py    log, apply, cond and other functions of the module
    settings.py   CONFIG
    elsewhere.py  what is not here, and what to write instead

Recording, checking and running are nnsight_lab's own; only the spelling is nnsight's. Where the
two differ is written down in `docs/reference/compat.md`.
"""

from typing import Any

from nnsight_lab.compat.elsewhere import not_here
from nnsight_lab.compat.envoy import Envoy
from nnsight_lab.compat.helpers import apply, cond, log, older_name
from nnsight_lab.compat.models import LanguageModel, NNsight, TransformersModel
from nnsight_lab.compat.saving import save
from nnsight_lab.compat.settings import CONFIG, is_model_running, login, ndif_status, status

__all__ = [
    "CONFIG",
    "Envoy",
    "LanguageModel",
    "NNsight",
    "TransformersModel",
    "apply",
    "cond",
    "is_model_running",
    "log",
    "login",
    "ndif_status",
    "save",
    "status",
]

__version__ = "0.8.1"
"""The nnsight whose spelling this follows."""


def __getattr__(name: Any) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    older = older_name(name)
    if older is not None:
        return older
    raise not_here(name)
