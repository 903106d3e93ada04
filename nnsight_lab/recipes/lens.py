"""logit_lens: what each layer would say if it were the last (nostalgebraist, 2020).

The residual stream after each block goes through the final norm and the unembedding, inside the
trace, so only the top few tokens of each place travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import Graph
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run

__all__ = ["LogitLens", "logit_lens"]


@dataclass(frozen=True)
class LogitLens:
    """The lens of one prompt.

    tokens: the prompt, one string a position.
    layers: row names, `embed` (before block 0), then `0`, `1`, … (after each block).
    probabilities, ids: `[layer, pos, top]`, best first. entropy: `[layer, pos]`, in nats.
    words: `[layer][pos][top]`, the tokens of `ids` as text.
    """

    tokens: list[str]
    layers: list[str]
    probabilities: torch.Tensor
    ids: torch.Tensor
    entropy: torch.Tensor
    words: list[list[list[str]]]


def _graph(model: LanguageModel, prompt: Any, top: int) -> Graph:
    with model.trace(prompt, execute=False) as tracer:
        stream = [model.layers[0].input, *(layer.output for layer in model.layers)]
        found = [_read_through_unembedding(model, resid, top) for resid in stream]
        parts = [torch.stack(part) for part in zip(*found, strict=True)]
        tracer.save(probabilities=parts[0], ids=parts[1], entropy=parts[2])
    return tracer.graph


def _read_through_unembedding(model: LanguageModel, resid: Any, top: int) -> tuple[Any, Any, Any]:
    logits = model.lm_head(model.norm(resid)).float()
    log_probs = logits.log_softmax(-1)
    values, ids = log_probs.topk(top, dim=-1)
    return values.exp(), ids, -(log_probs.exp() * log_probs).sum(-1)


def logit_lens(
    source: LanguageModel | Run, prompt: Any = None, *, top: int = 5, row: int = 0
) -> LogitLens:
    """Read every layer's residual stream through the unembedding.

    source: a model, with a `prompt`; or a run, whose prompt and edits are used.
    top: how many tokens to keep for each layer and position. row: which prompt of a batch.

    Raises:
        NotSupported: the model has no standard names for its layers.
    """
    model = source.model if isinstance(source, Run) else source
    if not isinstance(model, LanguageModel) or not model.card.layers:
        raise NotSupported(
            f"{model.name} has no standard names, so its layers cannot be found.",
            hint="Trace it by module path: model.lm_head(model.norm(h)).",
        )
    given = source.inputs if isinstance(source, Run) else model.tokenize(prompt)
    graph = _graph(model, given, top)
    run = source.then(graph) if isinstance(source, Run) else model.run(graph, given)
    return _as_lens(model, run, row)


def _as_lens(model: LanguageModel, run: Run, row: int) -> LogitLens:
    tokens = model.token_strings(run.inputs)[row]
    probabilities, ids, entropy = (
        run[name][:, row, -len(tokens) :] for name in ("probabilities", "ids", "entropy")
    )
    words = [[[model.token_string(id) for id in top] for top in place] for place in ids.tolist()]
    layers = ["embed", *(str(index) for index in range(model.card.layers))]
    return LogitLens(tokens, layers, probabilities, ids, entropy, words)
