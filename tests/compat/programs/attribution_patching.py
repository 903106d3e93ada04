"""Attribution patching: a first-order estimate of every patch from two forward passes."""

from nnsight import LanguageModel

from tests.compat.random_models import llama, tokenizer

model = LanguageModel(llama(), tokenizer=tokenizer())
clean_prompt = "The capital of France is"
corrupted_prompt = "The capital of Italy is"

clean_values = []
with model.trace(clean_prompt):
    for layer in model.model.layers:
        clean_values.append(layer.self_attn.o_proj.input.save())

corrupted_values, corrupted_grads = [], []
with model.trace(corrupted_prompt):
    kept = []
    for layer in model.model.layers:
        value = layer.self_attn.o_proj.input
        kept.append(value)
        corrupted_values.append(value.save())
    loss = model.lm_head.output[0, -1].max()
    with loss.backward():
        for value in reversed(kept):
            corrupted_grads.append(value.grad.save())

corrupted_grads = corrupted_grads[::-1]
effects = [
    (grad * (clean - corrupted)).reshape(1, -1, 4, 8).sum(dim=(0, 3))
    for clean, corrupted, grad in zip(clean_values, corrupted_values, corrupted_grads)
]

results = {"effects": effects}
