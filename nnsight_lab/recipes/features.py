"""sae_features: which features of a sparse autoencoder are active on a prompt, and where.

The autoencoder is yours: any module with `encode`, or weights by their usual names. The stream is
fetched from the model, and encoded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nnsight_lab.errors import BadInput, ShapeMismatch
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run
from nnsight_lab.recipes.prompt import layers_of, model_of, prompt_of, run_on, tokens_of
from nnsight_lab.recipes.result import Result
from nnsight_lab.tracing.source import one_frame

__all__ = ["SaeFeatures", "coders_of", "encoded", "sae_features"]


@dataclass(frozen=True, eq=False, repr=False)
class SaeFeatures(Result):
    """The most active features of one prompt.

    tokens: the prompt. layer: from 0. part: what was encoded, `resid`, `attn` or `mlp`.
    ids: `[feature]`, the features with the highest activation at any position, best first.
    activations: `[feature, pos]`, of these. active: `[pos]`, how many features are above zero.
    unexplained: `[pos]`, the squared error of the reconstruction, as a share of the squared
    distance from the mean over positions; None where there is no `decode` and no `W_dec`.
    """

    tokens: list[str]
    layer: int
    part: str
    ids: list[int]
    activations: torch.Tensor
    active: torch.Tensor
    unexplained: torch.Tensor | None


@one_frame
def sae_features(
    source: LanguageModel | Run,
    sae: Any,
    layer: int,
    prompt: Any = None,
    *,
    part: str = "resid",
    top: int = 10,
    row: int = 0,
) -> SaeFeatures:
    """Encode a layer's stream of one prompt with a sparse autoencoder.

    source: a model, with a `prompt`; or a run, whose prompt and edits are used.
    sae: an object with `encode`, from `[pos, d_model]` to `[pos, feature]`, and perhaps `decode`;
        or a mapping or an object with `W_enc` `[d_model, feature]` and `b_enc`, perhaps `b_dec` and
        `W_dec` `[feature, d_model]`: `relu((x - b_dec) @ W_enc + b_enc)`.
    layer: from 0; negative counts from the last. top: how many features. row: of a batch.

    Raises:
        BadInput: no such part or row, or this is no autoencoder.
        ShapeMismatch: it is one for another width.
        AddressNotFound: there is no such layer.
    """
    model = model_of(source)
    (layer,) = layers_of(model, [layer])
    given = prompt_of(source, prompt, row)
    if top < 1:
        raise BadInput(f"There is no top {top!r}.", hint="top=10, say.")
    encode, decode = coders_of(sae)
    with model.trace(given, execute=False) as tracer:
        tracer.save(found=_read(model.layers[layer], part))
    tokens = tokens_of(model, given, row)
    found = run_on(source, tracer.graph, given)["found"][row, -len(tokens) :].float()
    with torch.no_grad():
        acts = encoded(encode, found)
        rebuilt = None if decode is None else decode(acts).float()
    highest, ids = acts.amax(0).topk(min(top, acts.shape[-1]))
    chosen = ids[highest > 0]
    unexplained = None if rebuilt is None else _unexplained(found, rebuilt)
    return SaeFeatures(
        tokens, layer, part, chosen.tolist(), acts[:, chosen].T, (acts > 0).sum(-1), unexplained
    )


def _read(block: Any, part: str) -> Any:
    match part:
        case "resid":
            return block.output
        case "attn":
            return block.attn.output
        case "mlp":
            return block.mlp.output
        case _:
            raise BadInput(f"There is no part {part!r}.", hint="One of resid, attn, mlp.")


def encoded(encode: Any, found: torch.Tensor) -> torch.Tensor:
    """The activations `[pos, feature]` of a stream `[pos, d_model]`, checked.

    Raises:
        ShapeMismatch: it is an autoencoder for another width.
    """
    try:
        acts = encode(found)
    except RuntimeError as exc:
        raise ShapeMismatch(
            f"The autoencoder does not take activations {list(found.shape)}: {exc}",
            hint="It must be one for this model's d_model.",
        ) from exc
    if not isinstance(acts, torch.Tensor) or acts.dim() != 2 or len(acts) != len(found):
        raise ShapeMismatch(
            f"encode gives {list(getattr(acts, 'shape', []))} for {list(found.shape)}.",
            hint="It must give [pos, feature] for [pos, d_model].",
        )
    return acts.float()


def _unexplained(found: torch.Tensor, rebuilt: torch.Tensor) -> torch.Tensor:
    distance = (found - found.mean(0)).square().sum(-1)
    return (found - rebuilt).square().sum(-1) / distance.clamp_min(1e-12)


def coders_of(sae: Any) -> tuple[Any, Any]:
    """What encodes, and what decodes, or None.

    Raises:
        BadInput: this is no autoencoder.
    """
    if callable(getattr(sae, "encode", None)):
        return sae.encode, getattr(sae, "decode", None)
    weights = sae if isinstance(sae, Mapping) else _attributes(sae)
    if "W_enc" not in weights or "b_enc" not in weights:
        raise BadInput(
            f"A {type(sae).__name__} is no sparse autoencoder.",
            hint="It needs encode(x), or W_enc and b_enc.",
        )
    into, before = weights["W_enc"], weights["b_enc"]
    offset = weights.get("b_dec")
    back = weights.get("W_dec")

    def encode(x: torch.Tensor) -> torch.Tensor:
        shifted = x if offset is None else x - offset
        return torch.relu(shifted @ into + before)

    def decode(acts: torch.Tensor) -> torch.Tensor:
        found = acts @ torch.as_tensor(back)
        return found if offset is None else found + offset

    return encode, None if back is None else decode


def _attributes(sae: Any) -> dict[str, Any]:
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    return {name: getattr(sae, name) for name in names if hasattr(sae, name)}
