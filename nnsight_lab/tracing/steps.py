"""The forward passes of a generation while it is recorded: `for step in tracer.iter[:]`.

Python's own loop goes over whole numbers; while its body runs, places are those of that step.
Outside any loop they are those of step 0, the prompt. A trace has that one step only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nnsight_lab.errors import BadInput, GraphError, NotSupported
from nnsight_lab.ir import RESULT, STEP, Address, ModuleSource, ModuleTree, with_sources
from nnsight_lab.passes.generation import no_gradient, refused_edit
from nnsight_lab.passes.schedule import find_moment
from nnsight_lab.tracing.again import Body
from nnsight_lab.tracing.source import at_line, one_frame, user_frame, user_line

__all__ = ["Iteration", "Loop", "Steps"]


class Steps:
    """The forward passes of one recording, and which of them is recorded `now`.

    first: the tree of the prompt's pass. decode: of each further one. passes: how many there may
    be in a generation, 0 for a trace. begins: the number of the first in the whole run.
    """

    def __init__(
        self, first: ModuleTree, decode: ModuleTree | None, passes: int, begins: int = 0
    ) -> None:
        self.now = 0
        self.begins = begins
        self.passes = passes
        self.generates = passes > 0
        self._first = first.generating if self.generates else first
        self._decode = decode.generating if self.generates and decode is not None else self._first
        self._inside = False
        self._stopped = False

    @property
    def tree(self) -> ModuleTree:
        """The tree of the step that is recorded now."""
        return self._decode if self.now else self._first

    def look_into(self, source: ModuleSource) -> None:
        """Know the operations inside a module's forward as well, in the prompt's pass.

        Raises:
            NotSupported: another step is recorded; there the module's code goes another way.
        """
        if self.now:
            raise NotSupported(
                "Operations inside a module are known for the prompt's forward pass, step 0.",
                hint="Read the module's input or output at this step.",
            ).at(user_line())
        self._first = with_sources(self._first, (source,))

    def step_of(self, address: Address) -> int:
        """The step a place belongs to; a generation has one result, whatever step names it."""
        return self.begins + (0 if address == RESULT else self.now)

    def moment(self, address: Address) -> int:
        """When the run reaches a place of this step. Raises `AddressNotFound`."""
        last = max(self.passes - 1, 0)
        step = last if address == RESULT else self.now
        return (self.begins + step) * STEP + find_moment(self.tree, address)

    def check_edit(self, address: Address) -> None:
        """Refuse an edit that a generation cannot take."""
        refused = refused_edit(address) if self.generates else None
        if refused is not None:
            raise refused

    def check_backward(self) -> None:
        """Refuse a backward pass in a generation."""
        if self.generates:
            raise no_gradient()

    def chosen(self, key: Any) -> list[int]:
        """The steps that `tracer.iter[key]` goes over.

        Raises:
            GraphError: this is a trace.
            BadInput: there is no such step, or the key is no index.
        """
        if not self.generates:
            raise GraphError(
                "A trace has one forward pass; there are no steps to go over.",
                hint="with lm.generate(prompt, max_new_tokens=n) as tracer: has n of them.",
            )
        if isinstance(key, slice):
            bad = [part for part in (key.start, key.stop, key.step) if not _is_index(part)]
            if bad or key.step == 0:
                raise _no_index(bad[0] if bad else key)
            self._check_end(key)
            return list(range(*key.indices(self.passes)))
        if isinstance(key, list | tuple | range):
            return [self._one(each) for each in key]
        return [self._one(key)]

    def _check_end(self, key: slice) -> None:
        for end in (key.start, key.stop):
            if end is not None and not -self.passes <= end <= self.passes:
                raise _beyond(end, self.passes)

    def _one(self, key: Any) -> int:
        if key is None or not _is_index(key):
            raise _no_index(key)
        if not -self.passes <= key < self.passes:
            raise _beyond(key, self.passes)
        return int(key) % self.passes

    def over(self, steps: list[int]) -> Iterator[int]:
        """Each step in turn, with places meaning that step; step 0 afterwards, however it ends."""
        if self._inside:
            raise GraphError(
                "A loop over steps is open already.", hint="One loop goes over all steps you need."
            ).at(user_line())
        self._inside = True
        try:
            for step in steps:
                if self._stopped:
                    return
                self.now = step
                yield step
        finally:
            self.leave()

    @contextmanager
    def at(self, step: int) -> Iterator[None]:
        """For a moment, places are those of that step."""
        before, self.now = self.now, step
        try:
            yield
        finally:
            self.now = before

    def stop(self) -> None:
        """A loop over steps ends with the step that is recorded now."""
        self._stopped = True

    def leave(self) -> None:
        """Places are those of step 0 again."""
        self.now, self._inside = 0, False


def _is_index(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _no_index(key: Any) -> BadInput:
    return BadInput(
        f"{key!r} does not say which steps.", hint="tracer.iter[2], [1:3], [:] or [[0, 2]] do."
    )


def _beyond(step: int, passes: int) -> BadInput:
    return BadInput(
        f"Step {step} is beyond the end: max_new_tokens={passes} makes steps 0 to {passes - 1}.",
        hint="Ask for more tokens, or for fewer steps.",
    )


class Loop:
    """Chosen steps, to go over with `for step in …`, or with one `with` block for all of them."""

    def __init__(self, steps: Steps, chosen: list[int]) -> None:
        self._steps = steps
        self._chosen = chosen
        self._going: Iterator[int] | None = None
        self._body: Body | None = None

    @one_frame
    def __enter__(self) -> int:
        frame = user_frame()
        if not self._chosen:
            raise BadInput("A block for no step.", hint="Choose one step at least.")
        if frame is not None and len(self._chosen) > 1:
            self._body = Body(frame)
        self._going = self._steps.over(self._chosen)
        return next(self._going)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        going, body = self._going, self._body
        self._going = self._body = None
        assert going is not None, "the block was entered"
        try:
            if kind is None and body is not None:
                for step in going:
                    body.run(step)
        finally:
            self._steps.leave()

    def __iter__(self) -> Iterator[int]:
        return self._steps.over(self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def __repr__(self) -> str:
        return f"<steps {', '.join(map(str, self._chosen))}>"


class Iteration:
    """`tracer.iter`: an index chooses steps."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    @one_frame
    def __getitem__(self, key: Any) -> Loop:
        return Loop(self._steps, at_line(user_line(), self._steps.chosen, key))

    def __iter__(self) -> Iterator[int]:
        return iter(self[:])
