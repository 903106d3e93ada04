"""What a recording writes down: constants once, lines of the user, names in reach."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.ir import Constant
from nnsight_lab.tracing.source import is_ours, user_line
from tests.support.fixtures import IDS
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_exactly


def _constants(graph: nl.Graph) -> list[Constant]:
    return [node for node in graph if isinstance(node, Constant)]


def test_the_same_tensor_is_one_constant(lm: nl.LanguageModel) -> None:
    direction = torch.ones(32)
    with lm.trace(IDS) as tracer:
        for layer in lm.layers:
            layer.output[:, -1] += direction
        lm.logits.save()
    assert len(_constants(tracer.graph)) == 1


def test_a_tensor_changed_in_between_is_another_constant(lm: nl.LanguageModel) -> None:
    """What counts is the value at the line, not what the tensor became later."""
    direction = torch.ones(32)
    with lm.trace(IDS) as tracer:
        first = (lm.layers[0].output * 0 + direction).save()
        direction *= 3
        second = (lm.layers[0].output * 0 + direction).save()
    direction *= 100
    assert len(_constants(tracer.graph)) == 2
    assert_exactly(first, torch.ones(1, 6, 32))
    assert_exactly(second, torch.full((1, 6, 32), 3.0))


def test_every_kind_of_tensor_can_be_a_constant(lm: nl.LanguageModel) -> None:
    """Parameters, tensors of inference mode, views, scalars, arrays."""
    with torch.inference_mode():
        inferred = torch.full((32,), 2.0)
    kinds: list[Any] = [
        torch.nn.Parameter(torch.full((32,), 2.0)), inferred, torch.full((64,), 2.0)[::2],
        torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64), torch.full((32, 1), 2.0).T,
        np.full(32, 2.0, dtype=np.float32), np.float32(2.0), 2, 2.0,
    ]  # fmt: skip
    with lm.trace(IDS):
        h = lm.layers[0].output.save()
        doubled = [(h * kind).save() for kind in kinds]
        reversed_ = [(kind * h).save() for kind in kinds]
    for value in (*doubled, *reversed_):
        assert_exactly(value, h * 2.0)


def test_each_node_knows_the_line_it_was_written_on(llama: SmallModel) -> None:
    lm = nl.LanguageModel(llama.module)
    with lm.trace(IDS) as tracer:
        top = lm.layers[0].output.topk(2)
        first = top.values.sum().save()
    here = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert first.dim() == 0
    for node in tracer.graph:
        assert node.where is not None
        assert node.where.file == __file__
        assert node.where.text == here[node.where.line - 1].strip()
    lines = [node.where.line for node in tracer.graph if node.where is not None]
    assert len(set(lines)) == 2


def test_a_users_folder_that_is_named_like_ours_is_the_users() -> None:
    home = Path(nl.__file__).parent
    assert is_ours(str(home / "ir" / "graph.py"))
    assert not is_ours(str(home) + "_experiments/probe.py")
    assert not is_ours(__file__)
    line = user_line()
    assert line is not None
    assert (line.file, line.line) == (__file__, sys._getframe().f_lineno - 2)


def test_names_can_be_listed_and_shown(lm: nl.LanguageModel) -> None:
    """For completion in a notebook: modules, standard names and ports, without a run."""
    assert {"layers", "embed", "norm", "logits", "trace", "run"} <= set(dir(lm))
    assert {"output", "input", "attn", "mlp"} <= set(dir(lm.layers[0]))
    assert {"q", "k", "v", "z", "pattern"} <= set(dir(lm.layers[0].attn))
    shown = repr(lm.layers[0].attn)
    assert ".pattern: float32[batch, 4, pos, pos]" in shown
    assert "3 layers" in repr(lm)
    assert len(list(lm.layers)) == 3
    assert not hasattr(lm.layers[0], "nothing")
    assert hasattr(lm.layers[0], "attn")


@pytest.mark.parametrize("count", [1, 40])
def test_a_value_may_be_used_any_number_of_times(lm: nl.LanguageModel, count: int) -> None:
    """One read in the graph, however often the place is named."""
    with lm.trace(IDS) as tracer:
        total = sum(lm.layers[0].output * k for k in range(count + 1))
        saved = total.save()
        h = lm.layers[0].output.save()
    assert len(tracer.graph.reads()) == 1
    torch.testing.assert_close(saved, h * (count * (count + 1) / 2))
