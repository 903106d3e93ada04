"""`run.to_python()`: the experiment as plain PyTorch with hooks, which runs without us.

What is printed runs in a Python that cannot import this package, and gives the run's numbers.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, NotSupported
from nnsight_lab.ir import Address, Block, Call, Cond, Foreach, Graph, Output, Param, Read, Ref
from nnsight_lab.ir import Skip, While
from tests.language.plain_programs import IDS, PROGRAMS, run_elsewhere
from tests.support.family_models import family_model
from tests.support.lines import assert_at
from tests.support.tensors import assert_exactly, assert_same

MODELS = ("tiny", "gpt2", "gemma2", "bloom")
PROMPT = "The capital of France is"

Found = dict[str, tuple[nl.Run, dict[str, torch.Tensor], str]]


@pytest.fixture(scope="module", params=MODELS)
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Every program on one model: our run, what its printed form gave elsewhere, and its text."""
    name = request.param
    lm = nl.LanguageModel("tiny" if name == "tiny" else family_model(name).module)
    runs = {one: program(lm).run for one, program in PROGRAMS.items()}
    texts = {one: run.to_python() for one, run in runs.items()}
    gave = run_elsewhere(tmp_path_factory.mktemp(name), texts, lm.module)
    return {one: (runs[one], gave[one], texts[one]) for one in PROGRAMS}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_printed_program_gives_the_runs_numbers(printed: Found, program: str) -> None:
    run, gave, text = printed[program]

    assert run, "it saves something"
    assert set(gave) == set(run)
    for name in run:
        assert_same(gave[name], run[name])
    assert "nnsight_lab" not in text.partition('"""\n\n')[2].replace("nnsight_lab/models", "")
