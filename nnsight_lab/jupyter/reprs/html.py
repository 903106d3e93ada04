"""HTML that stays readable wherever a notebook is opened.

What survives where, and what we therefore write:

    JupyterLab, made by this kernel   everything; the small handlers run
    JupyterLab, not trusted           no handlers, no inline <svg>, no `var(…)`; `details`, images
                                      as data, tables, plain inline styles stay
    nbviewer, HTML export             everything but the theme's variables
    GitHub                            no `style` attributes and no handlers; `details`, tables and
                                      images as data stay

So the words carry the meaning: tables, lists and `details` come first, styles only please. A
picture is an `<img>` with its data in it. No `<style>`, no `<script>`, no ids that another output
could have too, nothing from the network. Every text is escaped unless it is `Markup` already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = [
    "COPY",
    "FAINT",
    "LINE",
    "MONO",
    "Markup",
    "code",
    "copied",
    "folded",
    "joined",
    "page",
    "row_style",
    "table",
    "tag",
]

LINE = "var(--jp-border-color2, rgba(128, 128, 128, 0.4))"
FAINT = "color: var(--jp-content-font-color2, #767676)"
MONO = "font-family: var(--jp-code-font-family, monospace); font-size: 12px"
_CELL = "text-align: left; padding: 2px 10px 2px 0; vertical-align: middle"


class Markup(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def _escaped(text: str) -> str:
    return text if isinstance(text, Markup) else escape(str(text))


def joined(parts: Iterable[str], between: str = "") -> Markup:
    """Several pieces as one; those that are no `Markup` are escaped."""
    return Markup(_escaped(between).join(map(_escaped, parts)))


def tag(name: str, *inside: str, **attributes: str | None) -> Markup:
    """An element. An attribute `data_line` is written `data-line`; one that is None is left out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    closing = "" if name in ("img", "input", "br") else f"{joined(inside)}</{name}>"
    return Markup(f"<{name}{said}>{closing}")


def code(text: str, style: str = "") -> Markup:
    """Text as code; notebooks do not look for formulas in it."""
    return tag("code", text, style=f"{MONO}; background: transparent; padding: 0; {style}".strip())


def folded(head: str, *inside: str, is_open: bool = False) -> Markup:
    """A part that is opened by a click, by the browser itself."""
    summary = tag("summary", head, style="cursor: pointer")
    return tag("details", summary, *inside, open="" if is_open else None)


def row_style(*, head: bool = False) -> str:
    """The style of a cell of our tables, which notebooks would align to the right."""
    return f"{_CELL}; font-weight: 600; {FAINT}" if head else _CELL


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table; a first cell of a row is its name."""
    style = row_style()
    made = [tag("tr", *(tag("td", cell, style=style) for cell in row)) for row in rows]
    names = [tag("th", name, style=row_style(head=True)) for name in head]
    top = [tag("thead", tag("tr", *names))] if head else []
    look = "border-collapse: collapse; margin: 4px 0; font-size: 12px; border: none"
    return tag("table", *top, tag("tbody", *made), style=look)


COPY = (
    "var t=event.target.closest('[data-copy]');"
    "if(t){event.preventDefault();var s=t.dataset.copy;"
    "if(navigator.clipboard&&window.isSecureContext){navigator.clipboard.writeText(s)}"
    "else{var a=document.createElement('textarea');a.value=s;document.body.appendChild(a);"
    "a.select();document.execCommand('copy');a.remove()}"
    "t.style.outline='2px solid #2e7d32';var k=t.title;t.title='copied '+s;"
    "setTimeout(function(){t.style.outline='';t.title=k},900)}"
)
"""Copies what the button that is pressed says in `data-copy`."""

_OWN_KEYS = (
    "if((event.key==='Enter'||event.key===' ')&&event.target.closest('summary,button'))"
    "event.stopPropagation()"
)
"""These keys are for what has the focus; a notebook would edit the cell, or scroll."""


def copied(shown: str, text: str) -> Markup:
    """A button that looks like its text, and copies `text` where the page has `COPY`."""
    look = (
        "cursor: copy; font: inherit; color: inherit; background: none; border: none; "
        "padding: 0; margin: 0; text-align: left; user-select: text"
    )
    title = f"{text} (click to copy)"
    return tag("button", shown, type="button", data_copy=text, title=title, style=look)


def page(kind: str, *inside: str, **handlers: str) -> Markup:
    """One whole output. kind: of what. Formulas are not looked for in it: `$` is a token, too."""
    look = "color: var(--jp-content-font-color1, inherit); font-size: 13px; line-height: 1.5"
    return tag(
        "div",
        *inside,
        class_="nnl tex2jax_ignore mathjax_ignore",
        data_nnl=kind,
        style=look,
        onkeydown=_OWN_KEYS,
        **handlers,
    )
