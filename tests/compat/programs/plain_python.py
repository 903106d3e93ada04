"""Ordinary Python in a block: a branch on a value, a loop, a helper function, numbers."""

from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())
prompt = "The capital of France is"


def normalised(value):
    return value / value.norm(dim=-1, keepdim=True)


with model.trace(prompt):
    hidden = model.transformer.h[0].output
    if hidden.norm() > 1:
        model.transformer.h[1].output[:] *= 0.5
    else:
        model.transformer.h[1].output[:] *= 2.0
    direction = normalised(hidden).save()
    logits = model.lm_head.output.save()

with model.trace(prompt):
    best = model.lm_head.output[0, -1].argmax().item()
    token = best.save()
    shape = model.lm_head.output.shape.save()

with model.trace(prompt):
    norms = dict().save()
    for index, layer in enumerate(model.transformer.h):
        norms[index] = layer.output.norm()

results = {
    "direction": direction,
    "logits": logits,
    "token": token,
    "shape": tuple(shape),
    "norms": {index: float(norm) for index, norm in norms.items()},
}
