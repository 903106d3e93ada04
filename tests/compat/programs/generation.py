"""Generation: a value for each step, an edit at one step, an edit at all, the ids at the end."""

import nnsight
from nnsight import LanguageModel

from tests.compat.random_models import llama, tokenizer

model = LanguageModel(llama(), tokenizer=tokenizer())
prompt = "The capital of France is"

with model.generate(prompt, max_new_tokens=4) as tracer:
    logits = list().save()
    for step in tracer.iter[0:4]:
        logits.append(model.lm_head.output[:, -1])
    ids = tracer.result.save()

with model.generate(prompt, max_new_tokens=4) as tracer:
    hidden = nnsight.save([])
    for step in tracer.iter[1:3]:
        model.model.layers[1].output[:] = 0
        hidden.append(model.model.layers[2].output)

with model.generate(prompt, max_new_tokens=4) as tracer:
    for step in tracer.iter[:4]:
        model.model.layers[0].output[:, -1] += 3
    steered = tracer.result.save()

with model.generate(prompt, max_new_tokens=3) as tracer:
    shapes = [].save()
    for step in tracer.iter[:3]:
        if step == 1:
            model.model.layers[1].mlp.output[:] = 0
        shapes.append(model.model.layers[0].output.shape[1])
    one_step = tracer.result.save()

text = model.tokenizer.decode(ids[0])

results = {
    "logits": logits,
    "ids": ids,
    "hidden": hidden,
    "steered": steered,
    "shapes": shapes,
    "one_step": one_step,
    "text": text,
}
