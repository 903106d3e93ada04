"""Prompts that are ids: a list, a tensor, names of their own, a mask."""

import torch
from nnsight import TransformersModel

from tests.compat.random_models import gpt2, tokenizer

model = TransformersModel(gpt2(), tokenizer=tokenizer(), task="text-generation")
ids = [5, 6, 7, 8]

with model.trace(torch.tensor([ids])):
    tensor = model.lm_head.output.save()

with model.trace(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, 4, dtype=torch.long)):
    named = model.lm_head.output.save()

with model.trace(ids):
    plain = model.lm_head.output.save()

with model.trace() as tracer:
    with tracer.invoke({"input_ids": torch.tensor([ids])}):
        mapping = model.lm_head.output.save()

with model.generate(torch.tensor([ids]), max_new_tokens=2, do_sample=False) as tracer:
    generated = tracer.result.save()

results = {
    "tensor": tensor,
    "named": named,
    "plain": plain,
    "mapping": mapping,
    "generated": generated,
}
