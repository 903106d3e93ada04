"""How vLLM is started: what a file may say, and what comes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnsight_lab.errors import NotSupported
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.offered import served_model
from nnsight_lab_server.vllm import driver
from nnsight_lab_server.vllm.options import VllmOptions


def test_a_file_says_how_vllm_is_started(tmp_path: Path) -> None:
    file = tmp_path / "vllm.toml"
    file.write_text(
        'tensor = 2\npipeline = 2\nbackend = "ray"\ncontext = 4096\nkv_cache_gib = 0.5\n'
        "[engine]\ngpu_memory_utilization = 0.8\n"
    )
    options = VllmOptions.from_file(file)
    arguments = options.arguments("a/model", on_gpu=True)

    assert options.ranks == 4
    assert arguments["tensor_parallel_size"] == 2
    assert arguments["pipeline_parallel_size"] == 2
    assert arguments["distributed_executor_backend"] == "ray"
    assert arguments["max_model_len"] == 4096
    assert arguments["kv_cache_memory_bytes"] == 2**29
    assert arguments["gpu_memory_utilization"] == 0.8
    assert arguments["trust_remote_code"] is False


def test_it_is_compiled_on_a_gpu_and_eager_elsewhere_unless_chosen() -> None:
    plain = VllmOptions()

    assert plain.arguments("m", on_gpu=True)["enforce_eager"] is False
    assert plain.arguments("m", on_gpu=False)["enforce_eager"] is True
    assert VllmOptions(eager=False).arguments("m", on_gpu=False)["enforce_eager"] is False


def test_workers_on_a_cpu_are_given_cores_of_their_own() -> None:
    bound = VllmOptions(tensor=2).environment(on_gpu=False)

    assert bound["VLLM_CPU_OMP_THREADS_BIND"] == "0|1"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in VllmOptions(tensor=2).environment(on_gpu=True)
    assert "VLLM_CPU_OMP_THREADS_BIND" not in VllmOptions().environment(on_gpu=False)


@pytest.mark.parametrize(
    "text",
    [
        "tensor = ",
        "tensors = 2",
        "[engines]\nx = 1",
        'tensor = "two"',
        "tensor = true",
        "context = -4",
        "concurrency = 0",
        'eager = "no"',
        "dtype = 16",
        "engine = 3",
    ],
)
def test_a_file_that_says_something_else_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "vllm.toml"
    file.write_text(text)

    with pytest.raises(NotSupported) as caught:
        VllmOptions.from_file(file)

    assert caught.value.hint


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match=r"cannot be read"):
        VllmOptions.from_file(tmp_path / "none.toml")


def test_an_engine_is_started_with_its_own_limits_and_an_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit, level = "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", "VLLM_LOGGING_LEVEL"
    monkeypatch.setattr(driver, "_OURS", {})
    monkeypatch.delenv(limit, raising=False)
    monkeypatch.setenv(level, "INFO")
    for seconds in (120, 15):
        driver.prepare(VllmOptions(step_s=seconds), processes=True)
        assert os.environ[limit] == str(seconds)
    assert os.environ[level] == "INFO"
    monkeypatch.setenv(limit, "7")
    driver.prepare(VllmOptions(step_s=99), processes=True)
    assert os.environ[limit] == "7"


def test_an_argument_that_vllm_does_not_have_is_refused_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    file = tmp_path / "vllm.toml"
    file.write_text("[engine]\nmax_num_seq = 3\n")

    with pytest.raises(NotSupported, match="no argument max_num_seq,") as caught:
        served_model("no-such-model", "no-such-model", Settings(), engine="vllm", file=file)
    assert "max_num_seqs" in caught.value.hint
    file.write_text("[engine]\nmax_num_seqs = 3\n")
    served_model("no-such-model", "no-such-model", Settings(), engine="vllm", file=file)
