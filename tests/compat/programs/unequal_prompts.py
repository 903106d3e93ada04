"""Prompts of unequal length, as invokes and as a batch: what is said of the last position."""

from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())
short, long = "The capital is", "The capital of France is the city of"

with model.trace() as tracer:
    with tracer.invoke(short):
        model.transformer.h[0].output[:, -1] = 0
        one = model.lm_head.output[:, -1].save()
    with tracer.invoke(long):
        two = model.lm_head.output[:, -1].save()
    with tracer.invoke():
        padded = model.lm_head.output.save()

with model.trace([short, long]):
    both = model.lm_head.output[:, -1].save()

results = {"one": one, "two": two, "both": both, "padded": tuple(padded.shape)}
