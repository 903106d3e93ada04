"""What the pages of the language do, they do on vLLM: the same numbers, or a reason before they run.

All programs of `tests/language` are run there in a process of their own, and each run of theirs once
more on vLLM (`tests/support/on_vllm.py`): with room for all its tokens in one step of the engine,
and with so little that prompts come in chunks. How many are refused, and why, is counted here, so that
less cannot come to be done unseen. Pages on gradients are left out: vLLM has none, and torch's
backward may stand still in a process whose threads vLLM has bound.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODELS = {"small": ("llama or gpt2", 500), "tiny": ("not llama and not gpt2", 200)}
"""For the models of the pages, which tests they are of, and how many runs are equal at least."""
EVERY = os.environ.get("NNSIGHT_LAB_FAMILIES") == "all"
RUNS = [("small", 8), ("small", 2048), ("tiny", 8), ("tiny", 2048)] if EVERY else [("small", 8)]
WAIT_S = 600
REASONS = (
    "computes no gradients",
    "not padded on vLLM",
    "has no source",
    "there is no source of it",
    "local only",
    "cannot be edited in a generation",
    "cannot be called",
    "is not served here",
    "two names of one place",
)
"""Why a run may be refused that is done here."""


@pytest.mark.slow
@pytest.mark.timeout(2 * WAIT_S)
@pytest.mark.parametrize(("models", "budget"), RUNS)
def test_programs_are_the_same_on_vllm_or_refused(tmp_path: Path, models: str, budget: int) -> None:
    told, (chosen, least) = tmp_path / "told.jsonl", MODELS[models]
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/language",
        "--ignore=tests/language/test_cheap.py", "-k", f"({chosen}) and not gradient",
    ]  # fmt: skip
    given = {"LAB_ON_VLLM": str(budget), "LAB_ON_VLLM_TOLD": str(told)}
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert told.exists(), ran.stdout[-4000:]
    outcomes = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]

    wrong = [outcome for outcome in outcomes if outcome["what"] == "wrong"]
    assert not wrong, wrong
    done = Counter(outcome["what"] for outcome in outcomes)
    assert done["equal"] >= least, done
    refused = [outcome for outcome in outcomes if outcome["what"] == "refused"]
    assert refused
    known = re.compile("|".join(map(re.escape, REASONS)))
    assert not [each for each in refused if not known.search(each["why"])]
