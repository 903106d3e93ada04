"""Values of many places, read in the order of the model, of a GPT-2."""

import nnsight
import torch
from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())

with model.trace("The capital of France is"):
    embedded = model.transformer.wte.output.save()
    block_in = model.transformer.h[0].input.save()
    attention = model.transformer.h[0].attn.output[0].save()
    mlp = model.transformer.h[0].mlp.output.save()
    hidden = nnsight.save(model.transformer.h[1].output)
    last = model.transformer.h[-1].output[:, -1].save()
    head = model.lm_head.output.save()
    logits = model.output.logits.save()

with model.trace("The capital of France is"):
    pair = (model.transformer.ln_f.input * 2, model.lm_head.output.argmax(-1))
    doubled, best = pair
    doubled = doubled.save()
    best = best.save()

with model.trace(model.tokenizer("The capital of France is", return_tensors="pt")):
    again = model.lm_head.output.save()

results = {
    "embedded": embedded,
    "block_in": block_in,
    "attention": attention,
    "mlp": mlp,
    "hidden": hidden,
    "last": last,
    "head": head,
    "logits": logits,
    "doubled": doubled,
    "best": best,
    "again": again,
    "kinds": [isinstance(value, torch.Tensor) for value in (embedded, logits, best)],
}
