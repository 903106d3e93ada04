"""Laws of the demo: one last line that tells the truth, and the executed notebook to look at."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import nbformat
import pytest

from nnsight_lab.cli import demo, notebooks
from nnsight_lab.errors import ServerError


def notebook(*cells: tuple[str, str]) -> Any:
    """A notebook of code cells, each a tag and its source."""
    book = nbformat.v4.new_notebook()
    for tag, source in cells:
        cell = nbformat.v4.new_code_cell(source)
        cell.metadata["tags"] = [tag] if tag else []
        book.cells.append(cell)
    return book


def printed(tag: str, *lines: str) -> Any:
    book = notebook((tag, ""))
    text = "".join(f"{line}\n" for line in lines)
    book.cells[0].outputs.append(nbformat.v4.new_output("stream", name="stdout", text=text))
    return book


@pytest.mark.parametrize(
    ("lines", "largest"),
    [
        (["largest difference: 1.2e-07"], 1.2e-07),
        (["other words", "largest difference: 0"], 0.0),
        (["largest difference: 1e-9", "largest difference: 2e-9"], 2e-9),
    ],
)
def test_the_number_is_what_the_tagged_cell_prints(lines: list[str], largest: float) -> None:
    assert demo.difference_in(printed("difference", *lines)) == largest


def test_what_is_no_number_is_not_passed_over() -> None:
    lines = ["largest difference: 1e-9", "largest difference: nan", "largest difference: 2e-9"]

    assert math.isnan(demo.difference_in(printed("difference", *lines)))


@pytest.mark.parametrize(
    "book",
    [
        printed("difference", "all is well"),
        printed("", "largest difference: 1e-9"),
        notebook(("difference", "print('largest difference: 1e-9')")),
    ],
    ids=["says nothing", "untagged", "never executed"],
)
def test_a_notebook_that_does_not_say_is_a_failure(book: Any) -> None:
    with pytest.raises(ServerError):
        demo.difference_in(book)


ASKS_THE_SERVER = """
import os, urllib.request
url = os.environ["NNSIGHT_LAB_SERVER"] + "/models"
bearer = {"Authorization": "Bearer " + os.environ["NNSIGHT_LAB_TOKEN"]}
assert b"tiny" in urllib.request.urlopen(urllib.request.Request(url, headers=bearer)).read()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("difference", "then", "last_line"),
    [
        (
            "1.2e-07",
            "",
            "demo: ok, largest difference between the local and the remote run: 1.2e-07",
        ),
        ("1.2e-04", "", "demo: failed"),
        ("nan", "", "demo: failed"),
        ("0.0", "1 / 0", "demo: failed"),
    ],
)
def test_the_last_line_and_the_status_agree_with_the_notebook(
    difference: str,
    then: str,
    last_line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    says = f"print('largest difference: {difference}')"
    book = notebook(("", ASKS_THE_SERVER), ("difference", says), ("", then))
    nbformat.write(book, tmp_path / notebooks.QUICKSTART)
    monkeypatch.setattr(demo, "find_notebooks", lambda: tmp_path)
    output = tmp_path / "out" / "demo.html"

    status = demo.run(argparse.Namespace(output=output))

    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(last_line)
    assert sum(line.startswith("demo:") for line in lines) == 1
    assert status == (0 if "ok" in last_line else 1)
    assert says.split("'")[1] in output.read_text(encoding="utf-8")


def test_notebooks_are_copied_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "installed"
    installed.mkdir()
    for name in (notebooks.QUICKSTART, "02_more.ipynb"):
        (installed / name).write_text("new", encoding="utf-8")
    monkeypatch.setattr(notebooks, "find_notebooks", lambda: installed)

    folder = notebooks.working_folder(tmp_path)
    (folder / notebooks.QUICKSTART).write_text("mine", encoding="utf-8")
    again = notebooks.working_folder(tmp_path)

    assert again == folder
    assert (folder / notebooks.QUICKSTART).read_text(encoding="utf-8") == "mine"
    assert (folder / "02_more.ipynb").read_text(encoding="utf-8") == "new"


def test_a_checkouts_own_notebooks_are_found(tmp_path: Path) -> None:
    """They are copied like any others, so that work in them leaves the checkout as it was."""
    own = Path(__file__).parents[2] / "notebooks"

    assert notebooks.find_notebooks() == own
    assert notebooks.working_folder(tmp_path) != own
