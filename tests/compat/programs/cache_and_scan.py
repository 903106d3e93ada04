"""Many modules at once, and shapes without a run."""

import torch
from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())
prompt = "The capital of France is"

with model.trace(prompt) as tracer:
    cache = tracer.cache(modules=[model.transformer.h[0].mlp, model.transformer.h[1]])
    model.transformer.h[0].mlp.output[:] = 0

with model.trace(prompt) as tracer:
    everything = tracer.cache()

with model.trace(prompt) as tracer:
    halves = tracer.cache(
        modules=[model.transformer.h[2]], dtype=torch.float16, include_inputs=True
    )

with model.scan(prompt):
    width = model.transformer.h[0].output.shape[-1].save()
    shape = tuple(model.lm_head.output.shape).save()

results = {
    "keys": sorted(cache.keys()),
    "mlp": cache["model.transformer.h.0.mlp"].output,
    "block": cache.model.transformer.h[1].output,
    "short": cache.transformer.h[1].output,
    "inside": "model.transformer.h.1" in cache,
    "all": everything["model.transformer.h.2.attn.c_proj"].output,
    "head": everything["model.lm_head"].output,
    "half": halves["model.transformer.h.2"].output,
    "given": halves["model.transformer.h.2"].input,
    "width": width,
    "shape": shape,
}
