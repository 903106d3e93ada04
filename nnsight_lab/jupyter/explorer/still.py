"""What is seen of an explorer without a kernel: on GitHub, in a saved notebook, in an export."""

from __future__ import annotations

from html import escape

from nnsight_lab.jupyter.explorer.subject import Subject

__all__ = ["still"]

_MOST = 400
"""Tokens shown; a longer prompt is cut, and says so."""


def still(subject: Subject, title: str) -> tuple[str, str]:
    """The prompt with its tokens apart, as HTML and as text."""
    shown = subject.tokens[:_MOST]
    more = len(subject.tokens) - len(shown)
    chips = "".join(
        '<span style="border:1px solid #8888;border-radius:3px;padding:0 2px;margin:1px;'
        f'white-space:pre" title="{id}">{escape(_visible(token))}</span>'
        for token, id in zip(shown, subject.ids, strict=False)
    )
    rest = f" and {more} more" if more else ""
    html = (
        f'<div style="font-family:monospace;line-height:1.9"><div>{escape(title)}</div>'
        f"{chips}{rest}"
        "<div>Run the cell again to explore: lens, attention, patching and more.</div></div>"
    )
    return html, f"{title}\n{' '.join(_visible(token) for token in shown)}{rest}"


def _visible(token: str) -> str:
    return token.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")
