"""A direction from two prompts, added to the residual stream while a text is generated."""

from nnsight import LanguageModel

from tests.compat.random_models import llama, tokenizer

model = LanguageModel(llama(), tokenizer=tokenizer())

with model.trace() as tracer:
    with tracer.invoke("I love this city"):
        pleased = model.model.layers[1].output[:, -1].save()
    with tracer.invoke("I hate this city"):
        annoyed = model.model.layers[1].output[:, -1].save()

direction = (pleased - annoyed).squeeze(0)

with model.generate("The capital of France is", max_new_tokens=5) as tracer:
    for step in tracer.iter[:5]:
        model.model.layers[1].output += 4 * direction
    steered = tracer.result.save()

with model.generate("The capital of France is", max_new_tokens=5) as tracer:
    plain = tracer.result.save()

results = {"direction": direction, "steered": steered, "plain": plain, "length": plain.shape[1]}
