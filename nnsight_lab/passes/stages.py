"""`Stages`: the forward passes of one run, numbered through, and what each can be asked.

A run has parts: a trace is one pass, a generation a pass of the prompt and one for each further
token. Steps count the passes of all parts. Moments of step `i` lie from `i * STEP` on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from nnsight_lab.contract import ModuleInputs, TokenRows
from nnsight_lab.errors import BadInput
from nnsight_lab.ir import RESULT, STEP, Address, Graph, ModuleTree
from nnsight_lab.passes.invokes import Span, spans_of

__all__ = ["Part", "Stage", "Stages", "after"]


def after(step: int) -> int:
    """The moment at which forward pass `step` is over: of gradients, and what needs them."""
    return (step + 1) * STEP - 1


@dataclass(frozen=True)
class Part:
    """One trace or one generation.

    tree: of the prompt's forward pass. decode: of each pass after it.
    """

    inputs: TokenRows | ModuleInputs
    tree: ModuleTree
    decode: ModuleTree | None = None

    @property
    def passes(self) -> int:
        """How many forward passes it may take."""
        return self.inputs.passes if isinstance(self.inputs, TokenRows) else 1

    @property
    def generates(self) -> bool:
        """Whether it goes on from its prompt."""
        return isinstance(self.inputs, TokenRows) and self.inputs.generation is not None

    def tree_at(self, step: int) -> ModuleTree:
        """The tree of its `step`-th pass."""
        if not self.generates:
            return self.tree
        tree = self.tree if step == 0 or self.decode is None else self.decode
        return tree.generating


@dataclass(frozen=True)
class Stage:
    """One forward pass of a run. tree, batch, pos: its sites, and the size they have there.

    part: which part it belongs to. first, last: that part's steps.
    """

    part: int
    first: int
    last: int
    tree: ModuleTree
    batch: int
    pos: int


@dataclass(frozen=True)
class Stages:
    """The forward passes of a run."""

    parts: tuple[Part, ...]
    _rows: dict[tuple[int, ...], _Rows] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @staticmethod
    def of(tree: ModuleTree | Stages) -> Stages:
        """One forward pass without a prompt; stages as they are."""
        return tree if isinstance(tree, Stages) else Stages((Part(ModuleInputs(), tree),))

    @cached_property
    def _stages(self) -> tuple[Stage, ...]:
        found: list[Stage] = []
        for place, part in enumerate(self.parts):
            first, last = len(found), len(found) + part.passes - 1
            inputs = part.inputs
            batch, pos = (inputs.batch, inputs.pos) if isinstance(inputs, TokenRows) else (1, 1)
            found += [
                Stage(place, first, last, part.tree_at(step), batch, pos + step)
                for step in range(part.passes)
            ]
        return tuple(found)

    def __len__(self) -> int:
        return len(self._stages)

    def at(self, step: int) -> Stage:
        """One forward pass. Raises `BadInput` when the run has no such step."""
        if not 0 <= step < len(self._stages):
            raise BadInput(
                f"Step {step} of a run that has {len(self._stages)}.",
                hint="Steps count from 0; max_new_tokens says how many a text has. A session needs a"
                " list of prompts, one for each of its traces.",
            )
        return self._stages[step]

    def step_of(self, address: Address, step: int) -> int:
        """The step at which an address of `step` is reached: a result, after the last one."""
        stage = self.at(step)
        return stage.last if address == RESULT else step

    def spans(self, graph: Graph, step: int) -> Mapping[int, Span]:
        """The span of each invoke that has rows in one forward pass.

        It is asked for every node of an invoke, and found once for each step.

        Raises:
            BadInput: the inputs have not the rows the graph was recorded for.
        """
        return self._rows_of(graph).at(step, self.at(step))

    def check_parts(self, graph: Graph) -> None:
        """Whether the graph of a session was recorded with as many traces.

        Raises:
            BadInput: some of these would have no part in it.
        """
        idle = [own for own in self._rows_of(graph).of_parts if not own] if graph.invokes else []
        if idle and len(self.parts) > 1:
            raise BadInput(
                f"{len(self.parts)} prompts were given to a graph that has"
                f" {len(self.parts) - len(idle)} traces for them.",
                hint="Give a session's graph a list of prompts, one for each of its traces.",
            )

    def _rows_of(self, graph: Graph) -> _Rows:
        rows = self._rows.get(graph.invokes)
        if rows is None:
            rows = self._rows[graph.invokes] = _Rows(self.parts, graph.invokes)
        return rows


class _Rows:
    """Which of a graph's invokes have rows in which forward pass."""

    def __init__(self, parts: tuple[Part, ...], invokes: tuple[int, ...]) -> None:
        self._invokes = invokes
        self._parts = parts
        self._spans: dict[int, dict[int, Span]] = {}

    def at(self, step: int, stage: Stage) -> Mapping[int, Span]:
        if step not in self._spans:
            own = self.of_parts[stage.part]
            rows = self._invokes[own.start : own.stop]
            spans = spans_of(rows, self._parts[stage.part].inputs)
            more = step - stage.first
            self._spans[step] = {
                invoke: Span(span.start, span.rows, span.pos + more)
                for invoke, span in zip(own, spans, strict=True)
            }
        return self._spans[step]

    @cached_property
    def of_parts(self) -> tuple[range, ...]:
        """The invokes of each part. Where there are several parts, each lists all its rows."""
        if len(self._parts) == 1:
            return (range(len(self._invokes)),)
        found: list[range] = []
        end = 0
        for part in self._parts:
            start, left = end, _rows_of(part.inputs)
            while end < len(self._invokes) and left > 0:
                left -= self._invokes[end]
                end += 1
            found.append(range(start, end))
        return tuple(found)


def _rows_of(inputs: TokenRows | ModuleInputs) -> int:
    return inputs.batch if isinstance(inputs, TokenRows) else 1
