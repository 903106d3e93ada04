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

__all__ = ["SaeFeatures", "coders_of", "decoded", "encoded", "sae_features", "weights_like"]


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
        rebuilt = None if decode is None else decoded(decode, acts)
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
    """The activations `[pos, feature]` of a stream `[pos, d_model]`, checked, as float32.

    Raises:
        ShapeMismatch: it is an autoencoder for another width.
    """
    try:
        acts = encode(found)
    except RuntimeError as exc:
        raise ShapeMismatch(
            f"The autoencoder cannot encode activations {list(found.shape)}: {exc}",
            hint="It must take [pos, d_model] of this model.",
        ) from exc
    if not isinstance(acts, torch.Tensor) or acts.dim() != 2 or len(acts) != len(found):
        raise ShapeMismatch(
            f"encode gives {list(getattr(acts, 'shape', []))} for {list(found.shape)}.",
            hint="It must give [pos, feature] for [pos, d_model].",
        )
    return acts.to(found.device).float()


def decoded(decode: Any, acts: torch.Tensor) -> torch.Tensor:
    """The stream `[pos, d_model]` that activations `[pos, feature]` stand for, as float32.

    Raises:
        ShapeMismatch: what decodes does not take what encodes gives.
    """
    try:
        found = decode(acts)
    except RuntimeError as exc:
        raise ShapeMismatch(
            f"The autoencoder cannot decode features {list(acts.shape)}: {exc}",
            hint="It must take the [pos, feature] that encode gives.",
        ) from exc
    if not isinstance(found, torch.Tensor) or found.dim() != 2 or len(found) != len(acts):
        raise ShapeMismatch(
            f"decode gives {list(getattr(found, 'shape', []))} for {list(acts.shape)}.",
            hint="It must give [pos, d_model] for [pos, feature].",
        )
    return found.to(acts.device).float()


def _unexplained(found: torch.Tensor, rebuilt: torch.Tensor) -> torch.Tensor:
    distance = (found - found.mean(0)).square().sum(-1)
    return (found - rebuilt).square().sum(-1) / distance.clamp_min(1e-12)


def coders_of(sae: Any) -> tuple[Any, Any]:
    """What encodes, and what decodes, or None. Both take numbers of any kind, on any device.

    Raises:
        BadInput: this is no autoencoder.
    """
    encode, decode = _coders_of(sae)
    like = weights_like(sae)
    return _aligned(encode, like), None if decode is None else _aligned(decode, like)


def weights_like(sae: Any) -> torch.Tensor | None:
    """One of its weights, of the kind of number and on the device that it computes with."""
    weights = sae if isinstance(sae, Mapping) else _attributes(sae)
    own = sae.parameters() if isinstance(sae, torch.nn.Module) else ()
    for weight in (*weights.values(), *own):
        if isinstance(weight, torch.Tensor) and weight.is_floating_point():
            return weight
    return None


def _aligned(coder: Any, like: torch.Tensor | None) -> Any:
    def aligned(x: torch.Tensor) -> Any:
        return coder(x if like is None else x.to(like.device, like.dtype))

    return aligned


def _coders_of(sae: Any) -> tuple[Any, Any]:
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
