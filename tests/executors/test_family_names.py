"""`lm.names`: checked when a model loads, said clearly, and never a wrong value."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers

import nnsight_lab as nl
from nnsight_lab.errors import AddressNotFound, LabError
from nnsight_lab.executors.families import names_in_tree
from nnsight_lab.ir import Address
from nnsight_lab.wire.limits import WireLimits
from nnsight_lab.wire.trees import decode_card, encode_card
from tests.support.family_hooks import names_of
from tests.support.family_models import FAMILY_NAMES, LAYERS, VOCAB, family_model
from tests.support.hooks import forward, outputs_seen
from tests.support.tensors import assert_differs, assert_exactly

IDS = [[5, 17, 3, 42, 8, 29]]


def _names(model: nl.LanguageModel) -> set[str]:
    return {f"{at.path}.{at.port}".lstrip(".") for at in model.names.verified}


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_known_family_has_its_names_verified(name: str) -> None:
    small = family_model(name)
    model = nl.LanguageModel(small.module)

    assert _names(model) == set(names_of(small))
    missing = {f"{at.path}.{at.port}" for at, _ in model.names.missing}
    neurons = {f"layers.{i}.mlp.neurons" for i in small.experts}
    assert missing == neurons | (set() if small.norm else {"norm.input", "norm.output"})
    assert len(model.names.problems) == (0 if small.norm else 1)


def test_names_print_as_a_small_table() -> None:
    shown = repr(nl.LanguageModel(family_model("qwen2_moe").module).names)
    reason = (
        "  not here: layers[i].mlp.neurons (layers 1, 2): "
        "Qwen2MoeSparseMoeBlock has no module 'down_proj'"
    )

    assert shown.splitlines() == [
        "<standard names of Qwen2MoeForCausalLM, family qwen2_moe>",
        "  embed           .input .output",
        "  layers[i]       .input .output",
        "  layers[i].attn  .input .q .k .v .pattern .z .output",
        "  layers[i].mlp   .input .neurons (layers 0) .output",
        "  norm            .input .output",
        "  lm_head         .input .output",
        "                  .logits",
        reason,
    ]


def test_what_is_between_the_last_layer_and_the_logits_is_told() -> None:
    """OPT-350m has no final norm, and projects before it unembeds."""
    names = nl.LanguageModel(family_model("opt-350m").module).names
    assert "something between the last layer and lm_head" in names.problems[0]


@pytest.mark.parametrize(
    ("family", "ask", "offered"),
    [
        ("mixtral", lambda lm: lm.layers[1].mlp.neurons, "experts"),
        ("opt-350m", lambda lm: lm.norm.output, "lm_head"),
        ("mixtral", lambda lm: lm.layers[0].attn.scores, "o_proj"),
    ],
)
def test_a_name_a_model_lacks_is_an_error_that_says_what_is_there(
    family: str, ask: Any, offered: str
) -> None:
    model = nl.LanguageModel(family_model(family).module)
    with pytest.raises(AddressNotFound) as caught, model.trace(IDS):
        ask(model)
    assert offered in caught.value.hint
    assert ("print(lm.names)" in caught.value.hint) == ("scores" not in str(caught.value))


def _codegen() -> Any:
    config = transformers.CodeGenConfig(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.CodeGenForCausalLM(config).eval()


def test_an_unknown_family_says_so_and_works_by_module_path() -> None:
    module = _codegen()
    model = nl.LanguageModel(module)

    shown = repr(model.names)
    assert shown.startswith("<no standard names for model_type 'codegen' (CodeGenForCausalLM);")
    assert "e.g. lm.transformer.h[0]" in shown
    assert "known families: llama, mistral," in shown
    assert _names(model) == {"logits"}

    with model.trace(IDS):
        hidden = model.transformer.h[0].mlp.output.save()
        before = model.logits.save()
    with model.trace(IDS):
        model.transformer.h[0].mlp.output *= 2.0
        after = model.logits.save()
    path = "transformer.h.0.mlp"
    assert_exactly(hidden, outputs_seen(module, IDS, path)[path])
    assert_exactly(before, forward(module, IDS))
    assert_differs(after, before)


def test_a_standard_name_on_an_unknown_family_points_to_the_report() -> None:
    model = nl.LanguageModel(_codegen())
    with pytest.raises(AddressNotFound, match=r"print\(lm.names\)"), model.trace(IDS):
        _ = model.layers[0].output


def _llama() -> Any:
    return copy.deepcopy(family_model("llama").module)


def test_a_pattern_the_model_does_not_go_by_is_not_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The family's eager code scales scores in another way than the attention that runs."""
    module = _llama()
    for layer in module.model.layers:
        layer.self_attn.scaling *= 4
    home = transformers.models.llama.modeling_llama
    eager = home.eager_attention_forward

    def other(*args: Any, scaling: float, **options: Any) -> Any:
        return eager(*args, scaling=scaling / 4, **options)

    monkeypatch.setattr(home, "eager_attention_forward", other)
    model = nl.LanguageModel(module)
    assert not any(name.endswith(".pattern") for name in _names(model))
    assert (
        "goes by another pattern" in dict(model.names.missing)[Address("layers.0.attn", "pattern")]
    )
    assert "layers.0.attn.q" in _names(model)
    with pytest.raises(AddressNotFound), model.trace(IDS):
        _ = model.layers[0].attn.pattern


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda pattern: pattern * 1.5, "do not sum to 1"),
        (lambda pattern: torch.full_like(pattern, 1 / pattern.shape[-1]), "later positions"),
        (lambda pattern: pattern / 0.0, "not numbers"),
    ],
)
def test_a_pattern_that_is_none_is_not_served(
    change: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = transformers.models.llama.modeling_llama
    eager = home.eager_attention_forward

    def other(*args: Any, **options: Any) -> Any:
        output, pattern = eager(*args, **options)
        return output, change(pattern)

    monkeypatch.setattr(home, "eager_attention_forward", other)
    names = nl.LanguageModel(_llama()).names
    assert reason in dict(names.missing)[Address("layers.2.attn", "pattern")]


def test_a_name_of_another_shape_is_not_served() -> None:
    """A block with a wider mlp is fine; a configuration that lies about its heads is not."""
    module = _llama()
    module.config.num_attention_heads = 2
    model = nl.LanguageModel(module)
    missing = {at: reason for at, reason in model.names.missing if at.path == "layers.0.attn"}
    assert {at.port for at in missing} == {"q", "z", "pattern"}
    assert all("was expected" in reason for reason in missing.values())
    assert "layers.0.attn.k" in _names(model)


def test_a_stream_that_leads_nowhere_is_not_served() -> None:
    """An edit of the residual stream must reach the logits."""
    module = _llama()
    module.lm_head.weight.data.zero_()
    model = nl.LanguageModel(module)
    reason = dict(model.names.missing)[Address("layers.0", "output")]
    assert reason == "an edit of it does not reach the logits"
    assert "layers.0.output" not in _names(model)
    assert "layers.0.input" in _names(model)
    assert ".output" not in repr(model.layers[0])
    with pytest.raises(AddressNotFound, match=r"print\(lm.names\)"), model.trace(IDS):
        _ = model.layers[0].output
    with model.trace(IDS):
        by_path = model.model.layers[0].output.save()
    path = "model.layers.0"
    assert_exactly(by_path, outputs_seen(module, IDS, path)[path])


def test_a_model_its_row_does_not_fit_works_by_module_path() -> None:
    """Somebody's own architecture under a well-known model type."""
    module = _codegen()
    module.config.model_type = "llama"
    model = nl.LanguageModel(module)
    assert _names(model) == {"lm_head.input", "lm_head.output", "logits"}
    reasons = {reason for _, reason in model.names.missing}
    assert "no module 'model.norm'" in reasons
    assert "no module 'model.layers'" in reasons
    with model.trace(IDS):
        hidden = model.transformer.h[0].output[0].save()
    assert hidden.shape == (1, 6, 32)


def test_names_that_cannot_be_taken_out_are_told() -> None:
    """A number of heads that does not divide what the projection is given."""
    module = _llama()
    module.config.num_attention_heads = 5
    model = nl.LanguageModel(module)
    assert "standard names do not fit this model" in model.names.problems[0]
    with model.trace(IDS):
        hidden = model.model.layers[0].output.save()
    assert hidden.shape == (1, 6, 32)


@pytest.mark.parametrize("chosen", ["eager", "sdpa"])
def test_an_attention_that_cannot_be_met_is_named(chosen: str) -> None:
    """Falcon writes its own attention; only torch's call in it can be met."""
    config = copy.deepcopy(family_model("falcon-7b").module.config)
    module = transformers.FalconForCausalLM._from_config(config, attn_implementation=chosen)
    names = nl.LanguageModel(module.eval()).names
    found = {at.port: reason for at, reason in names.missing if at.path == "layers.0.attn"}
    assert set(found) == ({"q", "k", "v", "pattern"} if chosen == "eager" else set())
    assert all("load with 'sdpa'" in reason for reason in found.values())


@pytest.mark.parametrize("name", ["llama", "gemma2", "gptj", "falcon-40b", "opt", "bloom"])
@pytest.mark.parametrize("fails", [False, True])
def test_checking_and_running_leave_no_trace(name: str, fails: bool) -> None:
    """Hooks, methods, configuration and training flags are as they were."""
    module = copy.deepcopy(family_model(name).module).train()
    before = _state(module)
    model = nl.LanguageModel(module)
    assert model.names.verified
    assert _state(module) == before
    with model.trace(IDS, execute=False) as tracer:
        for place in (model.layers[1].attn.q, model.layers[1].attn.pattern):
            place.sum().save()
        model.layers[1].mlp.input.sum().save()
        if fails:
            torch.linalg.inv(model.layers[1].attn.pattern * 0.0).save()
    if fails:
        with pytest.raises(LabError):
            model.run(tracer.graph, IDS)
    else:
        assert len(model.run(tracer.graph, IDS)) == 3
    assert _state(module) == before


def _state(module: Any) -> list[Any]:
    return [
        repr(module.config),
        module.config._attn_implementation,
        *(
            (
                path,
                part.training,
                sorted(vars(part)),
                len(part._forward_hooks),
                len(part._forward_pre_hooks),
            )
            for path, part in module.named_modules()
        ),
    ]


def test_loading_takes_few_small_forward_passes() -> None:
    """Four to measure the tree, three to check its names, ten to measure how it decodes.

    Of the four, two are without the eyes inside attention, to see what modules are given.
    """
    module = _llama()
    calls: list[int] = []
    module.register_forward_pre_hook(
        lambda _, __, given: calls.append(given["input_ids"].numel()), with_kwargs=True
    )
    model = nl.LanguageModel(module)
    assert model.names.verified
    assert len(calls) == 17
    assert max(calls) <= 21
    _ = model.names, model.card, model.names
    assert len(calls) == 17


def test_a_tree_alone_tells_its_names() -> None:
    """What a client of a server knows: names that are there, and that others are not."""
    model = nl.LanguageModel(family_model("qwen2_moe").module)
    names = names_in_tree(model.card.tree, "Qwen2MoeForCausalLM")
    assert set(names.verified) == set(model.names.verified)
    assert {at for at, _ in names.missing} == {at for at, _ in model.names.missing}
    assert repr(names).startswith("<standard names of Qwen2MoeForCausalLM>")
    sent = decode_card(encode_card(model.card), WireLimits()).tree
    assert names_in_tree(sent, "Qwen2MoeForCausalLM") == names
    flat = nl.LanguageModel(family_model("opt").module)
    assert set(names_in_tree(flat.card.tree, "").verified) == set(flat.names.verified)


def test_calling_a_block_of_its_own_wakes_nothing_inside() -> None:
    """q of the model's own pass, not of a block called out of its order."""
    model = nl.LanguageModel(family_model("gpt2").module)
    with model.trace(IDS):
        model.layers[2](model.layers[0].output)
        q = model.layers[2].attn.q.save()
    with model.trace(IDS):
        alone = model.layers[2].attn.q.save()
    assert LAYERS == 3
    assert_exactly(q, alone)
