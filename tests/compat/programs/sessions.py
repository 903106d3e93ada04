"""A session: values flow from one trace to the next without being saved."""

from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())

with model.session():
    with model.trace("The capital of France is"):
        hidden = model.transformer.h[1].output

    with model.trace("The capital of Italy is"):
        model.transformer.h[1].output[:, -1] = hidden[:, -1]
        patched = model.lm_head.output.save()

    norms = [].save()
    for layer in range(3):
        with model.trace("one two three"):
            norms.append(model.transformer.h[layer].output.norm())

results = {"patched": patched, "norms": norms}
