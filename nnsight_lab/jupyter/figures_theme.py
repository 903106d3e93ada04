"""How our Plotly figures look on a light and on a dark page: clear paper, words and lines that read on both.

No grey has a contrast of 4.5 on white and on JupyterLab's dark `#111`; the best has 4.35 on both, and
`WORDS` is that. In JupyterLab a rule of our style sheet (`labextension/style/base.css`) finds the words by
this very colour and gives them the theme's.
"""

from __future__ import annotations

import plotly.graph_objects as go

from nnsight_lab.jupyter.static_plots import COLOURS

__all__ = ["THEME", "WORDS"]

WORDS = "rgb(121, 121, 122)"
"""The colour of words; the style sheet has it, too."""

_CLEAR = "rgba(0, 0, 0, 0)"
_LINES = "rgba(128, 128, 128, 0.3)"
_AXIS = {
    "gridcolor": _LINES, "zerolinecolor": _LINES, "linecolor": _LINES, "automargin": True, "ticks": "",
    "title": {"standoff": 15},
}  # fmt: skip
_BAR = {"outlinewidth": 0, "ticks": ""}

THEME = go.layout.Template(
    layout={
        "paper_bgcolor": _CLEAR, "plot_bgcolor": _CLEAR, "font": {"color": WORDS},
        "title": {"x": 0.05}, "colorway": list(COLOURS), "xaxis": _AXIS, "yaxis": _AXIS,
        "coloraxis": {"colorbar": _BAR},
    },
    data={"heatmap": [{"colorbar": _BAR}]},
)  # fmt: skip
"""The template of every figure of ours."""
