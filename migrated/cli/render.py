"""Text for people and programs: JSON documents, tables on a terminal, tab-separated lines elsewhere."""

import os
import sys
from collections.abc import Sequence
from typing import Any

_STYLES = {
    "applied": "green",
    "pending": "yellow",
    "late": "yellow",
    "draft": "dim",
    "changed": "bold red",
    "missing": "bold red",
    "stopped": "bold red",
}


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    import msgspec

    encoded = msgspec.json.format(msgspec.json.encode(_writable(document), enc_hook=str), indent=2)
    print(encoded.decode())


def _writable(document: Any) -> Any:
    """The same without what no JSON holds: file names that are not UTF-8."""
    if isinstance(document, dict):
        return {key: _writable(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_writable(value) for value in document]
    return writable(document) if isinstance(document, str) else document


def writable(text: str) -> str:
    """A text that any stream takes."""
    return os.fsencode(text).decode(errors="backslashreplace") if not text.isascii() else text


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table: drawn on a terminal, one line a row with tabs between elsewhere. The last column is coloured."""
    if sys.stdout.isatty():
        _draw(title, header, rows)
        return
    print(writable(f"# {title}"))
    for row in [header, *rows]:
        print(writable("\t".join(str(cell) for cell in row)))


def _draw(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in header:
        table.add_column(name, overflow="fold", justify="right" if name == "ms" else "left")
    for row in rows:
        table.add_row(*(Text(str(cell), style=_STYLES.get(str(cell), "")) for cell in row))
    Console().print(table)


def print_problem(text: str, kind: str = "error") -> None:
    """A line about something wrong, on standard error."""
    print(writable(f"migrated: {kind}: {text}"), file=sys.stderr)
