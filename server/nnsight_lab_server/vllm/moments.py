"""`Moments`: the moments of one part of a run, laid along vLLM's steps.

    moments.arrive(point, held, pieces)    rows of the part are at a point of the model

The graph's moments are reached in their order, each when all its rows are there. An edit can only be
put into rows that come by once its moment is reached. A row that came by before goes on unedited:
it is *stale*. What it says later is not listened to, and when the edit is known the row is run
again. Edits are kept by position, so what comes again (also after vLLM set a request aside) gets
what it got before.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch

from nnsight_lab.contract import TokenRows
from nnsight_lab.executors.listen import Listener
from nnsight_lab.ir import RESULT_MOMENT, STEP, TOKENS, Address, Skip
from nnsight_lab.passes import last_positions
from nnsight_lab.passes.schedule import Moment, Schedule
from nnsight_lab.passes.skips import skip_moments
from nnsight_lab.passes.stages import Stages
from nnsight_lab.runtime import Interleaver
from nnsight_lab.runtime.interleaver import Place
from nnsight_lab_server.vllm.ahead import Ahead
from nnsight_lab_server.vllm.axes import as_rows, held_there
from nnsight_lab_server.vllm.forms import Form, Point, unpacked
from nnsight_lab_server.vllm.rows import Piece
from nnsight_lab_server.vllm.sheets import Layout, Sheet

__all__ = ["Moments", "PassOn", "Reader"]

_Values = dict[Address, torch.Tensor]

PassOn = Callable[[int, list[Piece], _Values], None]
"""Told of a moment, the pieces that came by, and what each address held of them."""


class Reader(Protocol):
    """Takes rows of an address out of what is held at its point, and puts others in."""

    def take(self, form: Form, held: Any, pieces: list[Piece]) -> torch.Tensor:
        """The value of the pieces' rows, one piece after another."""
        ...

    def put(self, form: Form, held: Any, pieces: list[Piece], new: torch.Tensor) -> Any:
        """What is held instead, with the pieces' rows replaced."""
        ...


class Moments:
    """Which moments of a part are reached, and what of the others has come by.

    begins: the part's first step in the run. plan: what this worker evaluates.
    everywhere: what all stages of a pipeline evaluate together; None where there is one. here: which
    of them this worker is. pass_on: is told of rows that a later stage needs as well.
    """

    def __init__(
        self,
        inputs: TokenRows,
        begins: int,
        plan: Schedule,
        stages: Stages,
        run: Interleaver,
        listener: Listener,
        forms: Mapping[Address, Form],
        reader: Reader,
        *,
        everywhere: Schedule | None = None,
        here: int = 0,
        pass_on: PassOn | None = None,
    ) -> None:
        self._everywhere = everywhere or plan
        self._here = here
        self._pass_on = pass_on
        self.inputs = inputs
        self.begins = begins
        self.lengths = tuple(map(len, inputs.rows))
        self.spans = stages.spans(plan.graph, begins)
        self.plan = plan
        self.stages = stages
        self.run = run
        self.listener = listener
        self.stale: dict[int, int] = {}
        self.reached: set[int] = set()
        self._forms = forms
        self._reader = reader
        self._everybody = frozenset(range(len(self.lengths)))
        self._pads = tuple(inputs.pos - length for length in self.lengths)
        tree = stages.at(begins).tree
        self._last = last_positions(plan.graph, tree) if len(stages) == 1 else None
        self._ahead = Ahead(plan, stages, run)
        self._sheets: dict[int, Sheet] = {}
        self._settled: dict[int, _Values] = {}
        self._instead: dict[int, _Values] = {}
        self._order = deque(self._of_part(plan))
        self._at: dict[Point, dict[int, list[int]]] = {}
        self._lay_out()

    def _of_part(self, plan: Schedule) -> list[int]:
        """The moments of this part, in order, but for what comes when a pass is over."""
        begin, end = self.begins * STEP, (self.stages.at(self.begins).last + 1) * STEP
        own = (moment for moment in sorted(plan.moments) if begin <= moment < end)
        return [moment for moment in own if moment % STEP < RESULT_MOMENT]

    def _lay_out(self) -> None:
        """Note which moments come at which point of this worker's model, by forward pass."""
        found: defaultdict[Point, defaultdict[int, set[int]]] = defaultdict(
            lambda: defaultdict(set)
        )
        for moment in self._of_part(self._everywhere):
            tree = self.stages.at(moment // STEP).tree
            here = self._everywhere.moments[moment]
            comes = [(place.address, moment) for place in _places_of(here)]
            for skip in here.skips:
                _, output = skip_moments(tree, skip.address)
                comes.append((skip.address, moment // STEP * STEP + output))
                comes.append((_input_of(skip), moment))
            for address, when in comes:
                form = self._forms.get(address)
                if form is not None and form.stage == self._here:
                    found[form.point][moment // STEP - self.begins].add(when)
        for point, steps in found.items():
            self._at[point] = {step: sorted(moments) for step, moments in steps.items()}

    @property
    def points(self) -> tuple[Point, ...]:
        """The points of the model at which something is read, written or skipped."""
        return tuple(self._at)

    @property
    def patterns(self) -> tuple[Point, ...]:
        """Those of them where attention patterns are asked for."""
        moments = [self._everywhere.moments[one] for one in self._of_part(self._everywhere)]
        named = {place.address for one in moments for place in _places_of(one)}
        forms = [self._forms[address] for address in named if address in self._forms]
        own = [form for form in forms if form.stage == self._here and form.kind == "pattern"]
        return tuple({form.point: None for form in own})

    @property
    def all_reached(self) -> bool:
        """Whether nothing further is asked of the model."""
        return not self._order

    def _places(self, moment: int) -> tuple[Place, ...]:
        here = self.plan.moments.get(moment)
        return _places_of(here) if here is not None else ()

    def _layout(self, moment: int, form: Form | None = None) -> Layout:
        if moment // STEP != self.begins or form is None:
            return Layout((0,) * len(self._pads), 1)
        width = self.inputs.pos
        if form.kind == "logits" and self._last is not None:
            left = max(0, width - self._last)
            return Layout(tuple(max(0, pad - left) for pad in self._pads), width - left)
        return Layout(self._pads, width)

    def _rows_of(self, moment: int, *, edited: bool = False) -> frozenset[int]:
        """The rows without which a moment is not whole, or those it edits."""
        here = self.plan.moments[moment]
        places: tuple[Place, ...] = here.writes if edited else self._places(moment)
        ended = self.ended(moment)
        if here.skips or any(place.invoke is None for place in places):
            return self._everybody
        rows: set[int] = set()
        for place in places:
            if place.invoke is not None and place.invoke not in ended:
                span = self.spans[place.invoke]
                rows.update(range(span.start, span.start + span.rows))
        return frozenset(rows)

    def ended(self, moment: int) -> frozenset[int]:
        """The invokes that have no part in the forward pass of a moment."""
        return frozenset()

    # ------------------------------------------------------------------ at a point of the model

    def arrive(self, point: Point, held: Any, pieces: Mapping[int, list[Piece]]) -> Any:
        """Rows of this part are at a point; returns what shall be held there."""
        steps = self._at.get(point, {})
        for step, own in pieces.items():
            for moment in steps.get(step, ()):
                held = self._come_by(moment, point, held, own)
        return held

    def _come_by(self, moment: int, point: Point, held: Any, pieces: list[Piece]) -> Any:
        for address, whole in self._instead.get(moment, {}).items():
            held = self._put_rows(address, held, pieces, whole)
        if self._pass_on is not None and moment in self._everywhere.moments:
            self._pass_on(moment, pieces, self._rows(self._everywhere, moment, held, pieces))
        if moment not in self.plan.moments:
            return held
        if moment not in self.reached:
            self._note(moment, point, held, self._fresh(moment, pieces))
            self.advance()
        here = self.plan.moments[moment]
        if not here.writes and not here.skips:
            return held
        edited = self._rows_of(moment, edited=True)
        pieces = [piece for piece in pieces if piece.row in edited]
        if moment in self.reached:
            for address, whole in self._settled.get(moment, {}).items():
                held = self._put_rows(address, held, pieces, whole)
            return held
        edits = self._edits_ahead(moment)
        for address, whole in edits.items():
            held = self._put_rows(address, held, pieces, whole)
        if not edits:
            for piece in pieces:
                self.stale.setdefault(piece.row, moment)
        return held

    def _edits_ahead(self, moment: int) -> _Values:
        """What a moment edits, as far as rows are there; nothing, when its edits must wait."""
        sheet = self._sheets.get(moment)
        writes = self.plan.moments[moment].writes
        # Edited logits are put in where vLLM samples, and that looks for the whole moment.
        if sheet is None or not writes or self._is_logits(writes[0].address):
            return {}
        step = moment // STEP
        specs = {at: self.stages.at(step).tree.by_address[at].spec for at in sheet.values}
        held = {at: held_there(value, specs[at]) for at, value in sheet.values.items()}
        edits = self._ahead.edited(moment, step, held, self.ended(moment)) or {}
        return {
            at: as_rows(unpacked(new, specs[at]), sheet.values[at], specs[at])
            for at, new in edits.items()
        }

    def _is_logits(self, address: Address) -> bool:
        form = self._forms.get(address)
        return form is not None and form.kind == "logits"

    def _note(self, moment: int, point: Point, held: Any, pieces: list[Piece]) -> None:
        """Write down what a moment reads of these rows, or only that they came by."""
        if not pieces:
            return
        forms = {place.address: self._forms[place.address] for place in self._places(moment)}
        shown = next(iter(forms.values()), Form(Address("", "input"), point))
        layout = self._layout(moment, shown)
        pieces = _clipped(
            pieces, self._layout(moment, Form(shown.address, point)).width - layout.width
        )
        sheet = self._sheets.setdefault(moment, Sheet(layout))
        if pieces:
            rows = {at: self._reader.take(form, held, pieces) for at, form in forms.items()}
            sheet.add(pieces, rows)

    def _fresh(self, moment: int, pieces: list[Piece]) -> list[Piece]:
        """The pieces that have not gone on without an edit before."""
        return [piece for piece in pieces if moment <= self.stale.get(piece.row, moment)]

    def _rows(self, plan: Schedule, moment: int, held: Any, pieces: list[Piece]) -> _Values:
        """What a plan reads of these rows at a moment."""
        places = _places_of(plan.moments[moment])
        forms = [self._forms[place.address] for place in places]
        return {form.address: self._reader.take(form, held, pieces) for form in forms}

    def hear(self, moment: int, pieces: list[Piece], rows: Mapping[Address, torch.Tensor]) -> None:
        """Rows have come by a moment in a stage before this one."""
        if moment not in self.plan.moments or moment in self.reached:
            return
        fresh = self._fresh(moment, pieces)
        if fresh:
            wanted = {place.address for place in self._places(moment)}
            cut = {at: _of_pieces(rows[at], pieces, fresh) for at in wanted}
            form = self._forms.get(next(iter(wanted), Address("", "")))
            shown = form or Form(Address("", ""), Point("before", ""))
            self._sheets.setdefault(moment, Sheet(self._layout(moment, shown))).add(fresh, cut)
            self.advance()
        if moment not in self.reached and not self._edits_ahead(moment):
            edited = self._rows_of(moment, edited=True)
            for piece in pieces:
                if piece.row in edited:
                    self.stale.setdefault(piece.row, moment)

    def note_tokens(self, moment: int, row: int, chosen: torch.Tensor) -> None:
        """A row's token was sampled; the moment of them all may be whole with it."""
        sheet = self._sheets.setdefault(moment, Sheet(self._layout(moment)))
        sheet.add([Piece(row, 0, 1, 0)], {TOKENS: chosen})
        self.advance()

    def _put_rows(
        self, address: Address, held: Any, pieces: list[Piece], whole: torch.Tensor
    ) -> Any:
        if not pieces:
            return held
        cut = [whole[piece.row, piece.column : piece.column + piece.count] for piece in pieces]
        new = cut[0] if len(cut) == 1 else torch.cat(cut)
        return self._reader.put(self._forms[address], held, pieces, new)

    # ------------------------------------------------------------------ reaching a moment

    def advance(self) -> None:
        """Reach every moment that is whole, in order."""
        while self._order:
            moment = self._order[0]
            needed = self._rows_of(moment)
            sheet = self._sheets.get(moment, Sheet(Layout((), 1)))
            if not sheet.has(needed):
                return
            self._order.popleft()
            self._reach(moment, sheet)
            self._sheets.pop(moment, None)

    def _reach(self, moment: int, sheet: Sheet) -> None:
        here, tree = self.plan.moments[moment], self.stages.at(moment // STEP).tree
        specs = {address: tree.by_address[address].spec for address in sheet.values}
        before = {at: held_there(value, specs[at]) for at, value in sheet.values.items()}
        after = self.listener.hand_over(
            moment,
            before,
            tree,
            self.ended(moment),
            lambda place, values: values[place.address],
            lambda place, values, new: {**values, place.address: self.checked(place, new)},
            own=True,
        )
        self.reached.add(moment)
        for write in here.writes:
            at = write.address
            if at in sheet.values:
                new = unpacked(after[at], specs[at])
                self._settled.setdefault(moment, {})[at] = as_rows(new, sheet.values[at], specs[at])
        for skip in here.skips:
            self._settle_skip(moment, skip)
        self.has_reached(moment, after)

    def _settle_skip(self, moment: int, skip: Skip) -> None:
        step = moment // STEP
        tree = self.stages.at(step).tree
        _, output = skip_moments(tree, skip.address)
        value = unpacked(self.run.instead(skip), tree.by_address[skip.address].spec)
        form = self._forms[skip.address]
        whole = value.reshape(len(self._pads), -1, *form.shape)
        self._instead.setdefault(step * STEP + output, {})[skip.address] = whole

    def checked(self, place: Place, new: torch.Tensor) -> torch.Tensor:
        """What is written at a place, if it may be."""
        return new

    def has_reached(self, moment: int, values: Mapping[Address, torch.Tensor]) -> None:
        """A moment has been reached, and this is what is there now."""

    def written_at(self, moment: int, address: Address) -> torch.Tensor | None:
        """What a moment has put at an address, `[batch, width, …]`; None when it did not."""
        return self._settled.get(moment, {}).get(address)

    def settled(self, row: int) -> bool:
        """Whether what a stale row went past without is known now, so that it can come again."""
        moment = self.stale.get(row)
        return moment is not None and moment in self.reached


def _of_pieces(rows: torch.Tensor, pieces: list[Piece], wanted: list[Piece]) -> torch.Tensor:
    """The rows of some of the pieces."""
    if len(wanted) == len(pieces):
        return rows
    cut = rows.split([piece.count for piece in pieces])
    return torch.cat([own for own, piece in zip(cut, pieces, strict=True) if piece in wanted])


def _places_of(here: Moment) -> tuple[Place, ...]:
    return (*here.reads, *here.writes)


def _input_of(skip: Skip) -> Address:
    return Address(skip.address.path, "input", skip.address.call)


def _clipped(pieces: list[Piece], left: int) -> list[Piece]:
    """The pieces without the first `left` columns."""
    if not left:
        return pieces
    found = []
    for piece in pieces:
        out = min(max(0, left - piece.column), piece.count)
        if out < piece.count:
            cut = replace(piece, start=piece.start + out, count=piece.count - out)
            found.append(replace(cut, column=piece.column + out - left))
    return found
