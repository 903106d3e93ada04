"""Patching: what a place of another prompt does in this one; one place, or a map of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.jupyter.explorer import patching_code
from nnsight_lab.jupyter.explorer.alignment import aligned
from nnsight_lab.jupyter.explorer.subject import Subject
from nnsight_lab.jupyter.explorer.view import Sheet, Tell, View, Wanted, floats
from nnsight_lab.models.run import Run
from nnsight_lab.recipes import Patching, patching_rows
from nnsight_lab.recipes.metric import Metric
from nnsight_lab.recipes.prompt import token_id, word

if TYPE_CHECKING:
    from nnsight_lab.jupyter.figures import LabFigure

__all__ = ["Asked", "PatchingView"]

_PARTS = ("resid", "attn", "mlp")
_METRICS = ("difference", "probability")


@dataclass(frozen=True)
class Asked:
    """What is wanted, checked.

    source: its tokens; empty where no source was given. part: of a block. pairs: positions that
    belong together. places: (layer, position) to take from and to write to; layer -1 is `embed`.
    mapped: whether a map is wanted. answer, other: of its metric, as they were typed.
    """

    text: str
    source: list[int]
    pairs: list[tuple[int, int]]
    part: str = "resid"
    places: tuple[tuple[int, int], tuple[int, int]] | None = None
    mapped: bool = False
    metric: str = "difference"
    answer: str | int = ""
    other: str | int = ""
    top: int = 3

    @property
    def backwards(self) -> bool:
        """Whether the source is taken after the place it is written to: two forward passes."""
        return self.places is not None and self.places[0][0] > self.places[1][0]


class PatchingView(View):
    """The explorer's prompt is the target; a place of a source prompt is written into it."""

    name = "patching"
    title = "Patching"

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._grids: tuple[Any, dict[str, np.ndarray[Any, Any]]] | None = None
        self._map: tuple[Any, Patching] | None = None

    @property
    def missing(self) -> str:
        """A run's own edits cannot be had in one of two prompts only."""
        if self.subject.edited:
            return "Patching starts from a prompt without edits: nl.explore(lm, prompt)."
        return ""

    def ask(self, wanted: Wanted, tell: Tell) -> None:
        """Both lens grids; with `from` and `to` the patched one, with `map` a metric by place."""
        asked = self._asked(wanted)
        if asked.mapped:
            self._tell_map(asked, tell)
        else:
            tell(self._sheet(asked, self._run(asked)))

    # Jobs of this view may overlap: each hands on what it found itself, and keeps it for the next.

    # One place

    def _run(self, asked: Asked) -> dict[str, np.ndarray[Any, Any]]:
        """Lens grids as arrays: `source_…`, `target_…`, `patched_…`, and `change`."""
        run = self._record(asked)
        parts = {"source": 0, "target": 0, "patched": 1}
        found = {}
        for name, place in parts.items():
            values, ids = (
                ("source_probabilities", "source_ids")
                if name == "source"
                else ("probabilities", "ids")
            )
            if values in run and place < len(run[values]):
                found[f"{name}_chances"] = floats(run[values][place])
                found[f"{name}_ids"] = run[ids][place].int().cpu().numpy()
        if "change" in run:
            found["change"] = floats(run["change"])
        self._grids = _base_key(asked), _base(found)
        return found

    def _record(self, asked: Asked) -> Run:
        """One request. As `patching_code` writes it, so that both give the same bits."""
        model, target = self.subject.model, [self.subject.ids]
        if asked.backwards:
            with model.session() as session:
                with model.trace([asked.source]) as tracer:
                    saved, moved = self._source(asked)
                    tracer.save(**saved)
                with model.trace() as tracer:
                    tracer.save(**self._targets(asked, tracer, target, moved))
            return session.run
        with model.trace() as tracer:
            saved, moved = {}, None
            if asked.source:
                with tracer.invoke([asked.source]):
                    saved, moved = self._source(asked)
            saved |= self._targets(asked, tracer, target, moved)
            tracer.save(**saved)
        return tracer.run

    def _source(self, asked: Asked) -> tuple[dict[str, Any], Any]:
        moved = None
        if asked.places is not None:
            layer, position = asked.places[0]
            moved = self._place(asked.part, layer)[0, position]
        chances, ids = torch.stack([self._lens()]).topk(asked.top)
        return {"source_probabilities": chances, "source_ids": ids}, moved

    def _targets(self, asked: Asked, tracer: Any, target: Any, moved: Any) -> dict[str, Any]:
        with tracer.invoke(target):
            spread = [self._lens()]
            if asked.places is None:
                chances, ids = torch.stack(spread).topk(asked.top)
                return {"probabilities": chances, "ids": ids}
        with tracer.invoke(target):
            layer, position = asked.places[1]
            self._place(asked.part, layer)[0, position] = moved
            spread.append(self._lens())
            chances, ids = torch.stack(spread).topk(asked.top)
            change = (spread[1] - spread[0]).abs().sum(-1) / 2
        return {"probabilities": chances, "ids": ids, "change": change}

    def _lens(self) -> Any:
        """In an open invoke: probabilities `[layer, pos, d_vocab]`."""
        model = self.subject.model
        stream = [model.layers[0].input, *(layer.output for layer in model.layers)]
        rows = [*(model.lm_head(model.norm(resid)) for resid in stream), model.logits]
        return torch.stack(rows)[:, 0].float().softmax(-1)

    def _place(self, part: str, layer: int) -> Any:
        if layer < 0:
            return self.subject.model.layers[0].input
        block = self.subject.model.layers[layer]
        return (block if part == "resid" else getattr(block, part)).output

    # The map

    def _tell_map(self, asked: Asked, tell: Tell) -> Patching:
        """Tell the map, row by row where it is not known yet, and give it."""
        base = self._grids_of(asked)
        answer, other = self._answers(asked, base)
        said = {"answer": self.subject.word(answer), "other": self.subject.word(other)}
        columns = [place for place, pair in enumerate(asked.pairs) if min(pair) >= 0]
        rows = np.full((self.subject.layers, len(asked.pairs)), np.nan, np.float32)
        key, known = _map_key(asked, answer, other), self._map
        if known is not None and known[0] == key:
            found = known[1]
        else:
            tell(self._sheet(asked, base | {"map": rows.copy()}, {**said, "done": 0}, part=True))
            found = self._filled(asked, (answer, other), columns, tell)
            self._map = key, found
        rows[:, columns] = floats(found.patched)
        ends = {"done": len(rows), "clean": found.clean, "corrupt": found.corrupt}
        tell(self._sheet(asked, base | {"map": rows}, {**said, **ends}))
        return found

    def _filled(
        self, asked: Asked, answers: tuple[int, int], columns: list[int], tell: Tell
    ) -> Patching:
        """The map, each row told as soon as it is there."""
        subject, effects, ends = self.subject, [], (0.0, 0.0)
        metric, name = self._metric(asked, *answers)
        prompts = [asked.source], [subject.ids]
        for row in patching_rows(subject.model, *prompts, metric, **_options(asked)):
            shown = np.full(len(asked.pairs), np.nan, np.float32)
            shown[columns] = floats(row.patched)
            plain = {"mode": "map", "layer": row.layer, "done": row.layer + 1}
            plain |= {"clean": row.clean, "corrupt": row.corrupt}
            tell(Sheet(plain, {"row": shown}, part=True))
            effects.append(row.patched - row.corrupt)
            ends = (row.clean, row.corrupt)
        names = [subject.tokens[asked.pairs[place][1]] for place in columns]
        layers = list(range(subject.layers))
        return Patching(asked.part, name, layers, names, torch.stack(effects), *ends)

    def _grids_of(self, asked: Asked) -> dict[str, np.ndarray[Any, Any]]:
        known = self._grids
        if known is not None and known[0] == _base_key(asked):
            return dict(known[1])
        return _base(self._run(asked))

    def _answers(self, asked: Asked, base: Mapping[str, np.ndarray[Any, Any]]) -> tuple[int, int]:
        """The tokens of the metric: those asked for, else what each prompt's run says best."""
        best = (int(base[f"{name}_ids"][-1, -1, 0]) for name in ("source", "target"))
        typed = (asked.answer, asked.other)
        model = self.subject.model
        answer, other = (
            own if said == "" else token_id(model, said)
            for own, said in zip(best, typed, strict=True)
        )
        if answer == other and asked.metric == "difference":
            raise BadInput(
                f"Both prompts end with {self.subject.word(answer)!r}: there is no difference.",
                hint="Type two tokens whose logits are to be compared.",
            )
        return answer, other

    def _metric(self, asked: Asked, answer: int, other: int) -> tuple[Metric, str]:
        """What is measured, and its name in words."""
        named = [self.subject.word(id) for id in (answer, other)]
        if asked.metric == "difference":
            return (answer, other), f"logit of {named[0]!r} minus {named[1]!r}"

        def probability(logits: Any) -> Any:
            return logits[:, -1].float().softmax(-1)[:, answer]

        return probability, f"probability of {named[0]!r}"

    # Plain data

    def _sheet(
        self,
        asked: Asked,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        more: Mapping[str, Any] | None = None,
        *,
        part: bool = False,
    ) -> Sheet:
        model = self.subject.model
        known = sorted(
            {
                int(id)
                for name, ids in arrays.items()
                if name.endswith("_ids")
                for id in np.unique(ids)
            }
        )
        numbered = {
            name: np.searchsorted(known, array).astype(np.int32) if name.endswith("_ids") else array
            for name, array in arrays.items()
        }
        mode = "map" if asked.mapped else "patch" if asked.places else "grids"
        plain = {
            "mode": mode,
            "layers": ["embed", *map(str, range(self.subject.layers)), "output"],
            "words": [self.subject.word(id) for id in known],
            "source": asked.text,
            "source_tokens": [word(model, id) for id in asked.source],
            "pairs": asked.pairs,
            "what": asked.part,
            "places": asked.places,
            "metric": asked.metric,
            "typed": [asked.answer, asked.other],
        }
        return Sheet({**plain, **(more or {})}, numbered, part)

    def _asked(self, wanted: Wanted) -> Asked:
        subject = self.subject
        text, part = str(wanted.get("source") or ""), str(wanted.get("part", "resid"))
        metric = str(wanted.get("metric", "difference"))
        _one_of("part", part, _PARTS)
        _one_of("metric", metric, _METRICS)
        source = list(subject.model.tokenize(text).rows[0]) if text else []
        pairs = aligned(source, subject.ids)
        mapped, places = bool(wanted.get("map")), None
        if source and not mapped and wanted.get("from") and wanted.get("to"):
            places = (
                self._checked(wanted["from"], part, len(source)),
                self._checked(wanted["to"], part, len(subject.ids)),
            )
        if mapped and not source:
            raise BadInput("There is no source prompt.", hint="Type one to take activations from.")
        top = min(max(int(wanted.get("top", 3)), 1), 20)
        answer, other = (wanted.get(name) or "" for name in ("answer", "other"))
        return Asked(text, source, pairs, part, places, mapped, metric, answer, other, top)

    def _checked(self, place: Any, part: str, count: int) -> tuple[int, int]:
        layer, position = (int(number) for number in place)
        lowest = -1 if part == "resid" else 0
        if layer not in range(lowest, self.subject.layers) or position not in range(count):
            raise BadInput(
                f"There is no {part} at layer {layer}, position {position}.",
                hint=f"Layers are 0 to {self.subject.layers - 1}, positions 0 to {count - 1}.",
            )
        return layer, position

    # Code and figure

    def code(self, wanted: Wanted) -> str:
        """A `%%trace` cell; a session where a deep layer is put into one before it; or a recipe."""
        asked = self._asked(wanted)
        if not asked.mapped:
            return patching_code.one_place(self.subject, asked)
        answer, other = self._answers(asked, self._grids_of(asked))
        return patching_code.whole_map(self.subject, asked, answer, other, _options(asked))

    def figure(self, wanted: Wanted) -> LabFigure:
        """The patched grid, or the effect by layer and position."""
        from nnsight_lab.jupyter.explorer.pictures import patched_figure

        asked = self._asked(wanted)
        if asked.mapped:
            found: LabFigure = self._tell_map(asked, lambda _: None).figure(recovered=False)
            return found
        return patched_figure(self._sheet(asked, self._run(asked)), self.subject.tokens)


def _one_of(what: str, said: str, known: tuple[str, ...]) -> None:
    if said not in known:
        raise BadInput(f"There is no {what} {said!r}.", hint=f"One of {', '.join(known)}.")


def _base(grids: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The grids of both prompts as they are, without a patch."""
    return {name: array for name, array in grids.items() if not name.startswith(("p", "c"))}


def _base_key(asked: Asked) -> tuple[Any, ...]:
    return tuple(asked.source), asked.top


def _map_key(asked: Asked, answer: int, other: int) -> tuple[Any, ...]:
    return tuple(asked.source), asked.part, asked.metric, answer, other


def _options(asked: Asked) -> dict[str, Any]:
    """Of the recipe: the part, and the positions that belong together."""
    return {"part": asked.part, "positions": [pair for pair in asked.pairs if min(pair) >= 0]}
