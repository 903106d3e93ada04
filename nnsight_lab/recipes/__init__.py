"""Ready experiments, written on the public API only: each gives data that draws itself.

    lens.py           logit_lens: what each layer would say if it were the last
    tuned.py          tuned_lens: the same, with a learned map in front
    attention.py      attention_pattern: where each head of a layer looks
    induction.py      induction_scores: what kind each head is
    patching.py       activation_patching: which activation carries the answer
    attribution.py    attribution_patching: the same, estimated from one gradient
    direct_logits.py  direct_logit_attribution: what each head and MLP says by itself
    steering.py       steering_vector: a direction between two kinds of prompts, and text along it
    probes.py         linear_probe: what can be read off the stream
    features.py       sae_features: what a sparse autoencoder sees
    norms.py          norms_and_directions: how long the stream is, and where it points

What they are made of: result.py (data that draws itself), prompt.py (what they are given),
metric.py and places.py (what patching measures, and where), streams.py (the stream of many
prompts), readout.py (the final norm and the unembedding), cancelling.py (an end from outside).

They take a model and a prompt, or a run, whose edits they keep; local and remote models alike.
"""

from nnsight_lab.recipes.attention import AttentionPattern, attention_pattern
from nnsight_lab.recipes.attribution import attribution_patching
from nnsight_lab.recipes.cancelling import Cancel
from nnsight_lab.recipes.direct_logits import DirectLogits, direct_logit_attribution
from nnsight_lab.recipes.features import SaeFeatures, sae_features
from nnsight_lab.recipes.induction import InductionScores, induction_scores
from nnsight_lab.recipes.lens import LogitLens, logit_lens
from nnsight_lab.recipes.norms import StreamGeometry, norms_and_directions
from nnsight_lab.recipes.patching import (
    PatchedRow,
    Patching,
    activation_patching,
    patching_rows,
)
from nnsight_lab.recipes.probes import LinearProbe, linear_probe
from nnsight_lab.recipes.result import Result
from nnsight_lab.recipes.steering import (
    SteeredText,
    SteeredTexts,
    SteeringVector,
    steered_texts,
    steering_vector,
    texts_one_by_one,
)
from nnsight_lab.recipes.tuned import TunedLens, tuned_lens

__all__ = [
    "AttentionPattern",
    "Cancel",
    "DirectLogits",
    "InductionScores",
    "LinearProbe",
    "LogitLens",
    "PatchedRow",
    "Patching",
    "Result",
    "SaeFeatures",
    "SteeredText",
    "SteeredTexts",
    "SteeringVector",
    "StreamGeometry",
    "TunedLens",
    "activation_patching",
    "attention_pattern",
    "attribution_patching",
    "direct_logit_attribution",
    "induction_scores",
    "linear_probe",
    "logit_lens",
    "norms_and_directions",
    "patching_rows",
    "sae_features",
    "steered_texts",
    "steering_vector",
    "texts_one_by_one",
    "tuned_lens",
]
