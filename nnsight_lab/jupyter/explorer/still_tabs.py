"""What is seen of each tab without a kernel: drawn of the sheets it has told, in so many bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, TypeAlias

import numpy as np

from nnsight_lab.jupyter.explorer.still_attention import attention_piece
from nnsight_lab.jupyter.explorer.still_parts import (
    Grid,
    Piece,
    Scale,
    chips,
    fitted,
    grid,
    line,
    svg_image,
    thinned,
    visible,
)
from nnsight_lab.jupyter.explorer.subject import Subject
from nnsight_lab.jupyter.explorer.view import Sheet, Wanted
from nnsight_lab.jupyter.static import DIVERGING
from nnsight_lab.jupyter.static_plots import Series, plot_svg

__all__ = ["TABS", "tokens_piece"]

Array: TypeAlias = np.ndarray[Any, Any]
_NATS = 10.0
"""From so many nats on, a token is as dark as it can be."""
_LINE = 120
"""So much of a prompt is said in a line."""


def tokens_piece(
    subject: Subject, wanted: Wanted, sheets: Sequence[Sheet], token: int, room: int
) -> Piece:
    """The prompt with its tokens apart, a number at each, and the likeliest tokens after it."""
    by = str(wanted.get("by", "surprisal")) if sheets else ""
    numbers = sheets[-1].arrays["numbers"].tolist() if sheets else []
    unit = "nats" if by == "surprisal" else by
    scale = Scale(0.0, _NATS) if by == "surprisal" else _of(numbers)

    def tip(place: int) -> str:
        return f"position {place}, id {subject.ids[place]}{_number(numbers, place, unit)}"

    what = "surprisal in nats" if by == "surprisal" else by
    piece = chips(
        subject.tokens, numbers, scale=scale, tip=tip, room=room // 2, apart=" | " if by else " "
    )
    if by:
        piece += line(f"At each token: {what}; darker is more.")
    following = sheets[-1].plain.get("next") if sheets else None
    if following:
        listed = ", ".join(f"{visible(word)} {chance:.4f}" for word, chance in following)
        piece += line(f"Likeliest next: {listed}")
    return piece


def _number(numbers: Sequence[float], place: int, unit: str) -> str:
    known = place < len(numbers) and isfinite(numbers[place])
    return f": {numbers[place]:.3f} {unit}" if known else ""


def _of(numbers: Sequence[float]) -> Scale:
    known = [number for number in numbers if isfinite(number)] or [0.0]
    return Scale(min(known), max(known))


def _heads(subject: Subject, shown: Sequence[int]) -> list[tuple[str, str]]:
    """The prompt's tokens as heads of columns."""
    return [(visible(subject.tokens[place]), f"position {place}") for place in shown]


def _picked(values: Array, rows: Sequence[int], shown: Sequence[int]) -> list[list[float]]:
    """Those rows and positions of `[layer, pos]`, the last row on top."""
    found: list[list[float]] = values[np.ix_(rows[::-1], shown)].astype(float).tolist()
    return found


def _words(ids: Array, words: Sequence[str], rows: Sequence[int], shown: Any) -> list[list[str]]:
    return [[words[int(ids[row, place])] for place in shown] for row in rows[::-1]]


# Lens


def _lens(
    subject: Subject, wanted: Wanted, sheets: Sequence[Sheet], token: int, room: int
) -> Piece:
    """The likeliest token at each place and its probability; chosen tokens through the layers."""
    plain, arrays = sheets[-1].plain, sheets[-1].arrays
    rows, left_out = thinned(len(plain["layers"]))

    def draw(shown: range) -> Piece:
        return grid(Grid(
            rows=[plain["layers"][row] for row in rows[::-1]], heads=_heads(subject, shown),
            values=_picked(arrays["probabilities"][..., 0], rows, shown), scale=Scale(),
            words=_words(arrays["tops"][..., 0], plain["words"], rows, shown),
        ))  # fmt: skip

    head = line(
        "Lens: the likeliest next token, read after each layer, and its probability. " + left_out
    )
    followed = _followed(subject, plain, arrays, token)
    return head + _with(followed, lambda left: fitted(draw, len(subject.tokens), token, left), room)


def _followed(
    subject: Subject, plain: Mapping[str, Any], arrays: Mapping[str, Array], token: int
) -> Piece:
    """The tokens that are followed, through the layers, at the chosen position."""
    if not plain["targets"]:
        return Piece()
    layers = list(plain["layers"])
    values = arrays["chances"][..., token].tolist()
    series = [
        Series(visible(plain["words"][place]), range(len(layers)), chances)
        for place, chances in zip(plain["targets"], values, strict=True)
    ]
    where = f"position {token} {visible(subject.tokens[token])}"
    svg = plot_svg(
        series, title=f"Probability after {where}", x_title="after layer", y_title="",
        names=layers, size=(560, 180),
    )  # fmt: skip
    said = [f"{each.name} {each.y[-1]:.4f}" for each in series]
    words = f"Followed, after {where}, in the output: {', '.join(said)}"
    return line(words) + svg_image(svg, words)


def _with(more: Piece, draw: Callable[[int], Piece], room: int) -> Piece:
    """What is drawn, in the room that is left for it; and more below, where it takes no half."""
    if more.size > room // 2:
        more = Piece()
    return draw(room - more.size - 1200) + more


# Norms and directions


def _norms(
    subject: Subject, wanted: Wanted, sheets: Sequence[Sheet], token: int, room: int
) -> Piece:
    """Norms, and cosines where there is a direction, which come first; then the plane."""
    plain, arrays = sheets[-1].plain, sheets[-1].arrays
    rows, left_out = thinned(len(plain["layers"]))
    names = [plain["layers"][row] for row in rows[::-1]]
    logs = np.log10(np.maximum(arrays["norms"], 1e-9))
    whole = Scale(float(logs.min()), float(logs.max()))

    def norms(shown: range) -> Piece:
        return grid(Grid(
            rows=names, heads=_heads(subject, shown), values=_picked(arrays["norms"], rows, shown),
            scale=whole, form=".4g", logs=_picked(logs, rows, shown),
        ))  # fmt: skip

    def cosines(shown: range) -> Piece:
        return grid(Grid(
            rows=names, heads=_heads(subject, shown), form=".3f", scale=Scale(-1, 1, DIVERGING),
            values=_picked(arrays["cosines"], rows, shown),
        ))  # fmt: skip

    head = f"Norm of the residual stream; colour on a log scale. {left_out}"
    parts = [(head, norms)]
    if "cosines" in arrays:
        head = f"Cosine of the residual stream to {plain['direction']}. {left_out}"
        parts.insert(0, (head, cosines))
    count, plane = len(subject.tokens), _plane(subject, plain, arrays)

    def both(left: int) -> Piece:
        found = Piece()
        for words, draw in parts:
            found += line(words) + fitted(draw, count, token, left // len(parts) - 200)
        return found

    return _with(plane, both, room)


def _plane(subject: Subject, plain: Mapping[str, Any], arrays: Mapping[str, Array]) -> Piece:
    if "points" not in arrays:
        return Piece()
    points, skip = arrays["points"], int(plain["skip"])
    names = [f"{skip + at} {visible(text)}" for at, text in enumerate(subject.tokens[skip:])]
    shares = [f"{share:.0%}" for share in arrays["explained"].tolist()]
    at = "the embedding" if plain["at"] == "embed" else f"layer {plain['at']}"
    title = f"Positions on the two main axes of the stream, {at}"
    svg = plot_svg(
        [Series("positions", points[:, 0].tolist(), points[:, 1].tolist(), names, line=False)],
        title=title, x_title=f"first axis ({shares[0]} of the variance)",
        y_title=f"second axis ({shares[1]})", size=(560, 260),
    )  # fmt: skip
    return svg_image(svg, title)


# Patching


def _patching(
    subject: Subject, wanted: Wanted, sheets: Sequence[Sheet], token: int, room: int
) -> Piece:
    """The map as far as it is filled; one place's patched lens; or the prompt's own."""
    plain, arrays = sheets[0].plain, sheets[0].arrays
    if not plain.get("source"):
        head = line("Patching: no source prompt yet. The lens of this prompt:")
        return head + _patched(subject, plain, arrays, token, room - head.size)
    head = line(f"Patching, source: {_begun(plain['source'])}")
    head += line(f"target: {_begun(''.join(subject.tokens))}")
    room -= head.size
    if plain["mode"] == "map":
        return head + _map(subject, sheets, token, room)
    return head + _patched(subject, plain, arrays, token, room)


def _map(subject: Subject, sheets: Sequence[Sheet], token: int, room: int) -> Piece:
    """A metric by place, as far as it has come."""
    plain, rows = dict(sheets[0].plain), sheets[0].arrays["map"].copy()
    for sheet in sheets[1:]:
        plain |= {name: sheet.plain[name] for name in ("clean", "corrupt", "done")}
        if "row" in sheet.arrays:
            rows[sheet.plain["layer"]] = sheet.arrays["row"]
        else:
            rows = sheet.arrays["map"]
    if not plain["done"]:
        return line("The map has no row yet.")
    pairs = plain["pairs"]
    both = [at for at, pair in enumerate(pairs) if min(pair) >= 0]
    effects = rows[:, both] - plain["corrupt"]
    known = np.abs(effects[np.isfinite(effects)])
    most = max(float(known.max()), abs(plain["clean"] - plain["corrupt"]), 1e-6)
    shown_rows, left_out = thinned(len(rows))
    places = [pairs[at][1] for at in both]

    def draw(shown: range) -> Piece:
        return grid(Grid(
            rows=[str(row) for row in shown_rows[::-1]], form="+.3f",
            heads=_heads(subject, [places[at] for at in shown]),
            values=_picked(effects, shown_rows, shown), scale=Scale(-most, most, DIVERGING),
        ))  # fmt: skip

    what = {
        "difference": f"the logit of {plain['answer']!r} minus that of {plain['other']!r}",
        "probability": f"the probability of {plain['answer']!r}",
    }[plain["metric"]]
    said = f"What the source's {_PARTS[plain['what']]} changes in {what}: "
    said += f"target {plain['corrupt']:.3f}, source {plain['clean']:.3f}. {left_out}"
    if plain["done"] < len(rows):
        said += f" {plain['done']} of {len(rows)} layers were done."
    if len(both) < len(pairs):
        said += " Only positions that both prompts have."
    at = places.index(token) if token in places else len(places) - 1
    head = line(said)
    return head + fitted(draw, len(places), at, room - head.size)


_PARTS = {"resid": "residual stream", "attn": "attention output", "mlp": "MLP output"}


def _patched(
    subject: Subject, plain: Mapping[str, Any], arrays: Mapping[str, Array], token: int, room: int
) -> Piece:
    """The lens of the target, patched where a place was; the number: how much probability moved."""
    moved = "change" in arrays
    name = "patched" if moved else "target"
    values = arrays["change"] if moved else arrays[f"{name}_chances"][..., 0]
    rows, left_out = thinned(len(plain["layers"]))
    high = max(float(values.max()), 0.05) if moved else 1.0

    def draw(shown: range) -> Piece:
        return grid(Grid(
            rows=[plain["layers"][row] for row in rows[::-1]], heads=_heads(subject, shown),
            values=_picked(values, rows, shown), scale=Scale(0.0, high),
            words=_words(arrays[f"{name}_ids"][..., 0], plain["words"], rows, shown),
        ))  # fmt: skip

    said = "The likeliest token at each place of the target, and its probability."
    if moved:
        (layer, at), (to_layer, to) = plain["places"]
        said = f"{_PARTS[plain['what']]} of the source's {_layer(layer)}, position {at}, in "
        said += f"{_layer(to_layer)}, position {to}: the likeliest tokens then, and how much "
        said += "probability moved."
    head = line(f"{said[0].upper()}{said[1:]} {left_out}")
    return head + fitted(draw, len(subject.tokens), token, room - head.size)


def _begun(text: str) -> str:
    """The beginning of a prompt."""
    return visible(text if len(text) <= _LINE else text[:_LINE] + "…")


def _layer(layer: int) -> str:
    return "embedding" if layer < 0 else f"layer {layer}"


# Steering


def _steering(
    subject: Subject, wanted: Wanted, sheets: Sequence[Sheet], token: int, room: int
) -> Piece | None:
    """Both texts, a number at each token: how far along the direction."""
    plain = sheets[-1].plain
    if "words" not in plain:
        return None
    along = sheets[-1].arrays["along"]
    known = np.abs(along[np.isfinite(along)])
    most = max(float(known.max()) if known.size else 0.0, 1e-9)
    count = subject.layers
    layer, length = int(wanted.get("layer", count // 2)), plain["length"]
    said = f"Steering at layer {layer} by {plain['strength']:g} times {_direction(wanted)}, "
    said += f"whose length is {length:.3g}. At each token: how far along it the stream is."
    piece = line(said) + line(f"After: {_begun(''.join(subject.tokens))}")
    for side, title in enumerate(("As it is", f"Steered by {plain['strength']:g}")):
        piece += line(f"{title}:") + chips(
            plain["words"][side], along[side].tolist(), room=room // 4, tip="token {}".format,
            scale=Scale(-most, most, DIVERGING),
        )  # fmt: skip
    return piece


def _direction(wanted: Wanted) -> str:
    if wanted.get("variable"):
        return f"the vector {wanted['variable']}"
    toward, away = (
        ", ".join(repr(text[:60]) for text in wanted[name][:3])
        + (" and more" if len(wanted[name]) > 3 else "")
        for name in ("toward", "away")
    )
    return f"the difference of {toward} and {away}"


# Features


def _features(
    subject: Subject, wanted: Wanted, sheets: Sequence[Sheet], token: int, room: int
) -> Piece:
    """The most active features at a token; one of them over the prompt; what it says."""
    plain, arrays = sheets[-1].plain, sheets[-1].arrays
    strip, feature = arrays["strip"].tolist(), plain["feature"]
    at = f"position {plain['token']} {visible(subject.tokens[plain['token']])}"
    active = f"{plain['active']} of {plain['count']} features are active"
    piece = line(f"Features of layer {plain['layer']}, {at}: {active}.")
    values = arrays["values"].tolist()
    listed = [f"{id} ({value:.3f})" for id, value in zip(plain["features"], values, strict=True)]
    piece += line(f"Most active: {', '.join(listed)}")
    piece += line(f"Feature {feature} at each token; darker is more:")

    def tip(place: int) -> str:
        return f"position {place}{_number(strip, place, 'activation')}"

    scale = Scale(0.0, max(*strip, 1e-9))
    piece += chips(subject.tokens, strip, scale=scale, room=room // 2, tip=tip)
    if "logits" in arrays:
        logits = arrays["logits"].tolist()
        said = [
            f"{visible(word)} {logit:.3f}"
            for word, logit in zip(plain["words"], logits, strict=True)
        ]
        piece += line(f"What feature {feature} says, in logits: {', '.join(said)}")
    return piece


Drawn: TypeAlias = Callable[[Subject, Wanted, Sequence[Sheet], int, int], Piece | None]

TABS: Mapping[str, Drawn] = {
    "tokens": tokens_piece,
    "lens": _lens,
    "attention": attention_piece,
    "patching": _patching,
    "steering": _steering,
    "norms": _norms,
    "features": _features,
}
"""How each tab is drawn; None where it has nothing to be seen yet."""
