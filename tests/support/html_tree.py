"""HTML read by a real parser, as a tree one can ask; HTML that does not close is an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["Element", "parsed"]

_EMPTY = {"img", "input", "br"}


@dataclass
class Element:
    """An element: its name, its attributes, and what it holds in order."""

    name: str
    attributes: dict[str, str]
    inside: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text in it, its elements' included."""
        return "".join(part if isinstance(part, str) else part.text for part in self.inside)

    def every(self, name: str = "", **attributes: str) -> list[Element]:
        """The elements in it of this name, with these attributes (`data_line` is `data-line`)."""
        wanted = {key.replace("_", "-"): value for key, value in attributes.items()}
        return [
            part
            for part in self.within()
            if name in ("", part.name) and wanted.items() <= part.attributes.items()
        ]

    def within(self) -> Iterator[Element]:
        """All elements in it, in order."""
        for part in self.inside:
            if isinstance(part, Element):
                yield part
                yield from part.within()

    def rows(self) -> list[list[str]]:
        """The texts of the cells of its table rows."""
        cells = ("td", "th")
        return [
            [cell.text for cell in row.within() if cell.name in cells] for row in self.every("tr")
        ]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice: {names}"
        found = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(found)
        if tag not in _EMPTY:
            self.open.append(found)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)


def parsed(html: str) -> Element:
    """The tree of a piece of HTML."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, f"not closed: {[each.name for each in reader.open]}"
    return reader.open[0]
