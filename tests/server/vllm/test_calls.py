"""Modules called out of their order and weights read on vLLM are those of Hugging Face.

The oracle is the Hugging Face module itself, called with the same tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from nnsight_lab.errors import NotSupported, ShapeMismatch
from tests.support.vllm_models import D_MODEL, TESTED_NAMES, VOCAB, vllm_model

pytest.importorskip("vllm")

from nnsight_lab_server.vllm.calling import samples_from_bytes, samples_to_bytes
from nnsight_lab_server.vllm.calls import Sample, VllmCalls, samples_of
from nnsight_lab_server.vllm.checkpoint import Checkpoint
from tests.support.vllm_llm import RunningModel, vllm_running

TOKENS = torch.tensor([[3, 14, 15, 92, 65, 35], [27, 18, 28, 45, 90, 1]])
LAYER = 1
UNCALLABLE = {
    "qwen2_moe": {"mlp.shared_expert"},  # vLLM's goes through its gate as well
}
"""Modules of a layer that take a tensor and give one, and that vLLM has not as they are."""


@dataclass(frozen=True)
class Checked:
    """A model in vLLM whose calls were compared, and by how much each is off."""

    running: RunningModel
    calls: VllmCalls
    samples: dict[str, Sample]
    off: dict[str, float]
    name: str


def paths_of(hf: Any) -> list[str]:
    """Every module outside the layers, and those of one layer."""
    names = [name for name, _ in hf.named_modules() if name]
    return [name for name in names if not {"0", "2"} & set(name.split("."))]


def test_samples_come_in_the_same_order_in_every_process() -> None:
    """Workers that share a model compare module after module, together."""
    paths = [f"layers.{number}" for number in range(12)]
    sent = samples_to_bytes({path: (torch.ones(2), torch.ones(3)) for path in paths})
    assert [*samples_from_bytes(sent)] == sorted(paths)


@pytest.fixture(scope="module", params=TESTED_NAMES)
def checked(request: pytest.FixtureRequest) -> Iterator[Checked]:
    hf, _ = vllm_model(request.param)
    samples = samples_of(hf, TOKENS, paths_of(hf))
    with vllm_running(request.param) as running:
        calls = VllmCalls(running.model, running.llm.llm_engine.vllm_config)
        yield Checked(running, calls, samples, calls.check(samples), request.param)


@torch.no_grad()
def test_every_module_that_takes_a_tensor_gives_what_hugging_face_gives(checked: Checked) -> None:
    """With other numbers, and another number of rows, than the check has seen."""
    draw = torch.Generator().manual_seed(5)
    called = []
    for path, (given, _) in checked.samples.items():
        if any(path.endswith(part) for part in UNCALLABLE.get(checked.name, ())):
            continue
        if given.is_floating_point():
            # OPT gives its matrices flat rows.
            inner = given.shape[2:] if given.dim() > 2 else given.shape[1:]
            value = torch.randn(3, 5, *inner, generator=draw)
        else:
            value = (given + 1) % VOCAB
        before = value.clone()
        found = checked.calls.apply(path, (value,), {})
        expected = checked.running.hf.get_submodule(path)(value)
        assert torch.equal(value, before), "what a module was given is as it was"
        torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-5, msg=path)
        called.append(path)
    assert len(called) > 8
    assert "lm_head" in called


def test_a_module_that_vllm_has_not_is_refused_with_the_difference(checked: Checked) -> None:
    wrong = UNCALLABLE.get(checked.name, set())
    for part in wrong:
        path = next(path for path in checked.samples if path.endswith(part))
        assert checked.off[path] > 1e-3
        with pytest.raises(NotSupported, match=r"off|has none like it"):
            checked.calls.apply(path, checked.samples[path][:1], {})
    assert all(path in checked.calls.routes for path, off in checked.off.items() if off < 1e-5)


def test_every_weight_is_the_one_of_hugging_face(checked: Checked) -> None:
    """But for experts, which transformers stacks when it loads them."""
    refused = []
    for name, expected in checked.running.hf.state_dict().items():
        path, _, leaf = name.rpartition(".")
        try:
            found = checked.calls.weight(path, leaf)
        except NotSupported:
            refused.append(name)
            continue
        assert torch.equal(found, expected), name
    assert all(".mlp.experts." in name for name in refused)


# One engine at a time: the models of a process share vLLM's parallel groups.
on_llama = pytest.mark.parametrize("checked", ["llama"], indirect=True)
on_mixtral = pytest.mark.parametrize("checked", ["mixtral"], indirect=True)


@on_llama
@torch.no_grad()
def test_the_logit_lens_reads_any_residual_stream(checked: Checked) -> None:
    hf = checked.running.hf
    draw = torch.Generator().manual_seed(6)
    for shape in ((D_MODEL,), (4, D_MODEL), (2, 3, 4, D_MODEL)):
        value = torch.randn(shape, generator=draw)
        if len(shape) == 1:
            value = value[None]
        normed = checked.calls.apply("model.norm", (value,), {})
        found = checked.calls.apply("lm_head", (), {"input": normed})
        assert found.shape == (*value.shape[:-1], VOCAB)
        torch.testing.assert_close(found, hf.lm_head(hf.model.norm(value)), atol=1e-5, rtol=0)


@on_llama
def test_a_call_wakes_no_hook_that_asks(checked: Checked) -> None:
    asked: list[bool] = []
    inner = checked.running.model.model.layers[LAYER].mlp.down_proj
    handle = inner.register_forward_hook(lambda *_: asked.append(checked.calls.silent))
    checked.calls.apply(f"model.layers.{LAYER}.mlp", (torch.ones(2, D_MODEL),), {})
    handle.remove()
    assert asked == [True]
    assert not checked.calls.silent


@on_mixtral
@torch.no_grad()
def test_experts_called_within_a_step_do_not_put_the_step_out_of_order(checked: Checked) -> None:
    """vLLM counts which experts are next; a call in between must not be counted."""
    path = f"model.layers.{LAYER}.mlp"
    given, expected = checked.samples[path]
    found: list[torch.Tensor] = []
    prompt = TOKENS[0].tolist()
    clean = checked.running.generate(prompt, 6)

    def call(*_: Any) -> None:
        found.append(checked.calls.apply(path, (given,), {}))

    first = checked.running.model.model.layers[0].self_attn
    handle = first.register_forward_hook(call)
    assert checked.running.generate(prompt, 6) == clean
    handle.remove()
    assert len(found) == 6
    for each in found:
        torch.testing.assert_close(each, expected, atol=1e-5, rtol=0)


@on_llama
def test_what_needs_the_keys_of_a_request_is_refused(checked: Checked) -> None:
    for path in (f"model.layers.{LAYER}.self_attn", f"model.layers.{LAYER}", "model"):
        with pytest.raises(NotSupported, match="holds attention"):
            checked.calls.apply(path, (torch.ones(2, D_MODEL),), {})


@on_llama
def test_what_was_not_compared_is_refused(checked: Checked) -> None:
    with pytest.raises(NotSupported, match="not compared"):
        checked.calls.apply("model.layers.2.mlp", (torch.ones(2, D_MODEL),), {})
    with pytest.raises(NotSupported, match="one tensor"):
        checked.calls.apply("model.norm", (torch.ones(2, D_MODEL), 1), {})


@on_llama
def test_routes_found_once_serve_another_worker_of_the_same_model(checked: Checked) -> None:
    other = VllmCalls(checked.running.model, checked.running.llm.llm_engine.vllm_config)
    other.use(checked.calls.routes)
    path = f"model.layers.{LAYER}.self_attn.k_proj"
    given, expected = checked.samples[path]
    torch.testing.assert_close(other.apply(path, (given,), {}), expected, atol=1e-5, rtol=0)


@on_llama
def test_a_wrong_shape_never_reaches_a_kernel(checked: Checked) -> None:
    """They do not look: a row too short, or an id too high, is read past its end."""
    for path in ("model.norm", "lm_head", f"model.layers.{LAYER}.mlp"):
        with pytest.raises(ShapeMismatch, match=rf"\[\.\.\., {D_MODEL}\]"):
            checked.calls.apply(path, (torch.ones(2, D_MODEL + 32),), {})
    for ids in ([VOCAB], [-1]):
        with pytest.raises(ShapeMismatch, match="ids from 0 to 96"):
            checked.calls.apply("model.embed_tokens", (torch.tensor([ids]),), {})


def test_a_checkpoint_in_several_files_with_shorter_names_is_read_alike(tmp_path: Path) -> None:
    """As GPT-2 was published: no prefix; and as big models are: an index."""
    from safetensors.torch import load_file, save_file

    hf, folder = vllm_model("gpt2")
    saved = load_file(folder / "model.safetensors")
    bare = {key.removeprefix("transformer."): value for key, value in saved.items()}
    weight_map: dict[str, str] = {}
    for number, keys in enumerate((sorted(bare)[::2], sorted(bare)[1::2])):
        save_file({key: bare[key] for key in keys}, tmp_path / f"part-{number}.safetensors")
        weight_map |= dict.fromkeys(keys, f"part-{number}.safetensors")
    index = json.dumps({"weight_map": weight_map})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    checkpoint = Checkpoint(tmp_path, hf.config, torch.float32)
    for name, expected in hf.state_dict().items():
        assert torch.equal(checkpoint.read(name), expected), name
    half = Checkpoint(tmp_path, hf.config, torch.bfloat16)
    assert half.read("transformer.wte.weight").dtype == torch.bfloat16


def test_what_is_not_in_the_files_is_refused(tmp_path: Path) -> None:
    hf, folder = vllm_model("llama")
    checkpoint = Checkpoint(folder, hf.config, torch.float32)
    assert checkpoint.has("model.norm.weight")
    for name in ("model.rotary_emb.inv_freq", "lm_head.bias", "weight"):
        assert not checkpoint.has(name)
        with pytest.raises(NotSupported, match=name):
            checkpoint.read(name)
    with pytest.raises(NotSupported, match="no safetensors"):
        Checkpoint(tmp_path, hf.config, torch.float32).read("lm_head.weight")
