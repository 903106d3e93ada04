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
NAMES = [
    "01_quickstart",
    "02_logit_lens",
    "03_activation_patching",
    "04_steering",
    "05_attribution_patching",
    "06_probes",
    "07_attention_and_induction_heads",
    "08_generation_live",
    "09_sharing_a_lab_server",
    "10_writing_your_own_view",
]
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


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["04_steering"], indirect=True)
def test_a_push_turns_the_review_and_a_random_one_does_not(executed: Any) -> None:
    """From layer 3 on; after layers 0 and 1 the text stays the same, as the notebook says."""
    text = printed(outputs_of(executed))
    by_hand = re.findall(r"^([+-]0\.3) (.+)$", text, re.MULTILINE)
    down, up, noise_down, noise_up = (written for _, written in by_hand[:4])
    layers = re.findall(r"^layer \d: .*\|(.*) \|(.*)$", text, re.MULTILINE)

    assert re.search("dull|dreadful|awful", down)
    assert re.search("fantastic|enjoyed", up)
    for written in (noise_down, noise_up):
        assert not re.search("dull|dreadful|awful", written)
    assert [one == other for one, other in layers] == [True, True, False, False, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["05_attribution_patching"], indirect=True)
def test_the_estimate_is_as_good_as_the_notebook_says(executed: Any) -> None:
    text = printed(outputs_of(executed))
    found = re.findall(r"^(\w+) +correlation (\S+), estimate / effect (\S+)$", text, re.MULTILINE)
    together = {part: float(number) for part, number, _ in found}
    shares, difference = re.findall(r"shares (\S+), logit difference (\S+)", text)[0]

    assert min(together["resid"], together["mlp"]) > 0.95
    assert together["heads"] == min(together.values())
    assert together["heads"] < 0.8
    assert all(0.3 < float(slope) < 0.7 for _, _, slope in found)
    assert "worst at head 0.0" in text
    assert shares == difference


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["06_probes"], indirect=True)
def test_probes_find_what_is_there_and_controls_do_not(executed: Any) -> None:
    text = printed(outputs_of(executed))
    rows = re.findall(r"^ *(\w+): training (\S+), held out (\S+)$", text, re.MULTILINE)
    (control,) = re.findall(r"^held out (\[.*\])$", text, re.MULTILINE)

    assert [float(held) for _, _, held in rows][1:] == [1.0] * 6
    assert float(rows[0][2]) < 0.5
    assert all(float(share) < 0.5 for share in re.findall(r"[\d.]+", control))
    pushed = re.findall(r"pushed down (.*), up (.*)$", text, re.MULTILINE)
    praise = "perfect|excellent|fantastic|great"
    assert all(re.search(praise, down) and re.search(praise, up) for down, up in pushed[:2])
    assert not re.search(praise, pushed[2][0])
    assert re.search(praise, pushed[2][1])
    assert re.search(r"^ +0: logit lens .*tuned lens (?!.*Tokyo)", text, re.MULTILINE)
    assert re.search(r"^ +3: logit lens +·Tokyo .*, tuned lens +·Tokyo", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["07_attention_and_induction_heads"], indirect=True)
def test_induction_heads_read_keys_that_previous_token_heads_wrote(executed: Any) -> None:
    text = printed(outputs_of(executed))
    copies = dict(re.findall(r"^(all|without [^:\n]+): (\S+)$", text, re.MULTILINE))
    scores = {
        port: [float(score) for score in re.findall(r"\d\.\d+", listed)]
        for port, listed in re.findall(r"^(\w+) +from the bare model: (.*)$", text, re.MULTILINE)
    }

    assert (copies["all"], copies["without five others"]) == ("1.00", "1.00")
    assert copies["without induction heads"] == "0.00"
    assert copies["without previous-token heads"] == "0.00"
    assert min(scores["nothing"]) > 0.7
    assert min(scores["queries"]) > 0.7
    assert max(scores["keys"]) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["09_sharing_a_lab_server"], indirect=True)
def test_two_people_get_what_each_gets_alone(executed: Any) -> None:
    text = printed(outputs_of(executed))
    small, large = re.findall(r"five tokens: (\S+) bytes; all the logits: (\S+) bytes", text)[0]

    assert text.count("the same as alone: True") == 2
    assert float(re.findall(r"largest difference: (\S+)", text)[0]) <= 1e-5
    assert int(small.replace(",", "")) * 100 < int(large.replace(",", ""))
    assert "[cancelled]" in text
    assert "layers that had arrived: [0, 1]" in text


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["08_generation_live"], indirect=True)
def test_a_moved_slider_turns_the_review_and_a_cancelled_run_says_so(executed: Any) -> None:
    text = printed(outputs_of(executed))
    down, up = (
        re.findall(rf"^{re.escape(at)} (.+)$", text, re.MULTILINE)[0] for at in ("-0.3", "+0.3")
    )

    assert re.search("dull|dreadful|awful", down)
    assert re.search("fantastic|enjoyed|great", up)
    assert not re.search("dull|dreadful|awful", up)
    assert re.search(r"^,  +0\.70 #{7}$", text, re.MULTILINE)
    assert "it is done: True" in text
    assert "Cancelled after" in text


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["08_generation_live"], indirect=True)
def test_a_live_view_leaves_its_text(executed: Any) -> None:
    shown = [
        out.data["text/plain"] for out in outputs_of(executed) if "text/html" in out.get("data", {})
    ]
    (live,) = [text for text in shown if "length of the stream:" in text]

    assert ", a quiet boy named Daniel lived near the sea. The cat sat on the" in live
    assert "entropy:" in live


@pytest.mark.slow
@pytest.mark.parametrize("executed", ["10_writing_your_own_view"], indirect=True)
def test_a_view_of_ones_own_gives_code_of_the_same_numbers(executed: Any) -> None:
    text = printed(outputs_of(executed))
    chances = [float(found) for found in re.findall(r"p\( Mary\) = (\S+),", text)]

    assert "the same numbers: True" in text
    assert re.search(r"most along at '·and' \(\+0\.9\d\)", text)
    assert re.search(r"most against at '·to' \(-0\.\d\d\)", text)
    assert len(chances) == 3
    assert chances[0] < 0.1
    assert chances[2] > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    """Outputs are made by running; what is kept is the text and the code."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)

    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) >= 5
