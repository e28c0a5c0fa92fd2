"""Tables for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from isa.support.diagnostics import one_line


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in HTML: numbers to the right, and of a name nothing but text."""
    lines = [f"<table><caption>{_text(caption)}</caption>", _row("th", head)]
    return "".join([*lines, *(_row("td", row) for row in rows), "</table>"])


def _row(tag: str, cells: Sequence[object]) -> str:
    return f"<tr>{''.join(f'<{tag}{_style(c)}>{_text(c)}</{tag}>' for c in cells)}</tr>"


def _style(cell: object) -> str:
    return ' style="text-align:right"' if isinstance(cell, (int, float)) else ""


def _text(cell: object) -> str:
    shown = f"{cell:,}" if isinstance(cell, int) else f"{cell:g}" if isinstance(cell, float) else str(cell)
    return html.escape(one_line(shown))
