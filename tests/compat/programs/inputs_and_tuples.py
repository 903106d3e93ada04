"""All inputs of a module; outputs that are tuples, read and rebuilt."""

from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())
prompt = "The capital of France is"

with model.trace(prompt):
    args, kwargs = model.transformer.h[1].mlp.inputs
    given = args[0].save()

with model.trace(prompt):
    args, kwargs = model.transformer.h[1].mlp.inputs
    model.transformer.h[1].mlp.inputs = ((args[0] * 3,), kwargs)
    tripled = model.lm_head.output.save()

with model.trace(prompt):
    attention, pattern = model.transformer.h[1].attn.output
    attention = attention.save()
    pattern = pattern.save()

with model.trace(prompt):
    out = model.transformer.h[1].attn.output
    model.transformer.h[1].attn.output = (out[0] * 0, *out[1:])
    removed = model.lm_head.output.save()

with model.trace(prompt):
    model.output[0][:] = 0
    blank = model.output.logits.save()

results = {
    "given": given,
    "tripled": tripled,
    "attention": attention,
    "pattern": pattern,
    "removed": removed,
    "blank": blank,
}
