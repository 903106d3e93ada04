"""Edits that are stored: on a copy, in place, taken back."""

from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())
prompt = "The capital of France is"

with model.edit() as (tracer, edited):
    edited.transformer.h[1].mlp.output[:] = 0

with model.trace(prompt):
    clean = model.lm_head.output.save()

with edited.trace(prompt):
    changed = edited.lm_head.output.save()

with model.edit(inplace=True) as tracer:
    model.transformer.h[0].output[:, -1] = 1

with model.trace(prompt):
    in_place = model.lm_head.output.save()

model.clear_edits()

with model.trace(prompt):
    cleared = model.lm_head.output.save()

results = {"clean": clean, "changed": changed, "in_place": in_place, "cleared": cleared}
