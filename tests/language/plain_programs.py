"""Experiments that are printed as plain PyTorch, and the process that runs what was printed.

`PROGRAMS` are traces on any model with standard names. `run_elsewhere` runs their printed form in a
Python that cannot import this package, and gives what each program gave.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import nnsight_lab as nl
from nnsight_lab.tracing import Tracer

__all__ = ["PROGRAMS", "run_elsewhere"]

Program = Callable[[nl.LanguageModel], Tracer[nl.Run]]

IDS = [[5, 17, 3, 42, 8, 29]]
ROWS = [[5, 17, 3, 42, 8, 29], [7, 9, 11]]


def reads(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace(IDS) as tracer:
        embed = lm.embed.output
        mid, attn = lm.layers[1].output, lm.layers[1].attn.output
        tracer.save(embed=embed, mid=mid, attn=attn, into=lm.layers[1].attn.input)
        tracer.save(mlp=lm.layers[0].mlp.output, neurons=lm.layers[0].mlp.neurons)
        tracer.save(z=lm.layers[0].attn.z, norm=lm.norm.output, logits=lm.logits)
    return tracer


def edits_on_views_of_views(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace(IDS) as tracer:
        h = lm.layers[0].output
        direction = torch.linspace(-2, 2, h.shape[-1])
        before = h.save()
        last = h[:, -2:]
        last[:, 0] += direction
        h.transpose(1, 2)[:, :3, 1] = 0.5
        last.mul_(2)
        h[:] = -h
        lm.layers[1].mlp.output[:, -1] = h[:, 0]
        lm.layers[1].attn.z[:, :, 0] *= 0.0
        lm.layers[1].mlp.neurons[..., ::2] = 0
        tracer.save(before=before, h=h, logits=lm.logits)
    return tracer


def inputs_are_edited(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace(IDS) as tracer:
        lm.layers[1].input = lm.layers[1].input * 0.5
        lm.layers[1].attn.input[:, 2] = 0
        lm.norm.input[:, -1] += 1
        tracer.save(logits=lm.logits)
    return tracer


def several_invokes(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace() as tracer:
        with tracer.invoke([7, 9, 11]):
            clean = lm.layers[0].output[:, -1]
            one = lm.logits
        with tracer.invoke(ROWS):
            h = lm.layers[0].output
            h[:, -1] = clean
            h[1, -2] *= 3
            two = lm.logits
        with tracer.invoke():
            every = lm.layers[1].output
        tracer.save(clean=clean, one=one, two=two, every=every)
    return tracer


def a_padded_batch(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace(ROWS) as tracer:
        tracer.save(logits=lm.logits, last=lm.layers[1].output[:, -1])
    return tracer


def a_logit_lens(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace(IDS) as tracer:
        for layer in range(3):
            h = lm.layers[layer].output
            top = lm.lm_head(lm.norm(h))[:, -1].softmax(-1).topk(3)
            tracer.save(**{f"top_{layer}": top.values, f"ids_{layer}": top.indices})
        tracer.save(norm=lm.norm.output)  # a hook on what is called by hand above
    return tracer


def weights(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace(IDS) as tracer:
        gain = lm.norm.weight
        unembedding = lm.lm_head.weight
        tracer.save(gain=gain, row=unembedding[3], direct=lm.layers[1].output @ unembedding.T)
    return tracer


def many_operations(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace(IDS) as tracer:
        h = lm.layers[1].output
        tracer.save(reflected=2 - h, power=(-2.5) ** h[..., :4].abs(), floor=h // 0.5, neg=-h)
        tracer.save(where=torch.where(h > 0, h, torch.tensor(float("-inf"))), ne=~(h != h[0, 0]))
        tracer.save(einsum=torch.einsum("bpd,bqd->bpq", h, h), double=h.to(torch.float64) + 1)
        tracer.save(
            cat=torch.cat([h, h * 0.1], dim=-1), turned=h.mT.reshape(-1)[:7], ids=[1][0] + h
        )
        tracer.save(norm=torch.nn.functional.layer_norm(h, h.shape[-1:]), picked=h[:, [0, 2, 2]])
        counts = (h > 0).sum(-1)
        counts += 1
        tracer.save(counts=counts, sorted=h.sort(dim=-1, descending=True).values, std=h.std(-1))
        tracer.save(ones=h + torch.ones(h.shape), few=h[..., :3] * torch.tensor([0.1, -2.0, 3e-8]))
    return tracer


def patterns(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace(IDS) as tracer:
        pattern = lm.layers[1].attn.pattern
        tracer.save(pattern=pattern, plain=lm.layers[0].attn.pattern)
        pattern[:, 0] = 0
        pattern[:, 0, :, 0] = 1
        tracer.save(logits=lm.logits)
    return tracer


def queries_keys_values(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace(ROWS) as tracer:
        attn = lm.layers[1].attn
        tracer.save(q=attn.q, k=attn.k)
        attn.q[:, -1] *= 2
        attn.v[:, :, 0] = 0
        tracer.save(v=attn.v, logits=lm.logits)
    return tracer


def patterns_of_invokes(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace() as tracer:
        with tracer.invoke([7, 9, 11]):
            one = lm.layers[0].attn.q
        with tracer.invoke(IDS):
            lm.layers[0].attn.q[:, -1] = one[:, -1]
            tracer.save(one=one, two=lm.logits)
    return tracer


def gradients(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace(IDS) as tracer:
        first, mid, z = lm.embed.output, lm.layers[1].output, lm.layers[1].attn.z
        logits = lm.logits
        loss = logits[0, -1, 7] - logits[0, -1, 9]
        with loss.backward():
            tracer.save(first=first.grad, mid=mid.grad, z=z.grad, by=(mid.grad * mid).sum(-1))
        logits[0, -1].logsumexp(-1).backward()
        tracer.save(other=mid.grad, loss=loss, weight=lm.norm.weight)
    return tracer


def gradients_of_invokes(lm: nl.LanguageModel) -> Tracer[nl.Run]:
    with lm.trace() as tracer:
        with tracer.invoke([7, 9, 11]):
            one = lm.layers[1].output
            one_logit = lm.logits[0, -1, 5]
        with tracer.invoke(IDS):
            two = lm.layers[1].output
            two[:, -1] *= 2
            total = one_logit + lm.logits[0, -1, 5]
        total.backward()
        tracer.save(one=one.grad, two=two.grad)
    return tracer


PROGRAMS: dict[str, Program] = {
    made.__name__: made
    for made in (
        reads, edits_on_views_of_views, inputs_are_edited, several_invokes, a_padded_batch,
        a_logit_lens, weights, many_operations, patterns, queries_keys_values,
        patterns_of_invokes, gradients, gradients_of_invokes,
    )
}  # fmt: skip

_DRIVER = """
import runpy, sys
from pathlib import Path
sys.modules["nnsight_lab"] = None  # importing it would fail
import torch, transformers
folder = Path(sys.argv[1])
model = transformers.AutoModelForCausalLM.from_pretrained(
    folder / "model", dtype=torch.float32, attn_implementation=sys.argv[2]
).eval()
for path in sorted(folder.glob("*.py")):
    torch.save(runpy.run_path(str(path))["run"](model), path.with_suffix(".pt"))
assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
assert all(weight.grad is None for weight in model.parameters())
"""


def run_elsewhere(
    folder: Path, texts: dict[str, str], module: Any
) -> dict[str, dict[str, torch.Tensor]]:
    """What printed programs give on this model, in a process without this package."""
    module.save_pretrained(folder / "model")
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    attends = module.config._attn_implementation
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(folder), attends],
        cwd=folder,
        env=plain,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: torch.load(folder / f"{name}.pt") for name in texts}
