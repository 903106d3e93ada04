"""Steering: a direction added to the residual stream, and what the model then writes.

Both texts are rows of one generation, so they are written side by side, with the same seed; the
push reaches the second row alone. The strength is a slider of the graph: moving it records nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.contract import RunEvent, Saved, Token, TokenRows
from nnsight_lab.errors import BadInput
from nnsight_lab.ir import Graph
from nnsight_lab.jupyter.explorer.space import vectors_of_width
from nnsight_lab.jupyter.explorer.view import Sheet, Tell, View, Wanted, floats
from nnsight_lab.recipes import steering_vector
from nnsight_lab.recipes.steering import SteeredText, SteeredTexts
from nnsight_lab.tracing.sliders import slider

if TYPE_CHECKING:
    from nnsight_lab.jupyter.figures import LabFigure

__all__ = ["SteeringView"]

_FAR = 1000.0
"""Limits of the strength; what is useful lies far within."""
_MEAN = """\
import nnsight_lab as nl
vector = nl.recipes.steering_vector({name}, {toward!r}, {away!r}, {layer}).direction
# %%
"""
_BODY = """\
unit = {vector} / {vector}.norm()
along = []
for _ in tracer.iter[:]:
    layer = {name}.layers[{layer}]
    layer.output[1] += nl.slider("strength", -{far:g}, {far:g}, value={strength!r}) * {vector}
    along.append(layer.output[:, -1].float() @ unit)
    ids = tracer.result"""


class SteeringView(View):
    """The prompt continued as it is, and with `strength` times a direction added at every position.

    The direction is the mean difference of two kinds of prompts at the layer (Turner et al., 2023),
    or a vector of the notebook. `along` of a token is the stream at the position that predicted it,
    along the direction's unit vector, with the push in it.
    """

    name = "steering"
    title = "Steering"

    def __init__(self, subject: Any) -> None:
        super().__init__(subject)
        self._directions: dict[Any, torch.Tensor] = {}
        self._graphs: dict[Any, Graph] = {}

    @property
    def missing(self) -> str:
        """A run's edits are of one pass, not of a text."""
        if self.subject.edited:
            return "The run has edits of its own. Explore the model: nl.explore(lm, prompt)."
        return "" if self.subject.model.card.decode else "The model cannot generate step by step."

    def ask(self, wanted: Wanted, tell: Tell) -> None:
        """Both texts, token by token.

        toward, away: lists of prompts; or variable: the name of a vector. layer: from 0.
        strength: how much of the direction. count: tokens. temperature: 0 for the likeliest. seed.
        """
        space = {"choices": sorted(vectors_of_width(self._width)), "strength": _strength(wanted)}
        if not self._chosen(wanted):
            tell(Sheet({**space, "said": "Give prompts of two kinds, or choose a vector."}))
            return
        vector = self._vector(wanted)
        writing = _Writing(self, tell, space | {"length": float(vector.norm())})
        writing.done(self._run(wanted, vector, writing.take))

    def _run(self, wanted: Wanted, vector: torch.Tensor, on_event: Any = None) -> Any:
        graph = self._graph(wanted, vector).at(strength=_strength(wanted))
        options = _generation(wanted)
        return self.subject.model.run(graph, self._rows, on_event=on_event, **options)

    @property
    def _rows(self) -> TokenRows:
        return TokenRows((tuple(self.subject.ids),) * 2)

    @property
    def _width(self) -> int:
        model = self.subject.model
        with model.trace(self._rows, execute=False):
            return int(model.layers[0].input.shape[-1])

    def _layer(self, wanted: Wanted) -> int:
        count = self.subject.layers
        layer = int(wanted.get("layer", count // 2))
        if layer not in range(count):
            raise BadInput(f"There is no layer {layer}.", hint=f"0 to {count - 1}.")
        return layer

    def _chosen(self, wanted: Wanted) -> bool:
        return bool(wanted.get("variable") or (wanted.get("toward") and wanted.get("away")))

    def _vector(self, wanted: Wanted) -> torch.Tensor:
        """The direction; that of prompts is found once."""
        name = wanted.get("variable")
        if name:
            known = vectors_of_width(self._width)
            if name not in known:
                has = ", ".join(known) or "none yet"
                raise BadInput(f"{name} is no vector of d_model.", hint=f"There is {has}.")
            return known[name]
        toward, away = list(wanted["toward"]), list(wanted["away"])
        key = (tuple(toward), tuple(away), self._layer(wanted))
        if key not in self._directions:
            found = steering_vector(self.subject.model, toward, away, key[2])
            self._directions[key] = found.direction.float()
        return self._directions[key]

    def _graph(self, wanted: Wanted, vector: torch.Tensor) -> Graph:
        """The experiment, recorded once for each direction and length."""
        options, layer = _generation(wanted), self._layer(wanted)
        key = (vector.numpy().tobytes(), layer, tuple(options.items()))
        if key not in self._graphs:
            model = self.subject.model
            with model.generate(self._rows, execute=False, **options) as tracer:
                unit = vector / vector.norm()
                for step in tracer.iter[:]:
                    place = model.layers[layer]
                    strength = slider("strength", -_FAR, _FAR, value=0.0)
                    place.output[1] += strength * vector
                    tracer.save(**{f"along{step}": place.output[:, -1].float() @ unit})
                tracer.save(ids=tracer.result)  # the last token is wanted, too
            self._graphs = {key: tracer.graph}
        return self._graphs[key]

    def code(self, wanted: Wanted) -> str:
        """A cell for the direction of prompts, and one that writes: `ids`, and `along` by step."""
        if not self._chosen(wanted):
            raise BadInput("There is no direction yet.", hint="Give prompts of two kinds.")
        name, layer = self.subject.name, self._layer(wanted)
        said = {"name": name, "layer": layer, "far": _FAR, "strength": _strength(wanted)}
        vector, before = str(wanted.get("variable") or "vector"), ""
        if not wanted.get("variable"):
            toward, away = list(wanted["toward"]), list(wanted["away"])
            before = _MEAN.format(toward=toward, away=away, **said)
        options = _generation(wanted)
        line = ["%%trace", name, f"{{[{self.subject.ids}] * 2}}", f"-g {options['max_new_tokens']}"]
        if options.get("do_sample"):
            line.append(f"--temperature {options['temperature']:g} --seed {options['seed']}")
        return before + " ".join(line) + "\n" + _BODY.format(vector=vector, **said)

    def figure(self, wanted: Wanted) -> LabFigure:
        """Both texts, coloured by how far along the direction each token is."""
        if not self._chosen(wanted):
            raise BadInput("There is no direction yet.", hint="Give prompts of two kinds.")
        told: list[Sheet] = []
        self.ask(wanted, told.append)
        plain, along = told[-1].plain, told[-1].arrays["along"]
        texts = [
            SteeredText(
                strength, "".join(words), words, torch.from_numpy(along[side][: len(words)])
            )
            for side, (strength, words) in enumerate(
                [(0.0, plain["words"][0]), (plain["strength"], plain["words"][1])]
            )
        ]
        figure: LabFigure = SteeredTexts("".join(self.subject.tokens), texts).figure()
        return figure


class _Writing:
    """Two texts as they are written: each step is told as it comes, and both once more at the end."""

    def __init__(self, view: SteeringView, tell: Tell, plain: dict[str, Any]) -> None:
        self._view = view
        self._tell = tell
        self._plain = plain
        self._words: tuple[list[str], list[str]] = ([], [])
        self._along: list[torch.Tensor] = []
        self._ended = [False, False]

    def take(self, event: RunEvent) -> None:
        """An event of the run."""
        if isinstance(event, Saved) and event.name != "ids":
            self._along.append(event.value.float().cpu())
        elif isinstance(event, Token):
            self._add(event.ids)
            self._tell(self._sheet(part=True))

    def _add(self, ids: tuple[int, ...]) -> None:
        subject = self._view.subject
        end = getattr(subject.model.tokenizer, "eos_token_id", None)
        for side, id in enumerate(ids):
            if not self._ended[side]:
                self._words[side].append(subject.word(id))
                self._ended[side] = id == end

    def _sheet(self, *, part: bool) -> Sheet:
        along = torch.stack(self._along, 1) if self._along else torch.zeros(2, 0)
        words = [list(side) for side in self._words]
        return Sheet({**self._plain, "words": words}, {"along": floats(along)}, part=part)

    def done(self, run: Any) -> None:
        """The texts, whole."""
        self._tell(self._sheet(part=False))


def _strength(wanted: Wanted) -> float:
    return min(max(float(wanted.get("strength", 1.0)), -_FAR), _FAR)


def _generation(wanted: Wanted) -> dict[str, Any]:
    """Options of `lm.generate`."""
    count = min(max(int(wanted.get("count", 12)), 1), 200)
    options: dict[str, Any] = {"max_new_tokens": count}
    temperature = float(wanted.get("temperature", 0))
    if temperature > 0:
        options |= {
            "do_sample": True,
            "temperature": temperature,
            "seed": int(wanted.get("seed", 0)),
        }
    return options
