"""Norms and directions: how long the residual stream is, where it points, and its main plane.

All of it is computed where the model is: a few numbers a place travel. Main axes are those of one
layer only, so that a long prompt is as quick as a short one.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.errors import BadInput, ShapeMismatch
from nnsight_lab.ir import Graph
from nnsight_lab.jupyter.explorer.space import as_vector, notebook_variables, vectors_of_width
from nnsight_lab.jupyter.explorer.view import Sheet, Tell, View, Wanted, floats
from nnsight_lab.recipes.prompt import token_id

if TYPE_CHECKING:
    from nnsight_lab.jupyter.figures import LabFigure

__all__ = ["NormsView"]

_CODE = """\
stream_rows = torch.stack([{lm}.layers[0].input, *(layer.output for layer in {lm}.layers)])
stream_rows = stream_rows[:, {row}, {first}:].float()
stream_norms = stream_rows.norm(dim=-1)"""
_UNIT = """\
stream_direction = torch.nn.functional.normalize({direction}, dim=0)
"""
_COSINES = """
stream_cosines = stream_rows @ stream_direction / stream_norms"""
_POINTS = """
plane_rest = stream_rows[{at}, {skip}:]
plane_rest = plane_rest - plane_rest.mean(0)
plane_left, plane_sizes, plane_axes = torch.linalg.svd(plane_rest, full_matrices=False)
plane_points = plane_left[:, :2] * plane_sizes[:2]
plane_signs = plane_points.gather(0, plane_points.abs().argmax(0, keepdim=True)).sign()
plane_points = plane_points * plane_signs
plane_explained = plane_sizes[:2].square() / plane_sizes.square().sum()"""


class NormsView(View):
    """The residual stream: its norm at each layer and position, its cosine to a direction, a plane.

    A direction is a variable of the notebook, the unembedding of a token (its row of the matrix,
    without the final norm), or the difference of two. The plane has the two main axes (principal
    components) of one layer's stream over positions, around their mean; on each axis the position
    farthest out is on the positive side. The first position often dwarfs the others, so `skip`
    leaves it out.
    """

    name = "norms"
    title = "Norms and directions"

    def ask(self, wanted: Wanted, tell: Tell) -> None:
        """Norms; cosines to `direction` (variable, token, difference: `of`, `minus`); points.

        at: the layer of the plane, "embed" or its number. skip: positions left out of it.
        """
        run = self.subject.run(self._graph(wanted))
        names = ("norms", "cosines", "points", "explained")
        arrays = {name: floats(run[name]) for name in names if name in run}
        plain = {
            "layers": self._layers,
            "at": self._layers[self._at(wanted)],
            "skip": self._skip(wanted),
            "direction": self._said(wanted),
            "choices": self._choices(),
        }
        tell(Sheet(plain, arrays))

    def _graph(self, wanted: Wanted) -> Graph:
        subject = self.subject
        model, first = subject.model, subject.given.pos - len(subject.ids)
        variable, ids = self._variable(wanted), self._tokens(wanted)
        with model.trace(subject.given, execute=False) as tracer:
            stream = torch.stack([model.layers[0].input, *(x.output for x in model.layers)])
            stream = stream[:, subject.row, first:].float()
            norms = stream.norm(dim=-1)
            tracer.save(norms=norms)
            rows = [model.lm_head.weight[id].float() for id in ids]
            direction = rows[0] - rows[1] if len(rows) == 2 else rows[0] if rows else variable
            if direction is not None:
                unit = torch.nn.functional.normalize(direction, dim=0)
                tracer.save(cosines=stream @ unit / norms)
            if self._skip(wanted) is not None:
                points, explained = _plane(stream[self._at(wanted), self._skip(wanted) :])
                tracer.save(points=points, explained=explained)
        return tracer.graph

    # What is wanted

    @property
    def _layers(self) -> list[str]:
        return ["embed", *(str(layer) for layer in range(self.subject.layers))]

    def _at(self, wanted: Wanted) -> int:
        at = str(wanted.get("at", self.subject.layers - 1))
        if at not in self._layers:
            last = self.subject.layers - 1
            raise BadInput(f"There is no layer {at!r}.", hint=f'"embed", or 0 to {last}.')
        return self._layers.index(at)

    def _skip(self, wanted: Wanted) -> int | None:
        """How many positions to leave out; None where fewer than three are left for two axes."""
        skip = max(int(wanted.get("skip", 0)), 0)
        return skip if len(self.subject.ids) - skip >= 3 else None

    def _tokens(self, wanted: Wanted) -> list[int]:
        """The ids of `of`, and of `minus` where a difference is wanted."""
        kind = wanted.get("direction")
        names = {"token": ["of"], "difference": ["of", "minus"]}.get(str(kind), [])
        if not names or not wanted.get("of"):
            return []
        model = self.subject.model
        return [token_id(model, str(wanted.get(name, ""))) for name in names]

    def _variable(self, wanted: Wanted) -> torch.Tensor | None:
        """The vector of the notebook that is wanted, if one is."""
        name, space = str(wanted.get("of", "")), notebook_variables()
        if wanted.get("direction") != "variable" or not name:
            return None
        if name not in space:
            known = ", ".join(self._choices()) or "none yet: v = torch.randn(d_model)"
            raise BadInput(f"The notebook has no {name!r}.", hint=f"Vectors in it: {known}.")
        found, width = as_vector(space[name]), self._width
        if found is None or found.shape != (width,):
            shape = list(getattr(space[name], "shape", ())) or type(space[name]).__name__
            raise ShapeMismatch(
                f"{name} is {shape}; the stream has d_model {width}.",
                hint=f"Give a vector of {width} numbers.",
            )
        return found

    @cached_property
    def _width(self) -> int:
        """Of the residual stream."""
        model = self.subject.model
        with model.trace(self.subject.given, execute=False):
            return int(model.layers[0].input.shape[-1])

    def _choices(self) -> list[str]:
        """Variables of the notebook that can be a direction."""
        return list(vectors_of_width(self._width))

    def _said(self, wanted: Wanted) -> str:
        """The direction in words; empty where there is none."""
        if not wanted.get("of"):
            return ""
        if wanted.get("direction") == "variable":
            return str(wanted["of"])
        return " − ".join(repr(self.subject.word(id)) for id in self._tokens(wanted))

    # Code and figures

    def code(self, wanted: Wanted) -> str:
        """`stream_norms`, `stream_cosines`: `[layer, pos]`; `plane_points` `[pos, 2]` of the layer."""
        subject, skip = self.subject, self._skip(wanted)
        first = subject.given.pos - len(subject.ids)
        body = _CODE.format(lm=subject.name, row=subject.row, first=first)
        names = ["stream_norms"]
        rows = [f"{subject.name}.lm_head.weight[{id}].float()" for id in self._tokens(wanted)]
        said = " - ".join(rows)
        if self._variable(wanted) is not None:
            said = f"torch.as_tensor({wanted['of']}).detach().float().cpu()"
        if said:
            # First, since a variable of the notebook may be called as a result is.
            body = _UNIT.format(direction=said) + body + _COSINES
            names.append("stream_cosines")
        if skip is not None:
            body += _POINTS.format(at=self._at(wanted), skip=skip)
            names += ["plane_points", "plane_explained"]
        return self._cell(body, "-s", ",".join(names))

    def figure(self, wanted: Wanted) -> LabFigure:
        """By `show`: norms, cosines or the plane."""
        from nnsight_lab.jupyter.explorer import pictures_stream as pictures

        told: list[Sheet] = []
        self.ask(wanted, told.append)
        plain, arrays, tokens = told[0].plain, told[0].arrays, self.subject.tokens
        show = str(wanted.get("show", "norms"))
        if show == "cosines" and "cosines" in arrays:
            title = f"Cosine of the residual stream to {plain['direction']}"
            return pictures.stream_figure(
                arrays["cosines"], plain["layers"], tokens, title, signed=True
            )
        if show == "plane" and "points" in arrays:
            at, skip = plain["at"], int(plain["skip"])
            title = (
                f"Main plane of the residual stream, {'embed' if at == 'embed' else f'layer {at}'}"
            )
            return pictures.plane_figure(
                arrays["points"], arrays["explained"], tokens[skip:], title, skip
            )
        title = "Norm of the residual stream"
        return pictures.stream_figure(arrays["norms"], plain["layers"], tokens, title)


def _plane(rest: Any) -> tuple[Any, Any]:
    """`[pos, 2]` around the mean, and the share of the variance on each axis."""
    left, sizes, _ = torch.linalg.svd(rest - rest.mean(0), full_matrices=False)
    points = left[:, :2] * sizes[:2]
    signs = points.gather(0, points.abs().argmax(0, keepdim=True)).sign()
    return points * signs, sizes[:2].square() / sizes.square().sum()
