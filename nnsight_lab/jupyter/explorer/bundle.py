"""The explorer's JavaScript and style, as one module: no build, no network.

Each file of `js/` is a module by itself. Here they are joined in the order of what needs what, and
the imports between them go; so a name at the top of one file is no other file's (a test holds it).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from nnsight_lab.jupyter.channel import module_of

__all__ = ["PARTS", "TABS", "script", "style"]

_JS = Path(__file__).parent / "js"
PARTS = ("dom", "colours", "heatmap", "strip", "lines", "scatter", "take", "pins")
"""What the tabs share."""
TABS = ("tokens", "lens", "attention", "patching", "steering", "norms", "features")
"""The tabs that the browser can draw, each in `tab_NAME.js`."""

_IMPORT = re.compile(r"^import [^;]*? from \"\./?[^\"]*\";\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*//.*\n", re.MULTILINE)
_INDENT = re.compile(r"^[ ]+|\n(?=\n)", re.MULTILINE)


@cache
def script() -> str:
    """The whole widget, without its comments and indentation."""
    names = [*PARTS, *(f"tab_{name}" for name in TABS), "main"]
    texts = [(_JS / f"{name}.js").read_text(encoding="utf-8") for name in names]
    joined = "\n".join(_IMPORT.sub("", text) for text in texts)
    return _INDENT.sub("", _COMMENT.sub("", module_of() + "\n" + joined))


@cache
def style() -> str:
    """The style sheet."""
    return (_JS / "explorer.css").read_text(encoding="utf-8")
