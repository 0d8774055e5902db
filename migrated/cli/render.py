"""Text for people and programs: JSON documents, tables on a terminal, tab-separated lines elsewhere."""

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
}


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    import msgspec

    encoded = msgspec.json.format(msgspec.json.encode(document, enc_hook=str), indent=2)
    print(encoded.decode())


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table: drawn on a terminal, one line a row with tabs between elsewhere. The last column is coloured."""
    if sys.stdout.isatty():
        _draw(title, header, rows)
        return
    print(f"# {title}")
    for row in [header, *rows]:
        print("\t".join(str(cell) for cell in row))


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


def print_problem(text: str) -> None:
    """A line about something wrong, on standard error."""
    print(f"migrated: error: {text}", file=sys.stderr)
