"""Gradients: read at a layer, and edited on their way back."""

from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())
prompt = "The capital of France is"

with model.trace(prompt):
    first = model.transformer.h[0].output
    last = model.transformer.h[-1].output
    loss = model.lm_head.output[0, -1].logsumexp(-1)
    with loss.backward():
        last_grad = last.grad.save()
        first_grad = first.grad.save()

with model.trace(prompt):
    first = model.transformer.h[0].output
    last = model.transformer.h[-1].output
    loss = model.lm_head.output[0, -1].logsumexp(-1)
    with loss.backward():
        last.grad = last.grad * 2
        doubled = first.grad.save()

with model.trace(prompt):
    hidden = model.transformer.h[1].output
    logits = model.lm_head.output
    one, two = logits[0, -1, 3], logits[0, -1, 5]
    with one.backward(retain_graph=True):
        grad_one = hidden.grad.clone().save()
    with two.backward():
        grad_two = hidden.grad.clone().save()

results = {
    "last_grad": last_grad,
    "first_grad": first_grad,
    "doubled": doubled,
    "grad_one": grad_one,
    "grad_two": grad_two,
}
