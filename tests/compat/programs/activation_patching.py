"""Activation patching: a clean run's residual stream into a corrupted one, for each layer."""

from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())
clean_prompt = "The capital of France is"
corrupted_prompt = "The capital of Italy is"
layers = range(len(model.transformer.h))

with model.trace(clean_prompt) as tracer:
    clean = [model.transformer.h[layer].output for layer in layers].save()
    clean_logits = model.lm_head.output[0, -1].save()

with model.trace(corrupted_prompt) as tracer:
    corrupted_logits = model.lm_head.output[0, -1].save()

answer, wrong = clean_logits.argmax(), corrupted_logits.argmax()
table = []
for layer in layers:
    row = []
    for position in range(clean[0].shape[1]):
        with model.trace(corrupted_prompt):
            model.transformer.h[layer].output[:, position] = clean[layer][:, position]
            logits = model.lm_head.output
            difference = (logits[0, -1, answer] - logits[0, -1, wrong]).save()
        row.append(float(difference))
    table.append(row)

results = {"clean_logits": clean_logits, "corrupted_logits": corrupted_logits, "table": table}
