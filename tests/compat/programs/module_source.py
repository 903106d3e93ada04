"""An operation inside a module's forward."""

from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())

with model.trace("The capital of France is"):
    inner = model.transformer.h[0].mlp.source.self_act_0.output.save()
    logits = model.lm_head.output.save()

results = {"inner": inner, "logits": logits}
