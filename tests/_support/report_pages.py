"""HTML pages, read for what a test asks of them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

_VOID = {"meta", "link", "img", "input", "br", "hr", "wbr"}
_ASCII = str.maketrans({"\N{EN DASH}": "?", "\N{MINUS SIGN}": "-", "\N{MULTIPLICATION SIGN}": "x"})


class Page(HTMLParser):
    """Fails on tags that do not nest.

    Attributes:
        tags: with their attributes, in order.
        tables: the columns of each row, of each table.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[int]] = []
        self.script = self.style = ""
        self._open: list[str] = []
        self._texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    @property
    def text(self) -> str:
        """What is read, in _ASCII where a sign could be taken for another."""
        return re.sub(r"\s+", " ", " ".join(self._texts)).translate(_ASCII)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def values(self, *names: str) -> list[str]:
        return [found for _, tag in self.tags for name in names if (found := tag.get(name))]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append(0)
        if tag in ("td", "th"):
            self.tables[-1][-1] += int(attributes.get("colspan") or 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self.script += data
        elif self._open[-1:] == ["style"]:
            self.style += data
        else:
            self._texts.append(data)
