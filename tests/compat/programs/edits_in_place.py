"""Edits: in place, by replacement, of an input, of one row of a tuple; a clone saved before."""

import torch
from nnsight import LanguageModel

from tests.compat.random_models import llama, tokenizer

model = LanguageModel(llama(), tokenizer=tokenizer())
prompt = "The capital of France is"

with model.trace(prompt):
    before = model.model.layers[0].output.clone().save()
    model.model.layers[0].output[:] = 0
    after = model.model.layers[0].output.save()
    zeroed = model.lm_head.output.save()

with model.trace(prompt):
    model.model.layers[1].mlp.output = model.model.layers[1].mlp.output * 2
    doubled = model.output.logits.save()

with model.trace(prompt):
    model.model.layers[1].self_attn.output[0][:, -1] = 0
    ablated = model.lm_head.output.save()

with model.trace(prompt):
    model.model.layers[2].input = model.model.layers[2].input + 1
    shifted = model.lm_head.output.save()

with model.trace(prompt):
    model.model.layers[1].output += torch.ones(32)
    steered = model.lm_head.output.save()

clean = model.trace(prompt, trace=False).logits

results = {
    "before": before,
    "after": after,
    "zeroed": zeroed,
    "doubled": doubled,
    "ablated": ablated,
    "shifted": shifted,
    "steered": steered,
    "clean": clean,
}
