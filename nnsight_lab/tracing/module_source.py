"""`lm.layers[0].mlp.source`: what a module's own forward calls, line by line, to read and edit.

    print(lm.layers[0].attn.source)                   # the listing
    lm.layers[0].mlp.source.mul_0.output[:] = 0       # inside a trace
    lm.layers[0].attn.source.reshape_0.input

An operation is a torch function that the forward calls, or a plain function called by it; the
name counts the calls of each: `mul_1` is the second `mul`. What a submodule gives is its own
`.output`. Where the listing comes from is the business of the executor.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any

from nnsight_lab.errors import AddressNotFound
from nnsight_lab.ir import ModuleSource, Site, SourceCall, source_address
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.source import one_frame, user_line

__all__ = ["Operation", "SourceEnvoy"]

_PORTS = ("input", "inputs", "output")


class SourceEnvoy:
    """The operations inside one module's forward. `print` shows them with their lines.

    path: the module as the user named it. recorder: the open recording, to read and edit in.
    """

    def __init__(
        self, path: str, source: ModuleSource, recorder: Callable[[str], Recorder]
    ) -> None:
        self._path = path
        self._source = source
        self._recorder = recorder

    @one_frame
    def __getattr__(self, name: str) -> Operation:
        if name.startswith(("__", "_repr_", "_ipython_")):
            raise AttributeError(name)
        return self[name]

    @one_frame
    def __getitem__(self, name: str) -> Operation:
        if name not in self._source.operations:
            raise self._unknown(name)
        return Operation(self._path, name, self._source, self._recorder)

    def __iter__(self) -> Iterator[Operation]:
        return iter([self[name] for name in self._source.operations])

    def __len__(self) -> int:
        return len(self._source.operations)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the operations, in the order they are called."""
        return self._source.operations

    def __dir__(self) -> list[str]:
        return ["names", *self._source.operations]

    def __repr__(self) -> str:
        source = self._source
        head = f"{self._path or 'model'}  ({source.kind}, {source.file})"
        width = max(len(call.name) for call in source.calls)
        rows = [_row(call, width) for call in source.calls]
        return "\n".join([head, *rows])

    def _unknown(self, name: str) -> AddressNotFound:
        known = self._source.operations
        below = [call.name for call in self._source.calls if call.submodule]
        here = f"{self._path}.".lstrip(".")
        near = difflib.get_close_matches(name, known, 3, 0.5)
        if name in below:
            hint = f"{name} is a submodule: read {here}{name}.output."
        elif near:
            hint = f"Nearest: {', '.join(near)}."
            if below:
                hint += f" Submodules have operations of their own: {', '.join(below[:8])}."
        else:
            shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
            hint = f"It calls {shown}; print({here}source) shows the lines."
        return AddressNotFound(
            f"The forward of {self._path or 'the model'} has no operation {name!r}.",
            hint=hint,
            where=user_line(),
        )


def _row(call: SourceCall, width: int) -> str:
    inner = f"  # {call.function}, called at line {call.called_at}" if call.called_at else ""
    what = f"{call.name}  →" if call.submodule else call.name
    return f"  {call.line or '':>5}  {what:<{width + 3}}  {call.text}{inner}".rstrip()


class Operation:
    """One call of a torch function inside a forward.

    output: what it gives; what it wrote into, for one that writes in place. input: its first
    tensor. inputs: all it is given, `(args, kwargs)`.
    """

    def __init__(
        self,
        path: str,
        name: str,
        source: ModuleSource,
        recorder: Callable[[str], Recorder],
    ) -> None:
        object.__setattr__(self, "_where", f"{path}.source.{name}".lstrip("."))
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_source", source)
        object.__setattr__(self, "_recorder", recorder)

    @one_frame
    def __getattr__(self, port: str) -> Any:
        if port not in _PORTS:
            if port.startswith(("__", "_repr_", "_ipython_")):
                raise AttributeError(port)
            raise self._unknown(port)
        return self._open(port).places.read(source_address(self._source.path, self._name, port))

    @one_frame
    def __setattr__(self, port: str, value: Any) -> None:
        if port not in _PORTS:
            raise self._unknown(port)
        address = source_address(self._source.path, self._name, port)
        self._open(port).places.write(address, value)

    def _open(self, port: str) -> Recorder:
        recorder: Recorder = self._recorder(f"source.{self._name}.{port}")
        recorder.places.look_into(self._source)
        return recorder

    def _unknown(self, port: str) -> AddressNotFound:
        return AddressNotFound(
            f"{self._where} has no {port!r}.",
            hint=f"It has {', '.join(_PORTS)}.",
            where=user_line(),
        )

    def __dir__(self) -> list[str]:
        return list(_PORTS)

    def __repr__(self) -> str:
        sites: dict[str, Site] = {
            site.address.port: site for site in self._source.sites if not site.address.call
        }
        call = next(call for call in self._source.calls if call.name == self._name)
        lines = [f"{self._where}  ({call.file} line {call.line}: {call.text})"]
        for port in _PORTS:
            address = source_address(self._source.path, self._name, port)
            lines.append(f"  .{port}: {sites[address.port].spec}")
        return "\n".join(lines)
