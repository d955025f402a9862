"""Tables as text with cells from outside: a name must not become a formula, markup or a terminal command."""

import csv
import io
import re
from collections.abc import Sequence

from semg.common.console import one_line

_MARKUP = re.compile(r"[\\`|]|<(?=[A-Za-z/!?])|(?<=\])\(|&(?=[#\w]+;)")  # code, cells, HTML, links, entities


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """CSV with Unix line ends. A text that a spreadsheet would evaluate (`=1+1`, `@SUM(A1)`) gets an apostrophe."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_inert(cell) for cell in row] for row in rows)
    return text.getvalue()


def _inert(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def markdown_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; the first row is its header."""
    head, *others = rows
    return ["| " + " | ".join(map(markdown_text, row)) + " |" for row in (head, ["---"] * len(head), *others)]


def markdown_text(text: str) -> str:
    """`text` so that Markdown shows it literally, on one line: it produces no HTML, link or additional column."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", one_line(text))
