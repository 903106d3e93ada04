"""Features: what a sparse autoencoder sees at a token, where else it sees that, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.jupyter.explorer.subject import Autoencoder, Subject
from nnsight_lab.jupyter.explorer.view import Sheet, Tell, View, Wanted, floats
from nnsight_lab.recipes.features import coders_of, decoded, encoded, weights_like

if TYPE_CHECKING:
    from nnsight_lab.jupyter.figures import LabFigure

__all__ = ["FeaturesView"]

_CODE = """\
import torch
feature_stream = {lm}.layers[{layer}].output[{row}, {first}:].float(){to}
with torch.no_grad():
    feature_activations = {encode}.float()
feature_values, feature_ids = feature_activations[{token}].topk({top})
feature_strip = feature_activations[:, {feature}]"""
_SAYS = """
feature_codes = torch.zeros(2, {count}{like})
feature_codes[1, {feature}] = 1
with torch.no_grad():
    feature_decoded = {decode}.float()
feature_direction = feature_decoded[1] - feature_decoded[0]
feature_logits, feature_words = (
    {lm}.lm_head({lm}.norm(feature_direction)).float().topk({top})
)"""
_NAMES = ("feature_values", "feature_ids", "feature_strip")
_NAMES_OF_WORDS = ("feature_logits", "feature_words")


class FeaturesView(View):
    """The most active features at the chosen token; one of them over the prompt, and its logits.

    The stream is fetched once and encoded here. A feature's logits are what the final norm and the
    unembedding make of its direction in the decoder.
    """

    name = "features"
    title = "Features"

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._activations: torch.Tensor | None = None
        self._said: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def missing(self) -> str:
        """Without an autoencoder there are no features."""
        if self.subject.sae is None:
            return "Give a sparse autoencoder: nl.explore(lm, prompt, sae=sae, layer=3)."
        return ""

    def ask(self, wanted: Wanted, tell: Tell) -> None:
        """`token`: whose features; `feature`: which over the prompt, the strongest if left out."""
        token, feature, top = self._asked(wanted)
        found = self.activations()
        values, features = found[token].topk(top)
        said = self._says(feature, top)
        plain: dict[str, Any] = {
            "layer": self._sae.layer,
            "count": found.shape[-1],
            "active": int((found[token] > 0).sum()),
            "token": token,
            "feature": feature,
            "features": features.tolist(),
            "words": [] if said is None else [self.subject.word(int(id)) for id in said[1]],
        }
        arrays = {"values": floats(values), "strip": floats(found[:, feature])}
        if said is not None:
            arrays["logits"] = floats(said[0])
        tell(Sheet(plain, arrays))

    @property
    def _sae(self) -> Autoencoder:
        if self.subject.sae is None:
            raise BadInput("There is no autoencoder.", hint=self.missing)
        return self.subject.sae

    def _asked(self, wanted: Wanted) -> tuple[int, int, int]:
        found = self.activations()
        token = int(wanted.get("token", len(found) - 1))
        top = min(max(int(wanted.get("top", 10)), 1), found.shape[-1])
        if token not in range(len(found)):
            raise BadInput(
                f"There is no position {token}.", hint=f"There are {len(found)} tokens, from 0."
            )
        feature = wanted.get("feature")
        if feature is None or feature == "":
            feature = found[token].argmax()
        if not str(int(feature)).isdigit() or int(feature) >= found.shape[-1]:
            raise BadInput(
                f"There is no feature {feature}.", hint=f"There are {found.shape[-1]}, from 0."
            )
        return token, int(feature), top

    def activations(self) -> torch.Tensor:
        """`[pos, feature]`."""
        if self._activations is None:
            subject, sae = self.subject, self._sae
            first = subject.given.pos - len(subject.ids)
            with subject.model.trace(subject.given, execute=False) as tracer:
                resid = subject.model.layers[sae.layer].output[subject.row, first:].float()
                tracer.save(resid=resid)
            resid = subject.run(tracer.graph)["resid"]
            with torch.no_grad():
                self._activations = encoded(coders_of(sae.module)[0], resid)
        return self._activations

    def _says(self, feature: int, top: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The logits of a feature's direction and their tokens, best first; None without decoder."""
        key = (feature, top)
        if key not in self._said:
            direction = self._direction(feature)
            if direction is None:
                return None
            subject = self.subject
            model = subject.model
            with model.trace(subject.given, execute=False) as tracer:
                logits, ids = model.lm_head(model.norm(direction)).float().topk(top)
                tracer.save(logits=logits, ids=ids)
            run = subject.run(tracer.graph)
            self._said[key] = run["logits"], run["ids"]
        return self._said[key]

    def _direction(self, feature: int) -> torch.Tensor | None:
        """What a feature adds to the stream, `[d_model]`."""
        decode = coders_of(self._sae.module)[1]
        if decode is None:
            return None
        both = torch.zeros(2, self.activations().shape[-1])
        both[1, feature] = 1
        with torch.no_grad():
            none, one = decoded(decode, both)
        found: torch.Tensor = one - none
        return found

    def code(self, wanted: Wanted) -> str:
        """The autoencoder recorded with the stream, so that its features can also be edited."""
        subject, sae = self.subject, self._sae
        token, feature, top = self._asked(wanted)
        encode, decode = _calls(sae)
        first = subject.given.pos - len(subject.ids)
        common = {"lm": subject.name, "top": top, "feature": feature}
        to, like = _aligned(sae)
        body = _CODE.format(
            layer=sae.layer, row=subject.row, first=first, encode=encode, token=token, to=to,
            **common,
        )  # fmt: skip
        names: tuple[str, ...] = _NAMES
        if decode:
            count = self.activations().shape[-1]
            body += _SAYS.format(decode=decode, count=count, like=like, **common)
            names += _NAMES_OF_WORDS
        return self._cell(body, "-s", ",".join(names))

    def figure(self, wanted: Wanted) -> LabFigure:
        """A bar at each token: the activation of the chosen feature."""
        from nnsight_lab.jupyter.explorer.pictures import bars_figure

        _, feature, _ = self._asked(wanted)
        numbers = self.activations()[:, feature].tolist()
        return bars_figure(numbers, self.subject.tokens, f"feature {feature}")


def _aligned(sae: Autoencoder) -> tuple[str, str]:
    """What makes the stream numbers of the autoencoder's kind, and options of new ones, as Python.

    Inside a trace its weights go where the model is; what is no recorded value stays here.
    """
    like = weights_like(sae.module)
    if like is None:
        return "", ""
    kind = "" if like.dtype == torch.float32 else f", dtype={like.dtype}"
    device = "" if like.device.type == "cpu" else f", device={str(like.device)!r}"
    return f".to({like.dtype})" if kind else "", kind + device


def _calls(sae: Autoencoder) -> tuple[str, str]:
    """How to encode `feature_stream` and to decode `feature_codes`, as Python."""
    name, module = sae.name, sae.module
    if callable(getattr(module, "encode", None)):
        decodes = getattr(module, "decode", None) is not None
        return f"{name}.encode(feature_stream)", f"{name}.decode(feature_codes)" if decodes else ""
    a_mapping = isinstance(module, Mapping)

    def weight(key: str) -> str:
        return f"{name}[{key!r}]" if a_mapping else f"{name}.{key}"

    def known(key: str) -> bool:
        return key in module if a_mapping else hasattr(module, key)

    shifted = f"(feature_stream - {weight('b_dec')})" if known("b_dec") else "feature_stream"
    encode = f"torch.relu({shifted} @ {weight('W_enc')} + {weight('b_enc')})"
    offset = f" + {weight('b_dec')}" if known("b_dec") else ""
    decode = f"(feature_codes @ {weight('W_dec')}{offset})" if known("W_dec") else ""
    return encode, decode
