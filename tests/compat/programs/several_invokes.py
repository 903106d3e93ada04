"""Several prompts of one length in one trace; values flow from one to another; a barrier."""

from nnsight import LanguageModel

from tests.compat.random_models import llama, tokenizer

model = LanguageModel(llama(), tokenizer=tokenizer())
clean_prompt = "The capital of France is"
corrupted_prompt = "The capital of Italy is"

with model.trace() as tracer:
    barrier = tracer.barrier(2)

    with tracer.invoke(clean_prompt):
        clean_hidden = model.model.layers[1].output[:, -1, :]
        barrier()
        clean_logits = model.lm_head.output.save()

    with tracer.invoke(corrupted_prompt):
        barrier()
        model.model.layers[1].output[:, -1, :] = clean_hidden
        patched_logits = model.lm_head.output.save()

    with tracer.invoke(corrupted_prompt):
        corrupted_logits = model.lm_head.output.save()

    with tracer.invoke():
        every = model.lm_head.output.save()

with model.trace([clean_prompt, corrupted_prompt]):
    batch = model.lm_head.output.save()

results = {
    "clean": clean_logits,
    "patched": patched_logits,
    "corrupted": corrupted_logits,
    "every": every,
    "batch": batch,
}
