"""How the documentation is built: Sphinx, Markdown by MyST, the furo theme. No network needed.

`make docs` treats every warning as an error and checks every reference.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "nnsight_lab"
author = "nnsight_lab developers"
copyright = f"2026, {author}"
release = version = _PROJECT["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
# `changes/` holds fragments for the next CHANGELOG entry, not pages.
exclude_patterns = ["_build", "changes"]

myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3

# In docstrings, `single` quotes mean code.
default_role = "code"

nitpicky = True
nitpick_ignore_regex = [
    # Names of other projects: their documentation is theirs, and a build needs no network.
    (r"py:.*", r"(torch|numpy|plotly|collections|contextlib|pathlib|types|typing)\..*"),
    (r"py:.*", r"tuple\[.*"),
    (r"py:.*", r"(Tensor|Any|Path|TypeAlias)"),
    # Rooms of ours that are no part of the public surface; a signature may still show them.
    (r"py:.*", r"nnsight_lab\.(executors|tracing|kernels|runtime|wire|ir\.(codec|literals))\..*"),
    (r"py:.*", r"nnsight_lab\.ir\.nodes\.SliderRange"),
    (r"py:.*", r"(SourceLine|Site|Spec|Arg|Inputs|NodeId|Emit|RunEvent|Reads|Writes|Modules)"),
]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "nnsight_lab"
html_copy_source = False
html_show_sphinx = False


def _plain_docstring(
    app: Any, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Our docstrings are plain text; give Sphinx the two marks it needs.

    An indented paragraph is an example, and what `Raises:` lists are classes of ours.
    """
    raw = (getattr(obj, "__doc__", None) or "").splitlines()
    if len(raw) > 2 and not raw[-1].strip():
        # The closing quotes tell the margin, also where all that follows the title is an example.
        lines[:] = [raw[0].strip(), *(line[len(raw[-1]) :] for line in raw[1:-1])]
    marked: list[str] = []
    inside = raises = False
    for line in lines:
        before = marked[-1] if marked else ""
        if line.strip() == "Raises:":
            raises, inside = True, False
            continue
        if raises and (found := re.match(r"\s{4}(\w+): (.*)", line)):
            marked.append(f":raises ~nnsight_lab.errors.{found[1]}: {found[2]}")
            continue
        indented = line.startswith("    ")
        if indented and not (inside or raises) and before.strip():
            marked.append(line.strip())  # a line goes on
            continue
        if indented and not (inside or raises):
            marked += [".. code-block:: " + ("text" if what == "module" else "python"), ""]
        if line.strip():
            inside = indented
        marked.append(line)
    lines[:] = [*marked, ""]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _plain_docstring)
