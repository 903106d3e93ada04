"""The notebooks run from top to bottom, against a real server, and can be read afterwards."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = ["01_quickstart", "02_logit_lens", "03_activation_patching"]
_done: dict[str, Any] = {}


@pytest.fixture
def executed(request: pytest.FixtureRequest, server_environment: dict[str, str]) -> Any:
    """The notebook named by the test, executed once in a kernel of its own."""
    name: str = request.param
    if name not in _done:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        client = NotebookClient(notebook, timeout=240, kernel_name="python3")
        client.execute(env=server_environment)
        _done[name] = notebook
    return _done[name]


def outputs_of(notebook: Any, tag: str | None = None) -> list[Any]:
    """Every output of the code cells, or of those with a tag."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    chosen = [c for c in cells if tag is None or tag in c.metadata.get("tags", [])]
    return [output for cell in chosen for output in cell.outputs]


def printed(outputs: list[Any]) -> str:
    """What the outputs print."""
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.slow
@pytest.mark.parametrize("executed", NAMES, indirect=True)
def test_a_notebook_runs_and_only_the_marked_cell_fails(executed: Any) -> None:
    """Errors are allowed only in cells that are there to show one."""
    for cell in executed.cells:
        if cell.cell_type == "code" and "raises-exception" not in cell.metadata.get("tags", []):
            assert all(output.output_type != "error" for output in cell.outputs), cell.source


@pytest.mark.slow
@pytest.mark.parametrize("executed", NAMES, indirect=True)
def test_its_figures_are_there_without_a_kernel(executed: Any) -> None:
    """Plotly data for a notebook application, an SVG for anything else, nothing to fetch."""
    figures = [out.data for out in outputs_of(executed) if "image/svg+xml" in out.get("data", {})]

    assert figures
    for data in figures:
        assert "application/vnd.plotly.v1+json" in data
        assert "https://" not in json.dumps(data)


@pytest.mark.slow
@pytest.mark.parametrize("executed", NAMES, indirect=True)
def test_as_html_it_shows_its_pictures(executed: Any) -> None:
    """As pictures with a text for those who cannot see them."""
    html, _ = HTMLExporter().from_notebook_node(executed)

    assert re.search(r'<img alt="[^"]{10,}" src="data:image/svg\+xml', html)
    assert "cdn.plot.ly" not in html


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["01_quickstart"], indirect=True)
def test_here_and_on_the_server_the_numbers_are_the_same(executed: Any) -> None:
    text = printed(outputs_of(executed, "difference"))
    found = re.search(r"largest difference: (\S+)", text)

    assert found, text
    assert float(found.group(1)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["01_quickstart"], indirect=True)
def test_the_wrong_name_is_shown_at_its_line_with_one_frame(executed: Any) -> None:
    *_, card, error = outputs_of(executed, "raises-exception")
    shown = card.data["text/plain"]

    assert error.ename == "AddressNotFound"
    assert "h = lm.layers[2].outptu.save()" in "".join(error.traceback)
    assert "----> 2     h = lm.layers[2].outptu.save()" in shown
    assert "Did you mean 'output'?" in shown
    assert shown.count("/nnsight_lab/") <= 1


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["01_quickstart"], indirect=True)
def test_the_quickstart_says_what_it_claims(executed: Any) -> None:
    """The model recalls the fact, and the graph that came back is the one that was sent."""
    shown = "".join(o.data.get("text/plain", "") for o in outputs_of(executed) if "data" in o)

    assert "·Paris" in printed(outputs_of(executed))
    assert "('·Tokyo', True)" in shown


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["03_activation_patching"], indirect=True)
def test_the_patch_flips_the_indirect_object(executed: Any) -> None:
    text = printed(outputs_of(executed))
    clean, corrupt = map(float, re.findall(r"clean (\S+), corrupt (\S+)", text)[0])
    flips = re.findall(r"at layers \[(.*)\]", text)[0]

    assert clean > 0 > corrupt
    assert flips, "patching the last position must bring Mary back at some layer"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    """Outputs are made by running; what is kept is the text and the code."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)

    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) >= 5
