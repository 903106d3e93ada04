"""`ModelReader`: takes a run's rows out of what vLLM's modules hold, and puts others in.

Most addresses are columns of a tensor that is there (`forms.py`). Two are not: the logits of every
position are made when they are asked for, from the rows that vLLM makes its own from; and attention
patterns are made anew, from queries and keys that are kept while the run goes on (`attention.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from nnsight_lab.errors import NotSupported
from nnsight_lab_server.vllm.attention import AttentionMath, KeyStore
from nnsight_lab_server.vllm.forms import Form, Point, Rows, tensor_at
from nnsight_lab_server.vllm.ranks import gathered, own_part
from nnsight_lab_server.vllm.rows import Piece

__all__ = ["ModelReader", "flat_rows"]


def flat_rows(pieces: Sequence[Piece], device: torch.device) -> Rows:
    """Which flat rows of the step these are, one piece after another."""
    if all(one.stop == other.start for one, other in pairwise(pieces)):
        return slice(pieces[0].start, pieces[-1].stop)
    found = [torch.arange(piece.start, piece.start + piece.count) for piece in pieces]
    return (found[0] if len(found) == 1 else torch.cat(found)).to(device)


class ModelReader:
    """Reads one run's rows. logits_of: the model's logits of final hidden states."""

    def __init__(self, logits_of: Callable[[torch.Tensor], torch.Tensor], model: Any) -> None:
        self._logits_of = logits_of
        self._model = model
        self._maths: dict[str, AttentionMath] = {}
        self._kept = KeyStore()
        self._queries: dict[str, torch.Tensor] = {}

    def beside(self, patterns: Sequence[Point]) -> list[Point]:
        """Where queries and keys come by that patterns are made of."""
        for point in patterns:
            self._maths[point.path] = AttentionMath.of(self._model.get_submodule(point.path))
        return [Point("before", point.path) for point in patterns]

    def see(self, point: Point, held: Any, pieces: Mapping[int, list[Piece]]) -> None:
        """Rows are at a point; keep what patterns will be made of."""
        math = self._maths.get(point.path)
        if math is None or point.stage != "before":
            return
        q, k, v = held[0]
        self._queries[point.path] = q.unflatten(-1, (math.heads, math.d_head))
        k, v = (each.unflatten(-1, (math.kv_heads, -1)) for each in (k, v))
        for piece in (piece for own in pieces.values() for piece in own):
            rows = slice(piece.start, piece.start + piece.count)
            self._kept.add(piece.row, point.path, piece.position, k[rows], v[rows])

    def take(self, form: Form, held: Any, pieces: list[Piece]) -> torch.Tensor:
        """The value of the pieces' rows: memory of its own."""
        if form.kind == "pattern":
            return torch.cat([self._pattern(form.point.path, piece) for piece in pieces])
        if form.kind == "logits":
            return self._logits_of(held[flat_rows(pieces, held.device)])
        first = tensor_at(held, form.terms[0])
        value = form.take(held, flat_rows(pieces, first.device))
        return value.clone() if _share_memory(value, first) else value

    def put(self, form: Form, held: Any, pieces: list[Piece], new: torch.Tensor) -> Any:
        """What is held instead. The logits of vLLM's own sampling are put in where they are made."""
        if form.kind == "logits":
            return held
        rows = flat_rows(pieces, new.device)
        if form.kind == "pattern":
            cut = new.split([piece.count for piece in pieces])
            z = [self._mixed(form, piece, own) for piece, own in zip(pieces, cut, strict=True)]
            flat: torch.Tensor = held.clone()
            flat.view(len(flat), -1)[rows] = torch.cat(z).flatten(1).to(flat)
            return flat
        return form.put(held, rows, new)

    def _pattern(self, layer: str, piece: Piece) -> torch.Tensor:
        """What a piece's rows look at, `[rows, head, key]`, padding included."""
        seen = piece.position + piece.count
        keys, _ = self._kept.upto(piece.row, layer, seen)
        queries = self._queries[layer][piece.start : piece.start + piece.count]
        positions = torch.arange(piece.position, seen)
        own = self._maths[layer].pattern(queries, keys, positions)
        found = gathered(own, 0).transpose(0, 1)
        whole = found.new_zeros(piece.count, found.shape[1], piece.seen)
        whole[..., piece.pad : piece.pad + seen] = found
        return whole

    def _mixed(self, form: Form, piece: Piece, pattern: torch.Tensor) -> torch.Tensor:
        """Z of a piece's rows, by an edited pattern."""
        seen = piece.position + piece.count
        _, values = self._kept.upto(piece.row, form.point.path, seen)
        known = pattern[..., piece.pad : piece.pad + seen]
        if bool(pattern[..., piece.pad + seen :].any()):
            raise NotSupported(
                "The pattern is edited to look at positions that vLLM has not computed yet.",
                hint="Leave a pattern causal, or run it on the transformers engine.",
            )
        return self._maths[form.point.path].mixed(own_part(known.transpose(0, 1), 0), values)


def _share_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
