"""`wrap` traces any torch module by its own module paths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab.errors import AddressNotFound
from nnsight_lab.ir import Address, Graph, Output, Read, Write
from tests.support.lines import assert_at
from tests.support.tensors import assert_differs, assert_exactly, assert_same

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(7))


def test_a_stack_of_layers_is_indexed_read_and_edited() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    net = nl.wrap(module)
    with net.trace(X):
        hidden = net[1].output.save()
        net[1].output[:, 3] = 5.0
        out = net.output.save()
        given = net.input.save()

    plain = module[1](module[0](X)).detach()
    by_hand = plain.clone()
    by_hand[:, 3] = 5.0
    assert_exactly(given, X)
    assert_exactly(hidden, plain)
    assert_exactly(out, module[2](by_hand).detach())
    assert_differs(out, module(X).detach())


class Nested(nn.Module):
    """Returns a dict of a tensor, a tuple, and a list with something that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, *, query: torch.Tensor, scale: float = 1.0) -> dict[str, Any]:
        y = self.lin(query) * scale
        return {"y": y, "more": (y + 1, [y + 2, None])}


def test_dict_and_tuple_outputs_are_read_and_edited_by_item() -> None:
    """Also with a forward that takes nothing by position, and plain keyword values."""
    module = Nested()
    net = nl.wrap(module)
    with net.trace(query=X, scale=2.0):
        out = net.output
        names = list(out), list(out.keys()), len(out), "y" in out
        out["y"][0] = 0.0
        out.more[1][0].mul_(0.0)
        whole = out.save()
        given = net.input.save()
        beside = out["more"][0].save()

    plain = module(query=X, scale=2.0)
    assert names == (["y", "more"], ["y", "more"], 2, True)
    assert_exactly(given, X)
    assert whole["y"][0].abs().max() == 0
    assert_exactly(whole["y"][1:], plain["y"][1:].detach())
    assert whole["more"][1][0].abs().max() == 0
    assert whole["more"][1][1] is None
    assert_exactly(beside, plain["more"][0].detach())


class Choice(nn.Module):
    """Which part runs depends on which keyword is given."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Any = None, y: Any = None, times: int = 1) -> torch.Tensor:
        for _ in range(times):
            x = self.one(x) if x is not None else None
        out: torch.Tensor = self.two(y) if x is None else x
        return out


def test_each_way_of_calling_a_module_has_its_own_places() -> None:
    module = Choice()
    net = nl.wrap(module)
    with net.trace(x=X):
        one = net.one.output.save()
    with net.trace(y=X):
        two = net.two.output.save()
    with pytest.raises(nl.errors.AddressNotFound), net.trace(x=X):
        net.two.output.save()
    with net.trace(X, times=3):
        last = net.output.save()
    assert_exactly(one, module.one(X).detach())
    assert_exactly(two, module.two(X).detach())
    assert_exactly(last, module(X, times=3).detach())


def test_a_module_called_twice_has_two_places() -> None:
    """`call` counts from 0; a graph may read and edit each call by itself."""
    module = Choice()
    net = nl.wrap(module)
    first, second = (Address("one", "output", call) for call in range(2))
    reads = (Read(id=0, address=first), Read(id=1, address=second))
    run = net.run(Graph(reads, (Output("a", 0), Output("b", 1))), X, times=2)
    assert_exactly(run["a"], module.one(X).detach())
    assert_exactly(run["b"], module.one(module.one(X)).detach())

    end = Read(id=2, address=Address("", "output"))
    skip = Graph((reads[0], Write(id=1, address=second, value=0), end), (Output("out", 2),))
    assert_exactly(net.run(skip, X, times=2)["out"], module.one(X).detach())
    third = Graph((Read(id=0, address=Address("one", "output", 2)),), (Output("c", 0),))
    with pytest.raises(nl.errors.AddressNotFound, match="output#2"):
        net.run(third, X, times=2)


def test_an_in_place_activation_does_not_change_what_was_saved() -> None:
    """The model writes into its own memory right after; the snapshot holds, edited or not."""
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    net = nl.wrap(module)
    plain = module[0](X).detach()
    with net.trace(X):
        before = net[0].output.save()
        net[0].output -= 1.0
        after = net[0].output.save()
        view = net[0].output[:, :2].save()
        relu = net[1].output.save()
        out = net.output.save()

    assert plain.min() < 0
    assert_exactly(before, plain)
    assert_exactly(after, plain - 1.0)
    assert_exactly(view, (plain - 1.0)[:, :2])
    assert_exactly(relu, (plain - 1.0).relu())
    assert_same(out, module[2]((plain - 1.0).relu()).detach())


def test_what_a_graph_writes_stays_its_own_when_the_model_changes_it() -> None:
    """A value saved at one place and written at another is not what the model then scribbles on."""
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(inplace=True))
    net = nl.wrap(module)
    constant = torch.full((3, 4), -2.0)
    with net.trace(X):
        early = (net[0].output * 2.0 - 5.0).save()
        net[1].output = early
        late = (early + 1.0).save()
        out = net.output.save()
    with net.trace(X):
        net[1].output = constant
        again = (net[2].output + constant).save()

    expected = module[0](X).detach() * 2.0 - 5.0
    assert_exactly(early, expected)
    assert_exactly(late, expected + 1.0)
    assert_exactly(out, expected.relu())
    assert_exactly(again, torch.full((3, 4), -2.0))
    assert_exactly(constant, torch.full((3, 4), -2.0))


def test_what_the_user_gives_is_not_changed_by_looking() -> None:
    """A module that writes into its input does so once, when it runs; measuring does not."""

    class Doubles(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mul_(2).nonzero()

    given = torch.ones(3)
    net = nl.wrap(Doubles())
    tracer = net.trace(given)
    assert given.tolist() == [1, 1, 1]
    with tracer:
        out = net.output.save()
    assert given.tolist() == [2, 2, 2]
    assert out[:, 0].tolist() == [0, 1, 2]


class DataDependent(nn.Module):
    """Cannot run on tensors without data: how many rows go on depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.lin = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(x))
        out: torch.Tensor = self.lin(x[(x[:, 0] > 0).nonzero()[:, 0]])
        return out


@pytest.mark.parametrize("kind", ["batch norm", "data dependent"])
def test_measuring_leaves_buffers_and_random_numbers_alone(kind: str) -> None:
    """In training mode too; the run itself then does what a plain call does."""
    module: nn.Module = DataDependent()
    if kind == "batch norm":
        module = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    torch.manual_seed(0)
    expected = module(X).detach()
    after = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.load_state_dict(before, strict=False)

    net = nl.wrap(module)
    torch.manual_seed(0)
    tracer = net.trace(X)
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, before[name]), f"measuring changed {name}"
    with tracer:
        out = net.output.save()
    assert_same(out, expected)
    assert module.training
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, after[name])


def test_a_data_dependent_value_is_read_though_its_size_is_unknown() -> None:
    module = DataDependent().eval()
    net = nl.wrap(module)
    with net.trace(X):
        rows = net.lin.input.save()
        first = net.lin.output[0].save()
    kept = module.norm(X)[module.norm(X)[:, 0] > 0].detach()
    assert_exactly(rows, kept)
    assert_same(first, module.lin(kept)[0].detach())


class Shadow(nn.Module):
    """Children called `input` and `output`, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.output = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.output(self.input(x))
        return y


def test_children_called_input_and_output_are_reached_by_get() -> None:
    """The port wins as an attribute; `get` gives the module."""
    module = Shadow()
    net = nl.wrap(module)
    with net.trace(X):
        given, inner = net.input.save(), net.get("input").output.save()
        net.get("input").output[:, 0] = 0.0
        whole, last = net.output.save(), net.get("output").output.save()
    by_hand = module.input(X).detach()
    assert_exactly(given, X)
    assert_exactly(inner, by_hand)
    by_hand[:, 0] = 0.0
    assert_exactly(whole, module.output(by_hand).detach())
    assert_exactly(last, whole)


def test_a_part_can_be_called_on_other_sizes() -> None:
    """A convolution takes another length, a linear map other leading axes; wrong axes do not fit."""
    conv = nl.wrap(nn.Sequential(nn.Conv1d(3, 3, 3, padding=1)))
    signal = torch.randn(2, 3, 9)
    with conv.trace(signal):
        short = conv[0](conv[0].input[:, :, :5]).save()
    assert_same(short, conv.module[0](signal[:, :, :5]).detach())

    net = nl.wrap(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6)))
    with net.trace(X):
        shape = net[1](net[0].output[0]).shape
        row = net[1](net[0].output[0]).save()
    assert tuple(shape) == (6,)
    assert_same(row, net.module[1](net.module[0](X[0])).detach())
    with pytest.raises(nl.errors.ShapeMismatch), net.trace(X):
        net[1](net[0].output[:, :5])


@pytest.mark.parametrize("bad", [3, "text", None, nn.Linear])
def test_only_modules_can_be_wrapped(bad: Any) -> None:
    with pytest.raises(nl.errors.BadInput):
        nl.wrap(bad)


def test_inputs_the_module_refuses_are_bad_input() -> None:
    net = nl.wrap(nn.Linear(4, 2))
    with pytest.raises(nl.errors.BadInput, match="cannot run"):
        net.trace(torch.ones(3, 5))
    with pytest.raises(nl.errors.BadInput, match="nothing"):
        net.trace()


def test_a_compiled_module_is_traced_as_the_module_it_is_made_of() -> None:
    plain = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    compiled: Any = torch.compile(plain)
    net = nl.wrap(compiled)
    given = torch.randn(2, 4)
    with net.trace(given):
        net[0].output[:, 0] = 3
        result = net.output.save()

    assert net.module is plain
    expected = plain[0](given).detach()
    expected[:, 0] = 3
    assert torch.equal(result, expected.relu())


class Twice(nn.Module):
    """Runs its part two times."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.shared(self.shared(x))
        return out


def test_a_run_that_there_is_not_is_refused() -> None:
    net = nl.wrap(Twice())
    with pytest.raises(AddressNotFound, match="runs 2 time") as caught, net.trace(torch.ones(1, 4)):
        assert len(net.shared.calls) == 2
        net.shared.calls[5].output.save()  # there are two
    assert_at(caught.value, "there are two")


def test_an_edit_that_the_model_writes_to_is_no_part_of_what_is_saved() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    net = nl.wrap(module)
    with net.trace(X):
        net[0].output[:, 1] = -5.0
        edited = net[0].output.save()
        out = net.output.save()
    with net.trace(X):
        net[0].output[:, 1] = -5.0
        alone = net.output.save()
    by_hand = module[0](X).detach()
    by_hand[:, 1] = -5.0
    assert_exactly(edited, by_hand)
    assert_exactly(out, module[2](by_hand.relu()).detach())
    assert_exactly(alone, out)
    assert_differs(out, module(X).detach())
