"""`module.source`: what a module's forward calls, by nnsight's names where they can be told.

`self_act_0` is the first call of the submodule `act`, which has an `.output` of its own. Other
names are those of the package's own `module.source`: the torch function, and a count.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from nnsight_lab.tracing.source import one_frame

if TYPE_CHECKING:
    from nnsight_lab.compat.envoy import Envoy

__all__ = ["Source"]

_SUBMODULE = re.compile(r"self_(?P<name>\w+)_0")
_FUNCTION = re.compile(r"(torch|nn_functional|F|torch_nn_functional)_(?P<name>\w+_\d+)")


class Source:
    """The calls inside one module's forward; `print` lists them."""

    def __init__(self, envoy: Envoy) -> None:
        self._envoy = envoy

    @one_frame
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        submodule = _SUBMODULE.fullmatch(name)
        if submodule is not None and self._envoy.has_module(submodule["name"]):
            return getattr(self._envoy, submodule["name"])
        function = _FUNCTION.fullmatch(name)
        return getattr(self._envoy.lab_source(), name if function is None else function["name"])

    def __repr__(self) -> str:
        return repr(self._envoy.lab_source())
