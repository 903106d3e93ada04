"""The user's own torch modules in a trace: an SAE, a probe, any module whose forward is pure torch.

    lm.layers[2].sae = sae                    # kept here, never on the model
    with lm.trace(prompt):
        features = lm.layers[2].sae.encoder(lm.layers[2].output)

A call runs the module's own forward on recorded values, so it becomes operations of the graph; its
weights travel as constants. Nothing of the module itself does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.utils.parametrize

from nnsight_lab.errors import AddressNotFound, GraphError, LabError, NotSupported
from nnsight_lab.tracing.cells import Cell
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.source import one_frame, user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["Attached", "Attachments"]

_AT_RANDOM_OR_COUNTING = (
    *(torch.nn.Dropout, torch.nn.Dropout1d, torch.nn.Dropout2d, torch.nn.Dropout3d),
    *(torch.nn.AlphaDropout, torch.nn.FeatureAlphaDropout, torch.nn.RReLU),
    *(torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm),
)
"""Modules that in training mode draw at random, or change themselves at each call."""

_KEEP_THEIR_WEIGHTS = (torch.nn.RNNBase, torch.nn.utils.parametrize.ParametrizationList)
"""Modules that hand their weights to torch in a way of their own; they stay tensors there."""


class Attachments:
    """The modules a user has attached to one model, by the path of what they hang on."""

    def __init__(self) -> None:
        self._modules: dict[str, dict[str, torch.nn.Module]] = {}

    def add(self, path: str, name: str, module: torch.nn.Module) -> None:
        """Attach a module; one of that name gives way."""
        self._modules.setdefault(path, {})[name] = module

    def remove(self, path: str, name: str) -> bool:
        """Let go of a module; whether there was one."""
        return self._modules.get(path, {}).pop(name, None) is not None

    def get(self, path: str, name: str) -> torch.nn.Module | None:
        """The module of that name, or None."""
        return self._modules.get(path, {}).get(name)

    def names(self, path: str) -> tuple[str, ...]:
        """What is attached to a path."""
        return tuple(self._modules.get(path, {}))

    def kinds(self, path: str) -> Iterator[tuple[str, str]]:
        """The names, each with its class."""
        for name, module in self._modules.get(path, {}).items():
            yield name, type(module).__name__


class Attached:
    """A module of the user's, or one inside it, as a trace sees it.

    Calling it records its forward. Its weights are recorded values in a trace, so that
    `loss.backward()` gives their gradients too; `.output` is what it gave when it was last called.
    """

    def __init__(
        self, module: torch.nn.Module, name: str, recorder: Callable[[], Recorder | None]
    ) -> None:
        self._module = module
        self._name = name
        self._recorder = recorder

    @property
    def module(self) -> torch.nn.Module:
        """The torch module itself."""
        return self._module

    @one_frame
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder = self._recorder()
        if recorder is None:
            return self._module(*args, **kwargs)
        _check_settled(self._module, self._name)
        weights = self._recorded_weights(recorder)  # at the user's line
        with ExitStack() as stack:
            for part in self._module.modules():
                stack.callback(part.register_forward_hook(recorder.note_output).remove)
            for table, recorded in weights:
                stack.callback(table.update, dict(table))
                table.update(recorded)
            try:
                return self._module(*args, **kwargs)
            except LabError:
                raise
            except Exception as exc:  # a seam: the user's code may raise anything
                raise GraphError(
                    f"{self._name} cannot be recorded: {type(exc).__name__}: {exc}",
                    hint="Its forward must be torch operations on the values it is given.",
                ).at(user_line()) from exc

    def _recorded_weights(self, recorder: Recorder) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The module's own tables of weights, and recorded values to stand in them for a call.

        What its forward makes of a weight (`weight.T`) is then recorded too, and has a gradient
        that goes on to the weight.
        """
        found: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for path, part in self._module.named_modules():
            own = vars(part)
            tables = () if isinstance(part, _KEEP_THEIR_WEIGHTS) else ("_parameters", "_buffers")
            for table in map(own.__getitem__, tables):
                there = {name: tensor for name, tensor in table.items() if tensor is not None}
                names = {name: f"{path}.{name}".strip(".") for name in there}
                recorded = {
                    name: self._weight(recorder, names[name], tensor)
                    for name, tensor in there.items()
                }
                found.append((table, recorded))
        return found

    def _weight(self, recorder: Recorder, name: str, tensor: torch.Tensor) -> Proxy:
        fixed = f"{self._name}.{name} is a weight of your module; a trace does not edit those."
        return Proxy(recorder, Cell(recorder.constant(tensor), fixed=fixed))

    @one_frame
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        recorder = self._recorder()
        if name == "output" and recorder is not None:
            return self._output(recorder)
        try:
            found = getattr(self._module, name)
        except AttributeError as exc:
            raise AddressNotFound(
                f"{self._name} has no {name!r}.",
                hint=f"It is your own module, a {type(self._module).__name__}.",
            ).at(user_line()) from exc
        if isinstance(found, torch.nn.Module):
            return Attached(found, f"{self._name}.{name}", self._recorder)
        if isinstance(found, torch.Tensor) and recorder is not None:
            return self._weight(recorder, name, found)
        return found

    def _output(self, recorder: Recorder) -> Any:
        if self._module not in recorder.outputs:
            raise GraphError(
                f"{self._name} has not been called in this trace.",
                hint=f"Call it, or what it is part of, on a value first: {self._name}(h).",
            ).at(user_line())
        return recorder.outputs[self._module]

    def __getitem__(self, index: int) -> Any:
        return self.__getattr__(str(index))

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._module.__dir__()]

    def __repr__(self) -> str:
        return f"{self._name}, yours: {self._module!r}"


def _check_settled(module: torch.nn.Module, name: str) -> None:
    """Whether a module gives the same each time, and stays as it is."""
    for path, part in module.named_modules():
        if part.training and isinstance(part, _AT_RANDOM_OR_COUNTING):
            where = f"{name}.{path}".strip(".")
            raise NotSupported(
                f"{where}, a {type(part).__name__}, is in training mode.",
                hint=f"Call {name.rpartition('.')[2]}.eval() first.",
            ).at(user_line())
