"""Laws of the way from the workers to the server: all arrives, in order, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

pytest.importorskip("zmq")

from nnsight_lab.errors import NotSupported, OpFailed
from nnsight_lab.executors.remote_values import from_wire
from nnsight_lab_server.vllm.channel import Here, Receiver, Sender, Sends, sender_to
from nnsight_lab_server.vllm.messages import Done, Failed, Message, Saved, Submit, Token

WAIT_S = 30.0


class Heard:
    """The messages that have arrived."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._there = threading.Condition()

    def __call__(self, message: Message) -> None:
        with self._there:
            self.messages.append(message)
            self._there.notify_all()

    def wait(self, count: int) -> list[Message]:
        with self._there:
            assert self._there.wait_for(lambda: len(self.messages) >= count, WAIT_S), self.messages
        return self.messages


@contextmanager
def both_ends(way: str) -> Iterator[tuple[Sends, Heard]]:
    heard = Heard()
    there: Receiver | Here = Receiver(heard) if way == "socket" else Here(heard)
    sender = sender_to(there.address)
    try:
        yield sender, heard
    finally:
        sender.close()
        there.close()


@pytest.fixture(params=["socket", "here"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Sends, Heard]]:
    with both_ends(request.param) as ends:
        yield ends


def test_messages_arrive_as_they_were_sent(ends: tuple[Sends, Heard]) -> None:
    sender, heard = ends
    error = OpFailed("torch.matmul: sizes do not fit", hint="Look at the shapes.", node=7)
    error.inside = (0, 2)
    sent: list[Message] = [
        Token("a", 3, (5, 0, 17)),
        Submit("a", 1, ((0, 0, (1, 2, 3)), (1, 2, (4,)))),
        Done("a", 4, ended=True),
        Failed("b", error),
    ]
    for message in sent:
        sender.send(message)

    heard.wait(4)

    assert heard.messages[:3] == sent[:3]
    failed = heard.messages[3]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, OpFailed)
    assert (failed.run, failed.error.node, failed.error.inside) == ("b", 7, (0, 2))
    assert failed.error.to_plain() == error.to_plain()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (200, 1_000)])
def test_tensors_keep_their_bits(
    ends: tuple[Sends, Heard], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    sender, heard = ends
    tensor = (torch.randn(shape) * 3).to(dtype)
    if tensor.dim() == 2:
        tensor = tensor.T  # not row by row in memory
    sender.send(Saved("a", "h", {"x": (tensor, [1, None]), "y": float("inf")}))

    (saved,) = heard.wait(1)

    assert isinstance(saved, Saved)
    value = from_wire(saved.value)
    assert torch.equal(value["x"][0], tensor)
    assert value["x"][0].dtype is dtype
    assert value["x"][1] == [1, None]
    assert value["y"] == float("inf")


def test_order_is_kept_whatever_the_sizes() -> None:
    with both_ends("socket") as (sender, heard):
        for step in range(40):
            sender.send(Saved("a", str(step), torch.full((100_000 if step % 3 else 2,), step)))
            sender.send(Token("a", step, (step,)))
        heard.wait(80)

    kinds = [message.name if isinstance(message, Saved) else "" for message in heard.messages]
    assert kinds[::2] == [str(step) for step in range(40)]
    assert [m.step for m in heard.messages if isinstance(m, Token)] == list(range(40))


def test_what_is_sent_together_is_heard_at_the_end_in_order() -> None:
    heard = Heard()
    here = Here(heard)
    sent: list[Message] = [Token("a", 0, (1,)), Token("b", 0, (2,)), Done("a", 1, ended=False)]
    with pytest.raises(ZeroDivisionError), here.together():
        for message in sent:
            here.send(message)
        assert heard.messages == []
        raise ZeroDivisionError  # an engine that dies has said what it said

    assert heard.messages == sent
    here.send(sent[0])
    assert heard.messages == [*sent, sent[0]]
    here.close()


def test_large_tensors_go_through_files_that_are_gone_when_read() -> None:
    heard = Heard()
    receiver = Receiver(heard)
    sender = sender_to(receiver.address)
    try:
        sender.send(Saved("a", "big", torch.arange(200_000)))
        heard.wait(1)
        seen = [path.name for path in receiver.folder.iterdir()]
    finally:
        sender.close()
        receiver.close()

    assert seen == ["socket"]
    assert not receiver.folder.exists()


def test_what_does_not_travel_fails_its_run_only(ends: tuple[Sends, Heard]) -> None:
    sender, heard = ends
    sender.send(Saved("bad", "sparse", torch.eye(3).to_sparse()))
    sender.send(Saved("bad", "object", object()))
    sender.send(Done("good", 1, False))

    first, second, last = heard.wait(3)

    assert isinstance(first, Failed)
    assert isinstance(first.error, NotSupported)
    assert first.run == "bad"
    assert isinstance(second, Failed)
    assert last == Done("good", 1, False)


def test_a_value_that_finds_no_room_fails_its_run_and_leaves_nothing() -> None:
    with both_ends("socket") as (sender, heard):
        assert isinstance(sender, Sender)
        sender._folder = Path("/dev/full/none")
        sender.send(Saved("bad", "large", torch.zeros(1_000_000)))
        sender.send(Done("good", 1, False))
        first, last = heard.wait(2)

    assert isinstance(first, Failed)
    assert first.run == "bad"
    assert last == Done("good", 1, False)


def test_what_a_dead_server_left_is_removed_by_the_next(tmp_path: Path) -> None:
    program = (
        "import os\n"
        "from nnsight_lab_server.vllm.channel import Receiver\n"
        "r = Receiver(print)\n"
        "(r.folder / 'left').write_bytes(b'x')\n"
        "print(r.folder, flush=True)\n"
        "os._exit(1)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    left = Path(ran.stdout.strip())
    was_there = left.is_dir()

    receiver = Receiver(print)
    gone = not left.exists()
    mode = receiver.folder.stat().st_mode & 0o777
    receiver.close()

    assert was_there
    assert gone
    assert mode == 0o700


def test_a_folder_in_use_stays_whatever_its_name_says() -> None:
    """Its number may be of no process here: the server runs in a container that shares memory."""
    first = Receiver(print)
    moved = first.folder.with_name(first.folder.name.replace(f"{os.getpid()}-", "4194999-"))
    first.folder = first.folder.rename(moved)
    second = Receiver(print)
    kept = moved.is_dir()
    second.close()
    first.close()

    assert kept
    assert not moved.exists()
