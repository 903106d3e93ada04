"""A graph from anybody is checked by the rules of recording, before anything runs."""

from __future__ import annotations

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab import errors
from nnsight_lab.contract import TokenRows
from nnsight_lab.ir import Address, Apply, Call, Graph, Node, Output, Read, Ref, Weight, Write
from nnsight_lab.passes import check_graph, check_inputs, meta_of_spec
from tests.support.fixtures import IDS
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_exactly

ROWS = TokenRows(((1, 2, 3, 4), (5, 6, 7, 8)))
STREAM = Read(id=0, address=Address("layers.1"))


def _graph(*nodes: Node) -> Graph:
    return Graph((STREAM, *nodes), (Output("x", nodes[-1].id if nodes else 0),))


def test_cost_counts_the_bytes_of_what_comes_back(lm: nl.LanguageModel) -> None:
    wide = Call(id=1, op="Tensor.repeat", args=(Ref(0), 1, 1, 10))
    cost = check_graph(_graph(wide), lm.tree, ROWS)
    assert cost.saved_bytes == 2 * 4 * 320 * 4
    assert cost.peak_bytes == cost.saved_bytes + 2 * 4 * 32 * 4
    huge = Call(id=1, op="Tensor.repeat", args=(Ref(0), 10**6, 10**4, 1))
    assert check_graph(_graph(huge), lm.tree, ROWS).saved_bytes == 2 * 4 * 32 * 4 * 10**10


@pytest.mark.parametrize(("node", "kind"), [
    (Read(id=1, address=Address("layers.9")), errors.AddressNotFound),
    (Apply(id=1, path="no.module", args=(Ref(0),)), errors.AddressNotFound),
    (Weight(id=1, path="lm_head", name="wait"), errors.AddressNotFound),
    (Weight(id=1, path="lm_head", name="__class__"), errors.AddressNotFound),
    (Call(id=1, op="os.system", args=("ls",)), errors.OpNotAllowed),
    (Call(id=1, op="Tensor.add", args=(Ref(0),), kwargs=(("out", Ref(0)),)), errors.OpNotAllowed),
    (Call(id=1, op="Tensor.view", args=(Ref(0), 7)), errors.ShapeMismatch),
    (Call(id=1, op="Tensor.add"), errors.ShapeMismatch),
    (Call(id=1, op="operator.getitem"), errors.ShapeMismatch),
    (Call(id=1, op="lab.assign"), errors.ShapeMismatch),
    (Call(id=1, op="lab.set_item", args=(Ref(0), (), 0)), errors.ShapeMismatch),
    (Call(id=1, op="lab.set_item", args=(1, 2, 3, 4)), errors.ShapeMismatch),
    (Call(id=1, op="Tensor.T", args=("text",)), errors.ShapeMismatch),
    (Call(id=1, op="Tensor.to", args=(Ref(0), "cuda")), errors.OpNotAllowed),
    (Apply(id=1, path="lm_head", args=(Ref(0), Ref(0), 3)), None),
])  # fmt: skip
def test_every_wrong_node_has_its_error(
    lm: nl.LanguageModel, node: Node, kind: type[errors.LabError] | None
) -> None:
    if kind is None:
        check_graph(_graph(node), lm.tree, ROWS)
        return
    with pytest.raises(kind) as caught:
        check_graph(_graph(node), lm.tree, ROWS)
    assert caught.value.node == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_write_must_fit(lm: nl.LanguageModel, dtype: torch.dtype) -> None:
    from nnsight_lab.ir import Name

    cast = Call(id=1, op="Tensor.to", args=(Ref(0), Name("dtype", str(dtype))))
    write = Write(id=2, address=STREAM.address, value=1)
    graph = Graph((STREAM, cast, write))
    with pytest.raises(errors.ShapeMismatch, match=r"layers\.1.*cannot replace"):
        check_graph(graph, lm.tree, ROWS)
    with pytest.raises(errors.ShapeMismatch):
        lm.run(graph, IDS)


@pytest.mark.parametrize("rows", [
    (), ((),), ((1,), ()), ((61,),), ((-1,),), ((0,) * 65,), ((1, 10**9),),
])  # fmt: skip
def test_inputs_are_checked_against_the_card(
    lm: nl.LanguageModel, rows: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(errors.BadInput):
        check_inputs(lm.card, TokenRows(rows))
    with pytest.raises(errors.BadInput):
        lm.run(_graph(), TokenRows(rows))


def test_specs_follow_the_prompt(lm: nl.LanguageModel) -> None:
    """What two small runs taught holds for every batch and length."""
    for rows in (IDS, [[1, 2], [3, 4], [5, 6], [7, 8], [9, 9]], [[4] * 35]):
        sites = [site for site in lm.tree.sites if site.address.path.startswith("layers")]
        reads = tuple(Read(id=place, address=site.address) for place, site in enumerate(sites))
        graph = Graph(reads, tuple(Output(str(site.address), place)
                                   for place, site in enumerate(sites)))  # fmt: skip
        run = lm.run(graph, rows)
        for site in sites:
            expected = meta_of_spec(site.spec, len(rows), len(rows[0]))
            assert tuple(run[str(site.address)].shape) == tuple(expected.shape), site
            assert run[str(site.address)].dtype == expected.dtype


def test_then_adds_a_look_at_what_an_experiment_edited(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """Reads of edited places see the edit; places further on follow from it."""
    with lm.trace(IDS) as tracer:
        lm.layers[1].output[:, 2] = 0.0
        edited = lm.layers[1].output.save()
        logits = lm.logits.save()
    with lm.trace(IDS, execute=False) as looking:
        here = lm.layers[1].output.save()
        further = lm.logits.save()
        before = lm.layers[0].output.save()
    assert here is not further is not before
    run = tracer.run.then(looking.graph)
    assert_exactly(run["here"], edited)
    assert_exactly(run["further"], logits)
    assert set(run) == {"here", "further", "before"}
