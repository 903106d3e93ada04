"""What a notebook shows of a tensor: the numbers are torch's, the picture is of its values."""

from __future__ import annotations

import base64
import struct
import time
import zlib
from typing import Any

import pytest
import torch

from nnsight_lab.jupyter.reprs import html_of
from nnsight_lab.kernels.summary import summary_of, thinned
from tests.support.html_tree import Element, parsed


@pytest.fixture
def shown(notebook: Any) -> Any:
    def show(value: Any) -> Element:
        html = html_of(value, notebook.shell)
        assert html is not None
        return parsed(html)

    return show


def pixels(page: Element) -> list[list[tuple[int, int, int]]]:
    """The colours of the heatmap, decoded by hand."""
    (image,) = page.every("img")
    data = base64.b64decode(image.attributes["src"].removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size :][:4])[0] == zlib.crc32(name + body)
        chunks[name], at = body, at + 12 + size
    wide, high = struct.unpack(">II", chunks[b"IHDR"][:8])
    assert (str(wide), str(high)) == (image.attributes["width"], image.attributes["height"])
    raw, before, rows = zlib.decompress(chunks[b"IDAT"]), bytes(wide), []
    for row in range(high):
        kind, line = raw[row * (wide + 1)], raw[row * (wide + 1) + 1 :][:wide]
        before = (
            line if kind == 0 else bytes((a + b) % 256 for a, b in zip(line, before, strict=True))
        )
        palette = chunks[b"PLTE"]
        rows.append([tuple(palette[3 * index : 3 * index + 3]) for index in before])
    return rows  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_the_numbers_are_torchs(shown: Any, dtype: torch.dtype) -> None:
    tensor = (torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    number = tensor.double() if dtype is torch.int64 else tensor.float()
    number = tensor if dtype is torch.float64 else number

    head, numbers = shown(tensor).rows()[:2]

    assert head == ["mean", "std", "min", "max", "not finite"]
    by_torch = (number.mean(), number.std(), number.min(), number.max())
    assert numbers == [*(f"{value.item():.4g}" for value in by_torch), "none"]


def test_the_values_are_the_corners_of_the_last_two_axes(shown: Any) -> None:
    tensor = torch.arange(2 * 20 * 30).reshape(2, 20, 30)

    page = shown(tensor)
    (values,) = page.every("details")
    (grid,) = values.every("pre")
    rows = [line.split() for line in grid.text.splitlines()]

    assert "[0, :, :]" in values.text
    assert rows[0] == ["0", "1", "2", "3", "…", "26", "27", "28", "29"]
    assert rows[1] == ["0", "0", "1", "2", "3", "…", "26", "27", "28", "29"]
    assert rows[-1] == ["19", "570", "571", "572", "573", "…", "596", "597", "598", "599"]
    assert len(rows) == 1 + 4 + 1 + 4


def test_what_is_not_finite_is_counted_and_left_out_of_the_numbers(shown: Any) -> None:
    nan, inf = float("nan"), float("inf")
    page = shown(torch.tensor([[1.0, nan, 3.0], [inf, -inf, 8.0]]))

    assert page.rows()[1] == ["4", "3.606", "1", "8", "1 NaN, 2 infinite"]
    found = pixels(page)
    side = len(found) // 2
    magenta = [found[side // 2][side // 2 + side * column] for column in range(3)]
    assert magenta[1] == (214, 60, 214)
    assert (214, 60, 214) not in (magenta[0], magenta[2])


def test_the_picture_is_of_the_values(shown: Any) -> None:
    found = pixels(shown(torch.tensor([[-1.0, 0.0, 1.0]])))
    side = len(found)
    red, white, blue = (found[0][side * column] for column in range(3))

    assert red[0] > 150 > red[2]
    assert blue[2] > 150 > blue[0]
    assert min(white) > 240


def test_a_whole_axis_is_in_the_picture_of_a_large_tensor(shown: Any) -> None:
    tensor = torch.zeros(1000, 4000)
    tensor[-50:] = 1
    found = pixels(shown(tensor))

    assert min(found[0][0]) > 240
    assert found[-1][-1][0] < 60


def test_a_huge_tensor_is_sampled_quickly_and_says_so(shown: Any) -> None:
    tensor = torch.randn(1, 1, 1).expand(64, 4096, 4096)  # a billion elements, one in memory
    began = time.perf_counter()
    page = shown(tensor)
    took = time.perf_counter() - began

    assert "1,073,741,824 elements" in page.text
    assert "evenly spread" in page.text
    assert page.rows()[1][0] == f"{tensor[0, 0, 0].item():.4g}"
    assert took < 5


def test_a_sample_is_spread_over_every_axis() -> None:
    few = thinned(torch.arange(6).repeat_interleave(100).reshape(6, 100), 50)

    assert few.numel() <= 50
    assert set(few.flatten().tolist()) == set(range(6))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(0, 3),
        torch.empty(3, 3, device="meta"),
        torch.tensor(3.0),
        torch.eye(3).to_sparse(),
    ],
    ids=["empty", "meta", "scalar", "sparse"],
)
def test_a_tensor_without_a_picture_is_plain_text(notebook: Any, tensor: torch.Tensor) -> None:
    bundle, _ = notebook.shell.display_formatter.format(tensor)

    assert bundle == {"text/plain": repr(tensor)}


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(3, 4) > 0.5,
        torch.randn(3, 4, dtype=torch.complex64),
        torch.randn(2, 3, requires_grad=True),
        torch.nn.Parameter(torch.randn(4)),
        torch.randn(8).to(torch.float8_e4m3fn),
        torch.full((2, 2), float("nan")),
        torch.ones(1, 1),
        torch.zeros(5, 5),
        torch.full((3,), 2**62),
        torch.randn(4, 6).t()[::2],
    ],
    ids="bool complex grad parameter float8 nan one zeros large strided".split(),
)
def test_every_kind_of_tensor_is_shown_and_its_plain_text_left_alone(
    notebook: Any, tensor: torch.Tensor
) -> None:
    bundle, _ = notebook.shell.display_formatter.format(tensor)

    assert bundle["text/plain"] == repr(tensor)
    assert str(list(tensor.shape)) in parsed(bundle["text/html"]).text


def test_showing_a_tensor_changes_nothing_of_it(notebook: Any) -> None:
    tensor = torch.randn(3, 3, requires_grad=True)
    before, version = tensor.detach().clone(), tensor._version

    html_of(tensor, notebook.shell)

    assert torch.equal(tensor, before)
    assert (tensor._version, tensor.grad, tensor.grad_fn) == (version, None, None)


def test_one_line_says_the_same() -> None:
    assert str(summary_of(torch.tensor([1.0, 3.0]))) == (
        "float32[2]  mean 2, std 1.41, min 1, max 3"
    )
    assert str(summary_of(torch.tensor(1234.5))) == "float32[]  1234"
    assert str(summary_of(torch.empty(0))) == "float32[0]"
    assert summary_of("text") is None
