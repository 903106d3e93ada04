"""Attention: every head of the model as a small picture with scores, and one head in full.

Pictures and scores are made inside the trace, a layer at a time, and told while the model runs: a
whole pattern travels only for the one head that is looked at.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nnsight_lab.contract import RunEvent, Saved
from nnsight_lab.errors import AddressNotFound
from nnsight_lab.ir import Graph
from nnsight_lab.jupyter.explorer.view import Sheet, Tell, View, Wanted, floats
from nnsight_lab.models.under_way import RunUnderWay, watching

if TYPE_CHECKING:
    from nnsight_lab.jupyter.figures import LabFigure

__all__ = ["SCORES", "AttentionView"]

SCORES = ("entropy", "previous", "induction", "first")
"""The scores of a head, in the order in which they are told."""

_TILE = 48
"""The most cells of a small picture on a side."""
_EXACT = 256
"""Up to so many tokens a pattern travels as it is; beyond, in 256 steps."""
_WIDEST = 1024
"""Of a longer prompt, so much of a pattern travels at once."""

_CODE = """\
attention_ids = torch.tensor({ids})
attention_places = torch.arange(len(attention_ids))
attention_same = (attention_ids[:, None] == attention_ids).tril(-1)
attention_after = (attention_same * attention_places).amax(-1) + 1
attention_queries = attention_same.any(-1) & (attention_after < attention_places)
attention_queries = attention_queries.nonzero()[:, 0]
attention_keys = attention_after[attention_queries]
attention_patterns = [
    layer.attn.pattern[{row}, :, {first}:, {first}:].float() for layer in {lm}.layers
]
attention_entropy = torch.stack([-torch.xlogy(p, p).sum(-1).mean(-1) for p in attention_patterns])
attention_previous = torch.stack([p.diagonal(-1, 1, 2).mean(-1) for p in attention_patterns])
attention_induction = torch.stack(
    [p[:, attention_queries, attention_keys].mean(-1) for p in attention_patterns]
)
attention_first = torch.stack([p[:, 1:, 0].mean(-1) for p in attention_patterns])
attention_pattern = attention_patterns[{layer}][{head}]"""
_STEPS = """
# The explorer shows 256 steps.
attention_shown = ((attention_pattern.sqrt() * 255).round() / 255).square()"""


class AttentionView(View):
    """Where each head looks: small pictures of all heads, scores to sort them, one in full.

    The scores of a head are means over the queries of this prompt:

    - entropy of a row of the pattern, in nats: 0 where all weight is on one key;
    - previous: the weight on the token before, from every position but the first;
    - induction: from a token that was there before, the weight on the token that followed it the
      last time (Olsson et al., 2022); positions without such a token do not count, nor those where
      it would be the position itself; NaN where there are none;
    - first: the weight on the first position, from every other.

    A small picture has the largest weight of each square, and both it and the pattern of a long
    prompt are in 256 steps of the weight's square root, so that small weights can be told apart.
    """

    name = "attention"
    title = "Attention"

    def ask(self, wanted: Wanted, tell: Tell) -> None:
        """All heads of the layers in `tiles` (None: of all), then `layer` and `head` in full.

        start, end: which positions, where the prompt is long. full: whether one head is wanted.
        """
        tiles = wanted.get("tiles")
        layers = range(self.subject.layers) if tiles is None else [int(layer) for layer in tiles]
        full = bool(wanted.get("full", True))
        self._run(self._graph(list(layers), wanted if full else None), wanted, tell)

    def _run(self, graph: Graph, wanted: Wanted, tell: Tell) -> None:
        """Tell of each layer, and of the head, as soon as the model has come there."""
        thread, found = threading.get_ident(), dict[str, np.ndarray[Any, Any]]()

        def heard(run: RunUnderWay, event: RunEvent | None) -> None:
            if run.thread != thread or not isinstance(event, Saved):
                return
            kind, _, number = event.name.partition("_")
            found[event.name] = _array(event.value)
            if kind == "pattern":
                tell(self._full(wanted, found[event.name]))
            elif f"tiles_{number}" in found and f"scores_{number}" in found:
                arrays = {name: found.pop(f"{name}_{number}") for name in ("tiles", "scores")}
                plain = {"layer": int(number)}
                tell(Sheet(plain, arrays, part=True, topic=f"layer {number}"))

        with watching(heard):
            self.subject.run(graph)

    def _full(self, wanted: Wanted, pattern: np.ndarray[Any, Any]) -> Sheet:
        layer, head = self._head(wanted)
        plain = {"layer": layer, "head": head, "start": self._window(wanted)[0]}
        return Sheet(plain, {"pattern": pattern}, topic="head")

    def _graph(self, layers: list[int], full: Wanted | None) -> Graph:
        queries, keys = _repeats(self.subject.ids)
        with self.subject.model.trace(self.subject.given, execute=False) as tracer:
            for layer in layers:
                pattern = self._pattern(layer)
                found = _scores(pattern, queries, keys)
                tracer.save(
                    **{f"tiles_{layer}": _pooled(pattern, len(self.subject.ids))},
                    **{f"scores_{layer}": torch.stack([found[name] for name in SCORES])},
                )
            if full is not None:
                layer, head = self._head(full)
                start, end = self._window(full)
                shown = self._pattern(layer)[head, start:end, start:end]
                tracer.save(pattern=_stepped(shown) if self._stepped else shown)
        return tracer.graph

    def _pattern(self, layer: int) -> Any:
        """A recorded `[head, query, key]`."""
        subject = self.subject
        first = subject.given.pos - len(subject.ids)
        found = subject.model.layers[layer].attn.pattern
        return found[subject.row, :, first:, first:].float()

    @property
    def _stepped(self) -> bool:
        return len(self.subject.ids) > _EXACT

    def _head(self, wanted: Wanted) -> tuple[int, int]:
        layer, head = int(wanted.get("layer", 0)), int(wanted.get("head", 0))
        if layer not in range(self.subject.layers):
            raise AddressNotFound(
                f"There is no layer {layer}.", hint=f"There are 0 to {self.subject.layers - 1}."
            )
        return layer, head

    def _window(self, wanted: Wanted) -> tuple[int, int]:
        count = len(self.subject.ids)
        if count <= _WIDEST:
            return 0, count
        start = min(max(int(wanted.get("start", 0)), 0), count - 1)
        return start, min(max(int(wanted.get("end", count)), start + 1), start + _WIDEST, count)

    def code(self, wanted: Wanted) -> str:
        """The scores of all heads, `[layer, head]`, and the pattern of one, `[query, key]`."""
        subject, (layer, head) = self.subject, self._head(wanted)
        first = subject.given.pos - len(subject.ids)
        body = _CODE.format(
            lm=subject.name, ids=subject.ids, row=subject.row, first=first, layer=layer, head=head
        )
        names = [*SCORES, "pattern"]
        if self._stepped:
            body += _STEPS
            names.append("shown")
        return self._cell(body, "-s", ",".join(f"attention_{name}" for name in names))

    def figure(self, wanted: Wanted) -> LabFigure:
        """The pattern of one head, of the positions from `start` to `end`."""
        from nnsight_lab.jupyter.explorer.pictures_stream import pattern_figure

        told: list[Sheet] = []
        self.ask({**wanted, "tiles": []}, told.append)
        plain, pattern = told[-1].plain, told[-1].arrays["pattern"]
        if pattern.dtype == np.uint8:
            pattern = (pattern / 255.0) ** 2
        at = plain["start"]
        start = min(max(int(wanted.get("start", at)) - at, 0), len(pattern) - 1)
        end = max(int(wanted.get("end", at + len(pattern))) - at, start + 1)
        values = pattern[start:end, start:end]
        title = f"Layer {plain['layer']}, head {plain['head']}: query down, key across"
        tokens = self.subject.tokens[at + start :][: len(values)]
        return pattern_figure(values, tokens, title, at + start)


def _repeats(ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions whose token was there before, and where what followed it the last time stands."""
    last: dict[int, int] = {}
    pairs = []
    for place, id in enumerate(ids):
        after = last.get(id, place) + 1
        if after < place:
            pairs.append((place, after))
        last[id] = place
    queries, keys = zip(*pairs, strict=True) if pairs else ((), ())
    return torch.tensor(queries, dtype=torch.long), torch.tensor(keys, dtype=torch.long)


def _scores(pattern: Any, queries: torch.Tensor, keys: torch.Tensor) -> dict[str, Any]:
    """`[head]` each."""
    return {
        "entropy": -torch.xlogy(pattern, pattern).sum(-1).mean(-1),
        "previous": pattern.diagonal(-1, 1, 2).mean(-1),
        "induction": pattern[:, queries, keys].mean(-1),
        "first": pattern[:, 1:, 0].mean(-1),
    }


def _pooled(pattern: Any, count: int) -> Any:
    """The largest weight of each square: `[head, side, side]`, in steps."""
    block = -(-count // _TILE)
    side = -(-count // block)
    more = side * block - count
    whole = torch.nn.functional.pad(pattern, (0, more, 0, more))
    return _stepped(whole.reshape(-1, side, block, side, block).amax((2, 4)))


def _stepped(weights: Any) -> Any:
    return (weights.sqrt() * 255).round().to(torch.uint8)


def _array(value: torch.Tensor) -> np.ndarray[Any, Any]:
    if value.dtype == torch.uint8:
        found: np.ndarray[Any, Any] = value.cpu().numpy()
        return found
    return floats(value)
