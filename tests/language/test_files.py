"""Experiments are files: `run.save(path)`, and `nl.load(path)` to look at it and run it again.

The page: `docs/reference/files.md`.
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadBytes, BadInput, LimitExceeded, NotSupported, NotTrusted
from nnsight_lab.ir import files
from nnsight_lab.models.experiment import ExperimentDiffers
from tests.support.lines import assert_at
from tests.support.tensors import assert_exactly

PROMPT = "The capital of France is"
GRAPHS = Path(__file__).parents[1] / "ir" / "graphs"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "experiment.nnlab"


def steered(lm: nl.LanguageModel, prompt: Any = PROMPT) -> nl.Run:
    direction = torch.linspace(-1, 1, 128)
    with lm.trace(prompt) as tracer:
        h = lm.layers[1].output
        h[:, -1] += 3 * direction
        tracer.save(logits=lm.logits)
    return tracer.run


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path: Path, **changes: Any) -> None:
    """The same file with another manifest."""
    parts = parts_of(path)
    parts["manifest.json"] = json.dumps({**json.loads(parts["manifest.json"]), **changes}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def test_a_run_is_saved_and_runs_again_with_its_inputs(tiny: nl.LanguageModel, path: Path) -> None:
    run = steered(tiny)

    experiment = nl.load(run.save(path))

    assert experiment.graph == run.graph
    assert experiment.inputs == run.inputs
    assert experiment.prompt == PROMPT
    assert experiment.model is not None
    assert (experiment.model.name, experiment.model.dtype) == ("tiny", "float32")
    assert set(experiment.versions) == {"nnsight-lab", "torch", "transformers"}
    assert_exactly(experiment.run(tiny)["logits"], run["logits"])
    assert_exactly(experiment.run()["logits"], run["logits"])  # loads the model by its name
    other = experiment.run(tiny, "The capital of Italy is")
    assert not torch.equal(other["logits"], run["logits"])


def test_it_runs_on_a_server_as_well(
    tiny: nl.LanguageModel, served: nl.LanguageModel, path: Path
) -> None:
    run = steered(served)

    assert_exactly(nl.load(run.save(path)).run(tiny)["logits"], steered(tiny)["logits"])
    assert_exactly(nl.load(path).run(served)["logits"], run["logits"])


def test_it_prints_what_is_in_it(tiny: nl.LanguageModel, path: Path) -> None:
    text = repr(nl.load(steered(tiny).save(path)))

    assert "<Experiment on tiny: " in text
    assert f"inputs: {PROMPT!r}" in text
    assert "saves: logits" in text
    assert f"torch {version('torch')}" in text


def test_several_prompts_are_kept(tiny: nl.LanguageModel, path: Path) -> None:
    with tiny.trace() as tracer:
        with tracer.invoke(PROMPT):
            one = tiny.logits.save()
        with tracer.invoke(["Paris is", "Rome is the capital of"]):
            two = tiny.logits.save()

    again = nl.load(tracer.run.save(path)).run(tiny)

    assert_exactly(again["one"], one)
    assert_exactly(again["two"], two)


def test_what_was_only_recorded_is_saved_too(tiny: nl.LanguageModel, path: Path) -> None:
    with tiny.trace(PROMPT, execute=False) as tracer:
        tracer.save(logits=tiny.logits)

    again = nl.load(tracer.experiment.save(path)).run(tiny)

    assert_exactly(again["logits"], tiny.run(tracer.graph, PROMPT)["logits"])


def test_a_graph_alone_is_a_file_without_inputs(tiny: nl.LanguageModel, path: Path) -> None:
    run = steered(tiny)

    experiment = nl.load(run.graph.save(path))

    assert experiment.graph == run.graph
    assert experiment.inputs is None
    assert_exactly(experiment.run(tiny, PROMPT)["logits"], run["logits"])
    with pytest.raises(BadInput, match="without inputs"):
        experiment.run(tiny)


def test_a_wrapped_modules_arguments_are_kept(path: Path) -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, *, scale: dict[str, Any]) -> torch.Tensor:
            result: torch.Tensor = self.line(x) * scale["by"]
            return result

    net = nl.wrap(Scaled())
    with net.trace(torch.arange(6.0).reshape(2, 3), scale={"by": torch.tensor(2.0)}) as tracer:
        out = net.line.output.save()
        tracer.save(whole=net.output)

    experiment = nl.load(tracer.run.save(path))

    assert_exactly(experiment.run(net)["out"], out)
    assert_exactly(experiment.run(net)["whole"], out * 2)
    with pytest.raises(BadInput, match="does not name a model"):
        experiment.run()


def test_the_same_experiment_is_the_same_file(tiny: nl.LanguageModel, tmp_path: Path) -> None:
    run = steered(tiny)

    one, two = run.save(tmp_path / "one"), run.save(tmp_path / "two")

    assert one.read_bytes() == two.read_bytes()


def test_a_graph_of_an_older_schema_still_loads() -> None:
    old = GRAPHS / "schema-1.nnlg"

    assert nl.load(old).graph == nl.Graph.from_bytes(old.read_bytes())


# Local functions


def test_local_functions_are_kept_and_read_only_when_trusted(
    tiny: nl.LanguageModel, path: Path
) -> None:
    factor = 3.0
    with tiny.trace(PROMPT) as tracer:
        more = nl.local_fn(lambda h: h * factor)(tiny.layers[0].output).save()
    tracer.run.save(path)

    with pytest.raises(NotTrusted, match=r"\(function\)") as caught:
        nl.load(path)  # not trusted
    assert_at(caught.value, "not trusted")

    experiment = nl.load(path, trust=True)
    assert list(experiment.functions) == ["function"]
    assert_exactly(experiment.run(tiny)["more"], more)


def test_a_graph_saved_alone_holds_no_functions(tiny: nl.LanguageModel, path: Path) -> None:
    with tiny.trace(PROMPT) as tracer:
        nl.local_fn(abs)(tiny.logits).save()

    experiment = nl.load(tracer.graph.save(path))

    assert experiment.functions == {}
    with pytest.raises(NotSupported, match="which is not here"):
        experiment.run(tiny, PROMPT)


def test_a_function_that_cannot_be_written_down_is_refused(
    tiny: nl.LanguageModel, path: Path
) -> None:
    import threading

    lock = threading.Lock()
    with tiny.trace(PROMPT) as tracer:
        nl.local_fn(lambda h: (h, lock.locked()))(tiny.logits).save()

    with pytest.raises(NotSupported, match="cannot be saved") as caught:
        tracer.run.save(path)  # a lock

    assert_at(caught.value, "a lock")
    assert not path.exists()


# What differs


def test_other_versions_are_told(tiny: nl.LanguageModel, path: Path) -> None:
    steered(tiny).save(path)
    rewritten(path, versions={"torch": "1.0.0"})

    with pytest.warns(ExperimentDiffers, match=r"torch 1\.0\.0, here 2"):
        nl.load(path)


def test_another_model_is_told(tiny: nl.LanguageModel, lm: nl.LanguageModel, path: Path) -> None:
    with lm.trace([[1, 2, 3]]) as tracer:
        tracer.save(logits=lm.logits)
    experiment = nl.load(tracer.run.save(path))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        experiment.run(lm)
    with pytest.warns(ExperimentDiffers, match="not the model this was recorded on"):
        experiment.run(tiny)


# Bad files


def test_what_is_no_experiment_is_refused_at_the_users_line(path: Path) -> None:
    with pytest.raises(BadInput) as missing:
        nl.load(path)  # no file
    assert_at(missing.value, "no file")

    for data in (b"", b"PK\x03\x04 nearly", pickle.dumps({"a": 1}), b"NNLGxxxx"):
        path.write_bytes(data)
        with pytest.raises(BadBytes) as caught:
            nl.load(path)  # no experiment
        assert_at(caught.value, "no experiment")


def test_a_newer_file_says_so(tiny: nl.LanguageModel, path: Path) -> None:
    steered(tiny).save(path)
    rewritten(path, format=files.FORMAT + 1)

    with pytest.raises(BadBytes, match="reads up to format 1"):
        nl.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"kind": "tokens", "rows": [["a"]]}},
        {"inputs": {"kind": "other"}},
        {"inputs": {"kind": "tokens"}},
        {"inputs": {"kind": "module", "args": ["t", ["r", 0]], "kwargs": ["d"], "tensors": []}},
        {"inputs": {"kind": "module", "args": ["t"], "kwargs": ["d"],
                    "tensors": [["float32", [2**40]]]}},
        {"inputs": [1]},
        {"model": {"nonsense": 1}},
        {"versions": 3},
        {"format": "1"},
    ],
)  # fmt: skip
def test_a_changed_manifest_is_refused(
    tiny: nl.LanguageModel, path: Path, change: dict[str, Any]
) -> None:
    steered(tiny).save(path)
    rewritten(path, **change)

    with pytest.raises(BadBytes):
        nl.load(path)


def test_nothing_is_unpacked_or_read_beyond_the_limits(tiny: nl.LanguageModel, path: Path) -> None:
    steered(tiny).save(path)
    with pytest.raises(LimitExceeded):
        nl.load(path, limits=nl.ir.Limits(bytes=100))

    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts_of(path).items():
            archive.writestr(name, data)
    path.write_bytes(held.getvalue())
    with pytest.raises(BadBytes, match="compressed"):
        nl.load(path)


def test_a_part_that_does_not_belong_is_refused(tiny: nl.LanguageModel, path: Path) -> None:
    steered(tiny).save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../elsewhere", b"x")

    with pytest.raises(BadBytes, match="no saved experiment has"):
        nl.load(path)
