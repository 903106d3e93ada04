"""A vLLM in this process to be compared with Hugging Face, and what came of it, once a family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any

import torch

from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.certificate import Certificate
from nnsight_lab_server.vllm.certify import certified
from nnsight_lab_server.vllm.probe import edited_logits
from nnsight_lab_server.vllm.reference import reference_of
from nnsight_lab_server.vllm.survey import Edit, Survey, read_surveys
from tests.support.family_models import FAMILY_NAMES, FamilyModel, family_model
from tests.support.vllm_llm import vllm_running
from tests.support.vllm_models import D_HEAD, vllm_model

__all__ = ["EDITED", "PROMPT", "Compared", "InProcess", "by_hand_model", "compared", "in_process"]

PROMPT = (5, 17, 3, 58, 29, 44, 11, 71, 2)
EDITED = ("embed.output", "layers.1.output", "layers.1.attn.output", "layers.1.mlp.output")
_SALTS = count()
# The one a server gives its workers: vLLM keeps it on its class, so a second one would not fit.
_EXTENSION = "nnsight_lab_server.vllm.extension.LabWorker"


class InProcess:
    """An `LLM` of vLLM as a `SurveyedEngine`."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def call(self, method: str, *args: Any) -> Any:
        return self.llm.collective_rpc(method, args=args)[0]

    def forward(self, prompt: Sequence[int], *, times: int = 1, tokens: int = 1) -> None:
        from vllm import SamplingParams, TokensPrompt

        prompts = [
            TokensPrompt(prompt_token_ids=list(prompt), cache_salt=f"survey {next(_SALTS)}")
            for _ in range(times)
        ]
        greedy = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        self.llm.generate(prompts, greedy, use_tqdm=False)


@contextmanager
def in_process(name: str) -> Iterator[InProcess]:
    """One of `VLLM_NAMES` in vLLM, to be looked at."""
    room = {"max_num_batched_tokens": 512, "max_num_seqs": 16}
    with vllm_running(name, worker_extension_cls=_EXTENSION, **room) as running:
        yield InProcess(running.llm)


@dataclass(frozen=True)
class Compared:
    """What came of comparing a family.

    survey: vLLM's pass of `PROMPT`. after: its logits after `shift` is added at each name of
    `EDITED`, at positions 1 and -1.
    """

    executor: LocalExecutor
    certificate: Certificate
    survey: Survey
    after: dict[str, torch.Tensor]
    shift: dict[str, torch.Tensor]


@cache
def compared(name: str) -> Compared:
    """One of `VLLM_NAMES`, compared once; vLLM is gone when this returns."""
    hf, _ = vllm_model(name)
    executor = LocalExecutor(hf, name=name)
    reference = reference_of(executor)
    with in_process(name) as engine:
        certificate = certified(reference, engine)
        engine.call("lab_survey_begin")
        engine.forward(PROMPT)
        (survey,) = read_surveys(engine.call("lab_survey_end"))
        after, shift = {}, {}
        for place in EDITED:
            path, _, port = place.rpartition(".")
            form = certificate.forms.get(Address(path, port))
            if form is not None:
                shift[place] = torch.randn(
                    2, *form.shape, generator=torch.Generator().manual_seed(3)
                )
                edit = Edit(form, (1, len(PROMPT) - 1), shift[place])
                every = torch.arange(hf.config.vocab_size)
                after[place] = edited_logits(engine, PROMPT, [edit], every)[0]
    return Compared(executor, certificate, survey, after, shift)


def by_hand_model(name: str) -> FamilyModel:
    """Where the parts of one of `VLLM_NAMES` are, as written down by hand for its family."""
    like = family_model(name) if name in FAMILY_NAMES else family_model("llama")
    hf, _ = vllm_model(name)
    return replace(like, module=hf, d_head=D_HEAD)
