"""Stopping the model early, and leaving out a layer."""

from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())
prompt = "The capital of France is"

with model.trace(prompt) as tracer:
    hidden = model.transformer.h[0].output.save()
    tracer.stop()

with model.trace(prompt):
    model.transformer.h[1].skip(model.transformer.h[1].input)
    skipped = model.lm_head.output.save()

results = {"hidden": hidden, "skipped": skipped}
