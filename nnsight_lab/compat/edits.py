"""`with model.edit()`: as `edited`, as `(tracer, edited)`, or in place."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nnsight_lab.compat.saving import plain_values_save
from nnsight_lab.errors import LabError
from nnsight_lab.tracing.source import for_the_user

if TYPE_CHECKING:
    from nnsight_lab.compat.models import NNsight

__all__ = ["EditBlock", "EditTracer"]


class EditTracer:
    """The tracer of an edit block. An edit holds at every step, so its loops run once."""

    def __getitem__(self, key: Any) -> list[int]:
        return [0]

    @property
    def iter(self) -> EditTracer:
        """`for step in tracer.iter[:]`: the edit, once."""
        return self

    def all(self) -> list[int]:
        """As `iter[:]`."""
        return [0]


class EditBlock:
    """One edit block. What it gives is the edited model, which also unpacks, once, as in 0.8."""

    def __init__(self, root: NNsight, *, inplace: bool) -> None:
        self._root = root
        self._inplace = inplace
        self._inner: Any = None
        self._open = ExitStack()

    def __enter__(self) -> Any:
        tracer = EditTracer()
        lab = self._root.lab_model()
        self._inner = lab.edit(inplace=self._inplace)
        model = self._inner.__enter__()
        self._open.enter_context(plain_values_save())
        shared = self._root.shared
        self._open.callback(shared.close, shared.open(model, tracer))
        if self._inplace:
            return self._root
        edited = self._root.with_lab_model(model)
        edited.unpack_once(tracer)
        self._open.callback(edited.unpack_once, None)
        return edited

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        failure: LabError | None = None
        try:
            self._inner.__exit__(kind, exc, trace)
        except LabError as error:
            failure = for_the_user(error)
        if failure is not None:
            raise failure from failure.__cause__
