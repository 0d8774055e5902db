"""Random SQL scripts that are valid by construction, with every kind of white space and comment in them."""

from typing import NamedTuple

from hypothesis import strategies as st
from integration.sql_statements import Author
from integration.sql_words import GROUND, Draw, Tokens

__all__ = ["GROUND", "Draw", "Script", "scripts"]

_BLANKS = [" "] * 12 + ["\n", "\r\n", "\t", "  "]
_COMMENTS = [
    *("/* ; */", "/* 'open */", "/**/", '/*\n-- DOWN\n"*/', "/* BEGIN */", " -- it's;\n", "\n-- END;\r\n"),
    *("\n--\n", " -- /* \n", "/* -- */", "\n-- ; COMMIT\n", '\n-- "\n', "/* é */", "\n-- 名\n"),
]
# Where they are text, as the manual says: in parentheses and in the body of a trigger.
_MARKERS = ["\n-- UP\n", "\n-- DOWN\n", "\n  --down \n"]
_BETWEEN = ["", " ", "\n", "\n", "\n\n", "\r\n", ";;", "\n ; ;\n", "\n-- ; 'x\n", "/* ; */", "\n/* a\n;b */\n"]
_AT_THE_END = ["", "", "\n", "\n-- the end", "/* the end */", " \r\n"]
_PUNCTUATION = set("(),=")


class Script(NamedTuple):
    """A text, where each of its statements starts and ends, and what kinds of statements they are."""

    text: str
    statements: list[tuple[int, int]]
    kinds: list[str]


class _Printer:
    """Puts tokens together, with white space and comments of every kind between them."""

    def __init__(self, author: Author) -> None:
        self._author = author
        self._commented = author.seldom()
        self.text = ""

    def between(self, choices: list[str]) -> None:
        self.text += self._author.one(choices)

    def statement(self, tokens: Tokens, *, closed: bool) -> tuple[int, int]:
        start = len(self.text)
        depth = 0
        is_trigger = "TRIGGER" in tokens and tokens[0] == "CREATE"
        for before, token in zip(["", *tokens], tokens, strict=False):
            if before:
                self.text += self._separator(before, token, inside=depth > 0 or is_trigger)
            depth += (token == "(") - (token == ")")  # noqa: S105 - of SQL
            self.text += token
        if closed:
            # SQLite itself takes a comment there for a part of the new column.
            choices = [""] if "ADD" in tokens else ["", "", "\n", "/* ; */", " -- ;\n"]
            self.text += self._author.one(choices) + ";"
        return start, len(self.text)

    def _separator(self, before: str, after: str, *, inside: bool) -> str:
        if not self._commented:
            return "" if before in _PUNCTUATION or after in _PUNCTUATION or "." in {before, after} else " "
        choices = _BLANKS + _COMMENTS + (_MARKERS if inside else [])
        if before in _PUNCTUATION or after in _PUNCTUATION:
            choices = ["", *choices]
        return str(self._author.one(choices))


@st.composite
def scripts(draw: Draw, most: int = 10) -> Script:
    """One to `most` statements that SQLite runs without an error on a database made by `GROUND`."""
    author = Author(draw)
    printer = _Printer(author)
    found: list[tuple[int, int]] = []
    kinds: list[str] = []
    count = author.number(1, most)
    printer.between(_BETWEEN)
    for number in range(count):
        kind, tokens = author.statement()
        is_last = number == count - 1
        closed = not is_last or "ADD" in tokens or author.often()
        found.append(printer.statement(tokens, closed=closed))
        kinds.append(kind)
        printer.between(_BETWEEN if closed else _AT_THE_END)
        if not closed:
            found[-1] = found[-1][0], len(printer.text)
    return Script(printer.text, found, kinds)
